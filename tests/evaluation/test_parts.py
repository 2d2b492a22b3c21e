"""Tasks, prompts, cuts and the sample log."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evaluation import contexts, prompts, tasks
from evaluation.settings import SAMPLE_KEY
from spo_rlhf.errors import UserError
from spo_rlhf.graders.extract import opens_thought
from spo_rlhf.host.files import read_jsonl
from spo_rlhf.sampling.sample_log import SampleLog
from spo_rlhf.tasks.prompts import PROMPTS
from spo_rlhf.tasks.registry import TASKS
from spo_rlhf.tasks.task import Prompt, Task

DATA_DIR = Path(os.environ.get("SPO_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA_DIR / "math500.jsonl").exists(), reason="data sets not there; set SPO_DATA_DIR"
)


@needs_data
@pytest.mark.parametrize(
    ("name", "count"), [("gsm8k", 1319), ("math500", 500), ("aime24", 30), ("amc23", 40), ("knights_knaves", 100)]
)
def test_tasks_load_from_local_files(name, count):
    loaded = tasks.load_task(name, DATA_DIR)
    assert len(loaded.problems) == count == len({problem.id for problem in loaded.problems})
    assert len(tasks.load_task(name, DATA_DIR, limit=7).problems) == 7


@needs_data
@pytest.mark.parametrize("name", ["math500", "aime24"])
def test_prompts_reproduce_the_published_hashes(name):
    prompt = prompts.choose_prompt("open-r1", None, "auto")
    questions = [prompts.question(prompt, problem.text) for problem in tasks.load_task(name, DATA_DIR).problems]
    templated = [f"<｜begin▁of▁sentence｜><｜User｜>{text}<｜Assistant｜>" for text in questions]
    assert prompts.published_match(name, questions, questions) == "questions"
    assert prompts.published_match(name, questions, templated) == "prompts without <think>"
    assert (
        prompts.published_match(name, questions, [text + "<think>\n" for text in templated]) == "prompts with <think>"
    )
    assert prompts.published_match(name, questions[1:], questions[1:]) == "none"
    assert prompts.published_match("gsm8k", questions, questions) is None


def test_any_jsonl_is_a_task(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"problem": "1+1?", "answer": 2}\n{"problem": "1<2?", "answer": true}\n{"problem": "2+2?", "answer": "4", "id": "b", "solution": "\\\\boxed{4}"}\n'
    )
    loaded = tasks.load_task(f"mine={path}", None)
    assert [(problem.id, problem.gold, problem.gold_solution) for problem in loaded.problems] == [
        ("0", "2", None),
        ("1", "True", None),
        ("b", "4", "\\boxed{4}"),
    ]


@pytest.mark.parametrize(
    ("spec", "row", "message"),
    [
        ("nothing", None, "no task 'nothing'"),
        ("mine={path}", "", "no problems found"),
        ("mine={path}", '{"problem": "x", "answer": ""}', "row 1 needs a text or a number as 'answer'"),
        ("mine={path}", '{"problem": "x", "answer": "  "}', "row 1 needs a text or a number as 'answer'"),
        ("mine={path}", '{"problem": " ", "answer": 1}', 'row 1 needs a text "problem"'),
        ("mine={path}", '{"problem": "\\u200b", "answer": 1}', 'row 1 needs a text "problem"'),
        ("mine={path}", '{"problem": "x", "answer": NaN}', "row 1 has nan as 'answer'"),
        ("mine={path}", '{"problem": "x", "answer": 1e400}', "row 1 has inf as 'answer'"),
        (
            "mine={path}",
            '{"problem": "x", "answer": 1, "answer": 2}',
            "line 1 is an object with the key 'answer' twice",
        ),
        ("mine={path}", '{"problem": "x", "answer": "NaN"}', "row 1 has 'NaN' as 'answer', which is no answer"),
        (
            "mine={path}",
            '{\n\n[1]\n{"problem": "x"}\n' * 2,
            "line 1 is not JSON .*; line 3 is not a JSON object; row 4 needs .*; line 5 .*; line 7 .*; and 1 more rows",
        ),
        ("mine={path}", '{"problem": "x"}\n' * 7, "row 5 needs a text or a number as 'answer'; and 2 more rows"),
        ("mine={path}", '{"problem": "\\ud800", "answer": 1}', "row 1 holds half of a surrogate pair"),
        ("math500", None, "no math500.jsonl"),
    ],
)
def test_wrong_tasks_are_refused(tmp_path, spec, row, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(row or "")
    with pytest.raises(UserError, match=message):
        tasks.load_task(spec.format(path=path), tmp_path)


def test_a_numeric_answer_is_the_text_of_its_row(tmp_path):
    path, written = tmp_path / "rows.jsonl", ["1.10", "1e5", "1E5", "-0", "1.0", "7", "10000000000000000000000001"]
    path.write_text("".join(f'{{"problem": "x?", "answer": {number}}}\n' for number in written))
    assert [problem.gold for problem in tasks.load_task(f"mine={path}", None).problems] == written


def test_two_tasks_of_one_name_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text('{"problem": "1+1?", "answer": 2}\n')
    with pytest.raises(UserError, match="--tasks: mine is there twice; name each once"):
        tasks.load_tasks((f"mine={tmp_path}/a", f"mine={tmp_path}/b"), None)
    pair = tasks.load_tasks((f"mine={tmp_path}/a", f"other={tmp_path}/a"), None)
    assert [task.name for task in pair] == ["mine", "other"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../../evil", "/tmp/evil", "a/b", "a.unused", "-a", "a b", "a\0", "ä", "a\n", "a" * 101]
)
def test_a_name_that_is_no_plain_file_name_is_refused(tmp_path, name):
    """Its samples would lie outside the run's folder, where those of another model may be."""
    (tmp_path / "rows").write_text('{"problem": "1+1?", "answer": 2}\n')
    with pytest.raises(UserError, match="names the file of its samples; take at most 100 letters") as refused:
        tasks.load_tasks((f"{name}={tmp_path}/rows",), None)
    assert "\n" not in str(refused.value)
    plain = ("math-500_v1.2", "a" * 100, "unused", "a.unused.b")
    assert [task.name for task in tasks.load_tasks([f"{own}={tmp_path}/rows" for own in plain], None)] == [*plain]


