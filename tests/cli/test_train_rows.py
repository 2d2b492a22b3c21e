"""spo-train's rows: what is refused before the start, in one line that names the row. Nothing is started."""

import datetime
import json

import pytest
import stack

from spo_rlhf.cli.train import parse
from spo_rlhf.host.rows import label_text

GOOD, LONG = {"problem": "1 + 1?", "answer": "2"}, {"problem": "a" * 900, "answer": "2"}
MESSAGES = [{"role": "user", "content": "1 + 1?"}]


def lines_of(rows) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "empty"),
        ([GOOD, {"problem": "1 + 2?"}], "row 2 has no 'answer'"),
        ([GOOD, {**GOOD, "answer": None}], "row 2 has no 'answer'; set --data.label_key (the row has problem, answer)"),
        ([GOOD, {**GOOD, "answer": ""}], "row 2 has an empty 'answer'"),
        ([GOOD, {**GOOD, "answer": "\u200b\ufeff"}], "row 2 has an empty 'answer'"),
        ([GOOD, {**GOOD, "answer": "\u2800\u3164"}], "row 2 has an empty 'answer'"),
        (
            [GOOD, {**GOOD, "answer": "NaN"}],
            "row 2 has 'NaN' as 'answer', which is no answer; fill it, or drop the row",
        ),
        ([{**GOOD, "answer": ["2"]}, {**GOOD, "answer": [" "]}], "row 2 has an empty 'answer'"),
        ([{**GOOD, "answer": {"a": 2}}, {**GOOD, "answer": {}}], "row 2 has an empty 'answer'"),
        ([GOOD, {**GOOD, "more": ["x\ud800"]}], "row 2 holds half of a surrogate pair in 'more'"),
        ([GOOD, {**GOOD, "problem": " "}], "row 2 has an empty 'problem'"),
        ([GOOD, {**GOOD, "answer": float("inf")}], "row 2 has inf as 'answer'; write it as a text"),
        ([GOOD, {**GOOD, "problem": "x\ud800"}], "row 2 holds half of a surrogate pair in 'problem'"),
        ([GOOD, {**GOOD, "answer": "x\ud800"}], "row 2 holds half of a surrogate pair in 'answer'"),
        ([GOOD, '{"problem": "1?", "answer": "1", "answer": "2"}'], "line 2 is an object with the key 'answer' twice"),
        ([GOOD, {**GOOD, "problem": 7}], "row 2 has a number as 'problem'; give a text"),
        (
            [GOOD, {**GOOD, "problem": MESSAGES}],
            "row 2 has a list of chat messages as 'problem'; set --data.apply_chat",
        ),
        ([GOOD, '{"problem'], "line 2 is not JSON"),
        (["[1, 2]"], "line 1 is not a JSON object"),
        ([GOOD, GOOD, LONG], "row 3 has a prompt of 9"),
        (
            [GOOD, {**GOOD, "answer": 2}],
            "'answer' is a text in row 1 and a number in row 2; write all of them as texts",
        ),
    ],
)
def test_wrong_data_names_the_row(refused, tmp_path, rows, says):
    path = tmp_path / "data.jsonl"
    path.write_text(lines_of(rows), encoding="utf-8")
    assert says in refused(data__prompt_dataset=path)


def test_wrong_rows_are_told_together(refused, tmp_path):
    path = tmp_path / "data.jsonl"
    wrong = ["{", {**GOOD, "answer": ""}, {"problem": "1?"}, "[]", {**GOOD, "problem": MESSAGES}]
    path.write_text(lines_of([GOOD, *wrong, GOOD, LONG, LONG]), encoding="utf-8")
    told = refused(data__prompt_dataset=path).partition("data.jsonl: ")[2].split("; ")
    assert [one.partition(" ")[2][:8] for one in told if one.startswith(("row", "line"))] == [
        "2 is not", "3 has an", "4 has no", "5 is not", "6 has a "
    ]  # fmt: skip
    assert told[-1] == "and 2 more rows\n"


def test_a_key_twice_in_a_list_of_rows_is_refused(refused, tmp_path):
    path = tmp_path / "data.json"
    path.write_text('[{"problem": "1?", "answer": "1", "answer": "2"}]')
    assert "data.json: an object with the key 'answer' twice" in refused(data__prompt_dataset=path)


