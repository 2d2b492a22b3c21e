"""spo-inspect: the recorded cases through the command, and one line for every kind of bad input."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import kept_toy
import pytest

from spo_rlhf.cli import inspect
from spo_rlhf.cli.inspect import inspect_line, main

VECTORS = Path(__file__).parents[1] / "vectors"
COMMAND = [sys.executable, "-m", "spo_rlhf.cli.inspect"]
ROOT = Path(__file__).parents[2]
GOOD = {
    "mode": "chain",
    "probs": [0.95, 0.5, 0.99, 0.8],
    "mask_threshold": 0.9,
    "partition": {"type": "cutpoint", "threshold": 0.9, "interval": 1},
    "values": [0.25, 0.5],
    "reward": 1.0,
}
RESULT = {
    "boundaries": [0, 3, 4],
    "advantages": [0.25, 0.5],
    "token_advantages": [0.25, 0.25, 0.25, 0.5],
    "mask": [0, 1, 0, 1],
}


def write(path: Path, *cases: object) -> Path:
    """One case a line; a string or bytes is a line as it is."""
    with path.open("wb") as file:
        for case in cases:
            line = case if isinstance(case, (str, bytes)) else json.dumps(case)
            file.write((line.encode() if isinstance(line, str) else line) + b"\n")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_on(tmp_path: Path, *cases: object) -> list[dict]:
    source, target = write(tmp_path / "in.jsonl", *cases), tmp_path / "out.jsonl"
    assert main(["--input", str(source), "--output", str(target)]) == 0
    return read(target)


@pytest.mark.parametrize("mode", ["chain", "tree"])
def test_every_vector_through_the_command(tmp_path: Path, mode: str) -> None:
    vectors, target = VECTORS / f"{mode}.jsonl", tmp_path / "out.jsonl"
    done = subprocess.run(
        [*COMMAND, "--input", str(vectors), "--output", str(target)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    expected = [case["expected"] for case in read(vectors)]
    results = read(target)
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected):
        assert result.keys() == wanted.keys()
        for key in ("boundaries", "mask", "trained"):
            assert result.get(key) == wanted.get(key)
        for key in ("advantages", "token_advantages", "values"):
            assert result.get(key) == (wanted.get(key) and pytest.approx(wanted[key], abs=1e-9))


def test_a_tree_may_come_in_any_order_and_with_any_ids(tmp_path: Path) -> None:
    nodes = [
        {"id": "leaf", "parent": "inner", "reward": 1},
        {"id": "inner", "parent": "prompt"},
        {"id": 7, "parent": "prompt", "reward": 0},
        {"id": "other leaf", "parent": "inner", "reward": 0},
        {"id": "prompt", "parent": None},
    ]
    [result] = run_on(tmp_path, {"mode": "tree", "nodes": nodes})
    assert result["values"] == {"prompt": 0.25, "inner": 0.5, "7": 0.0, "leaf": 1.0, "other leaf": 0.0}
    assert result["advantages"] == {"inner": 0.25, "7": -0.25, "leaf": 0.5, "other leaf": -0.5}
    assert result["trained"] == ["inner", 7, "leaf", "other leaf"]


def test_standard_input_and_output() -> None:
    done = subprocess.run(
        [*COMMAND, "--input", "-", "--output", "-"], cwd=ROOT, capture_output=True, text=True, input=json.dumps(GOOD)
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == RESULT


def test_standard_output_stays_empty_on_bad_input() -> None:
    done = subprocess.run(
        [*COMMAND, "--input", "-", "--output", "-"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        input=json.dumps(GOOD) + "\n{}\n",
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "spo-inspect: error: standard input line 2: key 'mode' is missing: add it\n"


def test_bare_and_wrapped_objects_blank_lines_and_other_keys(tmp_path: Path) -> None:
    results = run_on(tmp_path, GOOD, "", {"input": GOOD, "expected": None}, {**GOOD, "id": 7})
    assert results == [RESULT] * 3


@pytest.mark.parametrize(
    ("partition", "expected"),
    [
        ({"type": "segments", "segment_count": 3}, [0, 1, 2, 4]),
        ({"type": "segments", "segment_count": 9}, [0, 1, 2, 3, 4]),
        ({"type": "subsentence"}, [0, 2, 4]),
    ],
    ids=str,
)
def test_partitions_by_number_and_by_subsentence(tmp_path: Path, partition, expected) -> None:
    values = [0.5] * (len(expected) - 1)
    case = {**GOOD, "partition": partition, "texts": ["It is 3.14", ", ", "so", "."], "values": values}
    [result] = run_on(tmp_path, case)
    assert result["boundaries"] == expected


def test_newline_partition_takes_texts(tmp_path: Path) -> None:
    case = {**GOOD, "partition": {"type": "newline"}, "texts": ["a", "b\n", "\n", "c"]}
    assert run_on(tmp_path, case)[0]["boundaries"] == [0, 2, 4]


def test_order_is_kept(tmp_path: Path) -> None:
    cases = [{**GOOD, "values": [0.0, value]} for value in (0.125, 0.5, 0.25)]
    assert [result["advantages"][0] for result in run_on(tmp_path, *cases)] == [0.125, 0.5, 0.25]


def changed(**changes: object) -> dict:
    return {**GOOD, **changes}


def without(key: str) -> dict:
    return {name: value for name, value in GOOD.items() if name != key}


def nodes(*parents: object, **changes: object) -> dict:
    """A tree with these parents, whose last node alone has a reward."""
    listed = [{"id": number, "parent": parent} for number, parent in enumerate(parents)]
    listed[-1]["reward"] = 1.0
    return {"mode": "tree", "nodes": listed, **changes}


NEWLINE = {"type": "newline"}
BAD_LINES = {
    "no nodes": ({"mode": "tree"}, "'nodes' is missing"),
    "empty tree": (nodes(None, nodes=[]), "'nodes' is not a list"),
    "node no object": (nodes(None, nodes=[1]), "'nodes' is not a list of objects"),
    "node without id": (nodes(None, nodes=[{"parent": None}]), "'id' is missing"),
    "node without parent": (nodes(None, nodes=[{"id": 1}]), "'parent' is missing"),
    "id of a wrong type": (nodes(None, nodes=[{"id": [1], "parent": None}]), "'id' of a node is [1]"),
    "id twice": (nodes(None, nodes=[{"id": 1, "parent": None}, {"id": 1, "parent": None}]), "two nodes have the id 1"),
    "two prompts": (nodes(None, None), "2 nodes have no parent"),
    "no prompt": (nodes(0, 0), "0 nodes have no parent"),
    "unknown parent": (nodes(None, 9), "node 1 has parent 9, which is no node"),
    "circle": (nodes(None, 2, 1), "round in a circle"),
    "leaf without reward": (nodes(None, 0, 0), "node 1 is a leaf without a finite reward"),
    "inner node with reward": (
        nodes(None, 0, nodes=[{"id": 0, "parent": None, "reward": 1}, {"id": 1, "parent": 0, "reward": 1}]),
        "children and a reward",
    ),
    "unknown tree advantage": (nodes(None, 0, advantage="median"), "unknown tree advantage 'median'"),
    "not JSON": ("{'mode'", "not JSON"),
    "half a line": (json.dumps(GOOD)[:30], "not JSON"),
    "not UTF-8": (b'{"mode": "\xff"}', "UTF-8"),
    "deep nesting": ("[" * 100_000, "nested"),
    "not an object": ([1], "a JSON list, not an object"),
    "wrapped nothing": ({"input": 3}, "not an object"),
    "unknown mode": (changed(mode="forest"), "unknown mode 'forest'"),
    "mode of a wrong type": (changed(mode=["chain"]), "unknown mode"),
    **{f"no {key}": (without(key), f"'{key}' is missing") for key in GOOD},
    "no response": (changed(probs=[]), "response is empty"),
    "no response, fixed": (changed(probs=[], partition={"type": "fixed", "segment_length": 2}), "tokens is 0"),
    "probs above 1": (changed(probs=[0.5, 1.5]), "1.5 at position 1"),
    "probs below 0": (changed(probs=[-0.1]), "-0.1 at position 0"),
    "probs no list": (changed(probs=0.5), "'probs' is not a list"),
    "probs of strings": (changed(probs=["0.5"]), "'probs' at position 0"),
    "probs of booleans": (changed(probs=[True]), "'probs' at position 0"),
    "NaN": (json.dumps(GOOD).replace("0.99", "NaN"), "NaN is not a number"),
    "infinite": (json.dumps(GOOD).replace("0.25", "-Infinity"), "-Infinity is not a number"),
    "overflow": (json.dumps(GOOD).replace("0.25", "1e999"), "too large"),
    "huge integer": (json.dumps(GOOD).replace("0.25", "1" + "0" * 400), "too large"),
    "null reward": (changed(reward=None), "'reward' is null"),
    "too few values": (changed(values=[0.25]), "1 'values' for 2 segments, which start at [0, 3]"),
    "too many values": (changed(values=[0.0] * 3), "3 'values' for 2 segments"),
    "mask threshold": (changed(mask_threshold=0), "'mask_threshold' is 0"),
    "unknown partition": (changed(partition={"type": "sentence", "length": 3}), "unknown partition 'sentence'"),
    "partition no object": (changed(partition="fixed"), "'partition' is not an object"),
    "partition without type": (changed(partition={"interval": 1}), "'type' is missing"),
    "no interval": (changed(partition={"type": "cutpoint", "threshold": 0.9}), "'interval' is missing"),
    "no threshold": (changed(partition={"type": "cutpoint", "interval": 1}), "'threshold' is missing"),
    "no segment count": (changed(partition={"type": "segments"}), "'segment_count' is missing"),
    "no segment length": (changed(partition={"type": "fixed"}), "'segment_length' is missing"),
    "misspelt parameter": (
        changed(partition={"type": "fixed", "segment_length": 2, "lenght": 2}),
        "unknown key 'lenght'",
    ),
    "interval of 0": (changed(partition={"type": "cutpoint", "threshold": 0.9, "interval": 0}), "interval is 0"),
    "no texts": (changed(partition=NEWLINE), "needs the text of each token"),
    "too few texts": (changed(partition=NEWLINE, texts=["a"]), "1 token texts for 4 probabilities"),
    "texts no strings": (changed(partition=NEWLINE, texts=[1, 2, 3, 4]), "'texts' is not a list of strings"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_bad_line_is_told_in_one_line_and_leaves_no_output(tmp_path, capsys, line, message) -> None:
    source, target = write(tmp_path / "in.jsonl", GOOD, line, GOOD), tmp_path / "out.jsonl"
    assert main(["--input", str(source), "--output", str(target)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"spo-inspect: error: {source} line 2: ")
    assert message in error
    assert error.count("\n") == 1 and len(error) < 400
    assert os.listdir(tmp_path) == ["in.jsonl"]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_file_is_refused(tmp_path, capsys, content) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(content)
    assert main(["--input", str(source), "--output", str(tmp_path / "out.jsonl")]) == 2
    assert "the file is empty" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_bad_input_keeps_the_previous_output(tmp_path) -> None:
    target = write(tmp_path / "out.jsonl", "previous")
    source = write(tmp_path / "in.jsonl", GOOD, "bad")
    assert main(["--input", str(source), "--output", str(target)]) == 2
    assert target.read_text() == "previous\n"


def test_output_may_replace_the_input(tmp_path) -> None:
    path = write(tmp_path / "in.jsonl", GOOD)
    assert main(["--input", str(path), "--output", str(path)]) == 0
    assert read(path) == [RESULT]


def test_output_through_a_symbolic_link_and_into_a_device(tmp_path) -> None:
    source, target = write(tmp_path / "in.jsonl", GOOD), tmp_path / "out.jsonl"
    link = tmp_path / "link.jsonl"
    link.symlink_to(target)
    assert main(["--input", str(source), "--output", str(link)]) == 0
    assert link.is_symlink() and read(target) == [RESULT]
    assert main(["--input", str(source), "--output", os.devnull]) == 0
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("option", ["--input", "--output"])
def test_file_that_cannot_be_opened_is_named(tmp_path, capsys, option) -> None:
    paths = {"--input": str(write(tmp_path / "in.jsonl", GOOD)), "--output": str(tmp_path / "out.jsonl")}
    paths[option] = str(tmp_path / "missing" / "x.jsonl")
    assert main([part for pair in paths.items() for part in pair]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path / "missing") in error and "No such file" in error


def test_wrong_usage_is_one_line_and_exits_2(capsys) -> None:
    assert main(["--input", "x"]) == 2
    required = "the following arguments are required: --output"
    assert capsys.readouterr() == ("", f"spo-inspect: error: {required}; see spo-inspect --help\n")


def test_the_example_of_the_help_text_is_true(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    found = [json.JSONDecoder().raw_decode("{" + part)[0] for part in shown.split("\n  {")[1:]]
    assert run_on(tmp_path, *found[:2]) == found[2:]


def test_long_files_report_progress(monkeypatch) -> None:
    monkeypatch.setattr(inspect, "PROGRESS_SECONDS", -1.0)
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    inspect.inspect_stream(io.BytesIO(b"\n".join([json.dumps(GOOD).encode()] * 2)), "x", io.StringIO())
    assert stderr.getvalue() == "spo-inspect: 1 responses done\nspo-inspect: 2 responses done\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    pipeline = " ".join([*COMMAND, "--input", str(VECTORS / "chain.jsonl"), "--output", "-", "| true"])
    done = subprocess.run(pipeline, cwd=ROOT, shell=True, capture_output=True, text=True)
    assert done.stderr == ""


SHRUNK_NODES = [
    {"id": 0, "parent": None},
    *({"id": n, "parent": 0, "reward": reward} for n, reward in ((1, 1.0), (2, 0.0), (3, 0.0))),
]


def test_a_shrunk_tree_is_told_its_shape_and_what_was_known():
    case = {"mode": "tree", "advantage": "shrunk", "branching": [3], "nodes": SHRUNK_NODES}
    plain = inspect_line(json.dumps({**case, "advantage": "loo"}).encode())
    assert inspect_line(json.dumps(case).encode()) == plain
    known = inspect_line(json.dumps({**case, "prior": {"mean": 0.25, "count": 2}}).encode())
    assert known["advantages"]["1"] == pytest.approx(1 - (2 * 0.25) / 4)
    for wrong, says in (
        ({"branching": []}, "'branching' is"),
        ({"branching": [3.5]}, "'branching' is"),
        ({"prior": 1}, "'prior' is no object"),
        ({"prior": {"mean": 1, "count": 0}}, "'count' of the prior is"),
        ({"advantage": "mean", "prior": {"mean": 1, "count": 1}}, "only loo, shrunk"),
        ({"settled": [0.5]}, "needs 0 numbers"),
    ):
        with pytest.raises(ValueError, match=says):
            inspect_line(json.dumps({**case, **wrong}).encode())


# ---- a run -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return kept_toy.write_run(tmp_path / "run", kept_toy.rows("chain", steps=3, prompts=2))


def test_a_run_becomes_a_page_and_its_newest_responses_text(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = run_dir / "pages" / "page.html"
    assert main([str(run_dir), "--html", str(page), "--show", "3"]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    out = capsys.readouterr().out
    assert f"{page}: open it in a browser" in out and "\x1b" not in out
    assert [line.split(",")[1].split("  ")[0] for line in out.splitlines() if line.startswith("step 3,")] == [
        f" response {number}" for number in (2, 3, 4)
    ]


def test_more_responses_than_the_last_step_has_are_of_those_before_it(run_dir: Path, capsys) -> None:
    assert main([str(run_dir), "--show", "11"]) == 0
    steps = [line[:6] for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert steps == ["step 2"] * 3 + ["step 3"] * 8


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["RUN"], "say what to do with the RUN: --html FILE or --show N"),
        (["--html", "x"], "--html and --show need a RUN"),
        ([], "the following arguments are required: --input, --output; or a RUN with --html or --show"),
        (["RUN", "--input", "x"], "--input and --output are for recorded cases"),
        (["RUN", "--show", "0"], "argument --show: 0 is less than 1"),
        (["RUN", "--show", "few"], "argument --show: 'few' is no whole number"),
        (["nowhere", "--show", "1"], "nowhere: no such run or file"),
    ],
)
def test_wrong_usage_with_a_run_is_one_line(arguments, says, run_dir: Path, capsys) -> None:
    assert main([str(run_dir) if one == "RUN" else one for one in arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert says in line