def test_every_task_of_the_registry_has_a_plain_name():
    from spo_rlhf.tasks.registry import TASKS

    assert all(tasks.PLAIN_NAME.fullmatch(name) for name in TASKS)


def test_few_shot_prompts_show_solved_examples_first(tmp_path):
    path = tmp_path / "shots.jsonl"
    path.write_text("".join(json.dumps({"problem": f"P{n}", "solution": f"S{n}"}) + "\n" for n in range(3)))
    text = prompts.question(PROMPTS["few-shot"], "Q {x}", prompts.load_examples(str(path), 2))
    assert text == "Problem: P0\nSolution: S0\n\nProblem: P1\nSolution: S1\n\nProblem: Q {x}\nSolution:"
    with pytest.raises(UserError, match="4 rows"):
        prompts.load_examples(str(path), 4)


def test_prompt_files_need_a_place_for_the_problem(tmp_path):
    (tmp_path / "good.txt").write_text("Solve: {problem}")
    assert prompts.question(prompts.choose_prompt(str(tmp_path / "good.txt"), None, "none"), "x") == "Solve: x"
    (tmp_path / "bad.txt").write_text("Solve it")
    for name, message in ((str(tmp_path / "bad.txt"), "must contain"), ("nowhere", "neither a preset")):
        with pytest.raises(UserError, match=message):
            prompts.choose_prompt(name, None, "auto")


def test_the_tasks_own_prompt_is_asked_unless_another_is_named():
    own = Prompt("{problem}?", chat=False)
    assert prompts.choose_prompt(None, None, "auto", own) == own
    assert prompts.choose_prompt("raw", None, "auto", own) == PROMPTS["raw"]
    assert prompts.choose_prompt(None, "Be brief.", "none", own) == Prompt("{problem}?", chat=False, system="Be brief.")


def test_a_task_without_local_files_or_public_data_asks_for_a_path(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "chess", Task("moves"))
    for data_dir, told in ((tmp_path, "names no local files"), (None, "has no public data set")):
        with pytest.raises(UserError, match=rf"{told}; give chess=PATH\.jsonl"):
            tasks.load_task("chess", data_dir)