@pytest.mark.parametrize(("name", "row"), [("data.csv", "1 + 2?,\n"), ("data.json", '{"problem": "1 + 2?"}\n')])
def test_rows_of_other_files_are_looked_at_too(refused, tmp_path, name, row):
    path = tmp_path / name
    good = "problem,answer\n1 + 1?,2\n" if name.endswith("csv") else json.dumps(GOOD) + "\n"
    path.write_text(good + row * 8)
    assert "row 2 has no 'answer'" in refused(data__prompt_dataset=path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "data.jsonl",
            lines_of([{"problem": "1?", "answer": answer} for answer in (10**25 + 1, 10**25 + 2)]),
            "row 1 has '10000000000000000000000001' as 'answer' and it would reach the reward as '1e+25'; write it as a",
        ),
        (
            "data.json",
            json.dumps([{"problem": "1?", "answer": answer} for answer in (0.5, 2**53 + 1)]),
            "row 2 has '9007199254740993' as 'answer' and it would reach the reward as '9007199254740992.0'; write it",
        ),
        (
            "data.jsonl",
            lines_of([{"problem": "1?", "answer": "2024-01-02"}] * 8),
            "row 1 has '2024-01-02' as 'answer' and it would reach the reward as '2024-01-02 00:00:00'; give a Parquet",
        ),
        (
            "data.csv",
            "problem,answer\n1?,7\n1?,007\n",
            "row 2 has '007' as 'answer' and it would reach the reward as '7'",
        ),
        *(
            (
                "data.jsonl",
                lines_of([{"problem": "1?", "answer": answer} for answer in answers]),
                f"row 1 has {json.dumps(answers[0])!r} as 'answer' and it would reach the reward as {read!r}; write it as",
            )
            for read, answers in (
                ('["datetime.datetime(2024, 1, 2, 0, 0)"]', [["2024-01-02"]] * 4),
                ('{"a": {"b": [1.0]}}', [{"a": {"b": [1]}}, {"a": {"b": [0.5]}}]),
                ('{"a": [1e+25]}', [{"a": [10**25 + 1]}, {"a": [10**25 + 2]}]),
            )
        ),
    ],
)
def test_a_label_that_the_library_changes_is_refused(refused, tmp_path, name, content, says):
    path = tmp_path / name
    path.write_text(content)
    assert says in refused(data__prompt_dataset=path)


def test_a_number_that_the_file_writes_in_another_way_is_refused(refused, tmp_path):
    path, written = tmp_path / "data.jsonl", ["0.5", "1.10", "1e5", "2", "-0", "0.1000000000000000055"]
    path.write_text("".join(f'{{"problem": "1?", "answer": {number}}}\n' for number in written))
    told = refused(data__prompt_dataset=path)
    for row, read in enumerate(["1.1", "100000.0", "2.0", "-0.0", "0.1"], start=2):
        assert (
            f"row {row} has {written[row - 1]!r} as 'answer' and it would reach the reward as {read!r}; write" in told
        )


def test_a_changed_label_is_found_wherever_it_comes_to_lie(refused, tmp_path):
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text(lines_of([{"problem": "1?", "answer": 0.5}] * 4))
    second.write_text(lines_of([{"problem": "1?", "answer": answer} for answer in (0.5, 2**53 + 1)]))
    assert "row 6 has '9007199254740993' as 'answer'" in refused(data__prompt_dataset=f"{first},{second}")
    first.write_text(lines_of([{"problem": "1?", "answer": answer} for answer in (10**25 + 1, 10**25 + 2)]))
    told = refused(data__prompt_dataset=f"{first},{first}", data__prompt_probs="0.5,0.5")
    assert "row 1 has '1e+25' as 'answer', which no file has; write it as a text" in told


def test_a_changed_label_of_a_folder_is_found(refused, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "train.csv").write_text("problem,answer\n1?,7\n1?,007\n1?,01\n")
    assert "row 3 has '1' as 'answer', which no file has" in refused(data__prompt_dataset=folder)


def test_an_infinite_number_within_a_label_is_refused(refused, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(lines_of([{"problem": "1?", "answer": [1.5]}, '{"problem": "1?", "answer": [1e400]}']))
    assert "row 2 holds an infinite number, or none, in 'answer'" in refused(data__prompt_dataset=path)


def test_a_date_in_a_table_with_types_is_refused_as_a_label(refused, tmp_path):
    from pyarrow import Table, parquet

    path, day = tmp_path / "data.parquet", datetime.datetime(2024, 1, 2)
    parquet.write_table(Table.from_pylist([{"problem": "1?", "answer": day}] * 8), path)
    assert "row 1 has a datetime as 'answer'; write it as a text" in refused(data__prompt_dataset=path)


@pytest.mark.parametrize("answer", [21, 2.5, 1.0, True, "21", [1, 2], ["a"], {"a": [0.5]}])
def test_labels_that_are_no_texts_work(task, tmp_path, answer):
    path, checks = tmp_path / "data.jsonl", tmp_path / "reward.py"
    path.write_text(lines_of([{"problem": "1 + 1?", "answer": answer}] * 8))
    checks.write_text(
        "def reward_func(queries, prompts, labels):\n"
        f"    assert labels == [{label_text(answer)!r}], labels\n"
        "    return {'rewards': [0.0]}\n"
    )
    parse([*stack.options(task, tmp_path, data__prompt_dataset=path, reward__remote_url=checks), "--dry-run"])