@given(
    st.lists(st.integers(0, 255), max_size=40),
    st.lists(st.integers(1, 80), min_size=1, max_size=6, unique=True),
    st.integers(0, 30),
    st.sampled_from(["total", "response"]),
    st.booleans(),
)
@example([128, 194, 128], [2], 0, "total", False)
def test_cuts_are_prefixes_within_the_budget(ids, limits, prompt_tokens, budget, finished):
    def decode(some):
        return bytes(some).decode("utf-8", errors="replace")

    text = decode(ids)
    for cut in contexts.cut_response(ids, text, finished, prompt_tokens, sorted(limits), budget, decode):
        room = contexts.response_budget(cut.context, prompt_tokens, budget)
        assert cut.tokens == min(len(ids), room) and cut.truncated == (not finished or room < len(ids))
        whole = decode(ids[: cut.tokens])
        # The last character may have been cut in the middle of its bytes, of which there are up to three.
        assert text[: cut.chars] in (whole, *(whole[:-n] for n in (1, 2, 3) if whole.endswith("\ufffd" * n)))
        if budget == "total" and cut.tokens:
            assert prompt_tokens + cut.tokens <= cut.context


def test_curve_reaches_from_the_longest_context_down_and_holds_those_asked_for():
    grid = contexts.curve_contexts([100, 1024])
    assert (
        grid[-1] == 1024
        and 100 in grid
        and grid[0] >= contexts.CURVE_SHORTEST
        and {512, 256, 128} <= set(grid)
        and grid == sorted(grid)
    )


def test_a_thought_may_start_in_the_prompt():
    assert opens_thought("...<｜Assistant｜><think>\n") and not opens_thought("...<｜Assistant｜>")


def sample(number: int) -> dict:
    return {"id": f"p{number}", "prompt_hash": f"p{number}", "sample": 0, "context": 8, "response": "é" * number}


@pytest.mark.parametrize(
    "damage", [b'{"id": "p2", "sam', b"\x00" * 40 + b"\n", '{"response": "\u00e9'.encode()[:-1], b"\n{broken}\n", b""]
)
def test_a_damaged_end_is_cut_and_the_rest_kept(tmp_path, damage):
    path = tmp_path / "samples.jsonl"
    log = SampleLog(path, SAMPLE_KEY)
    for number in range(2):
        log.append(sample(number))
    log.close()
    with open(path, "ab") as file:
        file.write(damage)
    log = SampleLog(path, SAMPLE_KEY)
    assert list(log.rows.values()) == [sample(0), sample(1)]
    log.append(sample(2))
    log.close([("p2", 0, 8), ("p1", 0, 8), ("p0", 0, 8)])
    assert [row["id"] for row in read_jsonl(path)] == ["p2", "p1", "p0"]


def test_two_equal_runs_in_different_order_leave_the_same_file(tmp_path):
    files = []
    for name, order in (("a", (0, 1, 2)), ("b", (2, 0, 1))):
        log = SampleLog(tmp_path / name, SAMPLE_KEY)
        for number in order:
            log.append(sample(number))
        log.close([(f"p{number}", 0, 8) for number in range(3)])
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def _write_task(folder, name, rows):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("name", ["aime25", "hmmt25", "olympiadbench", "minerva"])
def test_new_test_sets_load_from_local_files_and_tell_another_shape(name, tmp_path):
    task = tasks.TASKS[name]
    _write_task(tmp_path, name, [{"problem": f"{n}?", "answer": str(n)} for n in range(task.size or 40)])
    loaded = tasks.load_task(name, tmp_path)
    assert len(loaded.problems) == (task.size or 40) and loaded.notes == ()
    assert task.samples == (16 if task.size == 30 else 1)
    _write_task(tmp_path, name, [{"problem": "1?", "answer": "1"}])
    notes = tasks.load_task(name, tmp_path).notes
    assert bool(notes) == (task.size is not None)
    assert tasks.load_task(name, tmp_path, limit=1).notes == notes, "a limit leaves nothing out here"


def test_answers_of_another_task_are_refused_and_lists_of_answers_are_one(tmp_path):
    _write_task(tmp_path, "aime25", [{"problem": "1?", "answer": "\\frac12"}])
    with pytest.raises(UserError, match="row 1 has the answer"):
        tasks.load_task("aime25", tmp_path)
    _write_task(tmp_path, "olympiadbench", [{"question": "1?", "final_answer": ["$2$", "$3$"]}])
    assert [one.gold for one in tasks.load_task("olympiadbench", tmp_path).problems] == ["$2$, $3$"]


@needs_data
def test_data_with_a_known_hash_are_told_when_a_word_differs(tmp_path):
    assert tasks.load_task("aime24", DATA_DIR).notes == tasks.load_task("math500", DATA_DIR).notes == ()
    rows = [json.loads(line) for line in (DATA_DIR / "aime24.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[0]["problem"] += " "
    _write_task(tmp_path, "aime24", rows)
    assert "differ from the data" in tasks.load_task("aime24", tmp_path).notes[0]
