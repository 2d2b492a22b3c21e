"""The table of all benchmarks: rows from results as they are, and run_all.sh, which goes on past what fails."""

import importlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import overview
import pytest
import tree_training
from overview import READERS, Row, rows_of

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "benchmarks" / "results"
SCRIPT = ROOT / "benchmarks" / "run_all.sh"


def spread(value):
    return {"median": value, "min": value, "max": value}


def test_kept_results_of_each_kind_have_rows(tmp_path):
    kept = {
        "tree_training": "tree-training",
        "gradient_noise": "gradient-noise-short-24",
        "learning_curves": "learning-curves-short",
        "soak": "soak",
    }
    for name, folder in kept.items():
        (tmp_path / name).symlink_to(KEPT / folder)
    rows = rows_of(tmp_path)
    by_name = {name: [row for row in rows if row.benchmark == name] for name in kept}
    first = by_name["tree_training"][0]
    assert first.measure == "6-6-6 24/12, s" and first.over_peer == pytest.approx(3.58, abs=0.01)
    assert first.peer and first.limit and first.limit < first.ours < first.peer
    assert {row.peer for row in by_name["gradient_noise"]} == {1.0} and len(by_name["gradient_noise"]) == 5
    assert not [row for row in by_name["learning_curves"] if row.measure.startswith("grpo,")]
    assert "(3 seeds)" in by_name["learning_curves"][0].measure
    [checks] = by_name["soak"]
    assert checks.limit and checks.over_limit == checks.ours / checks.limit == 1, "all of them held"


def test_ratios_are_better_when_larger():
    speeds = {"pipeline": spread(60), "offline": spread(100), "staged": spread(40)}
    one = {"tokens_per_second": speeds, "over": {"offline": spread(0.6), "staged": spread(1.5)}}
    [row] = READERS["rollout_throughput"]({"results": {"group 8": one}})
    assert row == Row("rollout_throughput", "group 8, tokens/s", 60, 40, 100, 1.5, 0.6)
    assert row.cells()[-1] == "1.50 x peer, 0.60 of limit"
    growth = {"intervals": {"seconds": {"mean": 1.1}, "tokens": {"mean": 1.0}}}
    [row] = READERS["cost_growth"]({"results": {"prompts": growth}})
    assert (row.ours, row.limit) == (1.1, 1.0) and row.cells()[3:] == ["-", "1", "-"]


def test_a_step_is_compared_with_its_phases_and_overlap_with_the_longer_one():
    phases = {
        "timing/generation": 6,
        "timing/make_experience": 1,
        "timing/ppo_train": 2,
        "timing/broadcast": 0.5,
        "rest": 0.5,
    }
    step = {
        "seconds": spread(10),
        "tokens_per_second": spread(100),
        "phases": {n: spread(v) for n, v in phases.items()},
    }
    faster = {"tokens_per_second": spread(140)}
    results = {"chain": {"synchronous": step, "asynchronous": faster, "asynchronous over synchronous": spread(1.4)}}
    alone, overlapped = READERS["step_breakdown"]({"results": results})
    assert (alone.limit, alone.over_limit) == (9.5, 0.95)
    assert (overlapped.ours, overlapped.peer, overlapped.over_peer) == (140, 100, 1.4)
    assert overlapped.limit == pytest.approx(100 * 10 / 6.5)


def test_every_benchmark_of_the_script_has_a_reader_and_a_peer():
    [names] = [line for line in SCRIPT.read_text().splitlines() if line.startswith("NAMES=")]
    assert sorted(names[len("NAMES=(") : -1].split()) == sorted(READERS) == sorted(overview.PEERS)


def test_no_results_and_wrong_ones_are_one_line(tmp_path, capsys):
    assert overview.main([str(tmp_path)]) == 2 and "run_all.sh makes them" in capsys.readouterr().err
    (tmp_path / "soak").mkdir()
    (tmp_path / "soak" / "results.json").write_text("{}")
    assert overview.main([str(tmp_path)]) == 2 and "not the results of soak" in capsys.readouterr().err


@pytest.fixture
def python(tmp_path) -> Path:
    """A stand-in for the benchmarks, but for the table: tree_training has results, soak fails, the others leave half of theirs."""
    results = tmp_path / "results.json"
    one = {"seconds": {"packed": spread(1), "node": spread(4)}, "over_node": {**spread(4), "ideal": 5, "reached": 0.8}}
    results.write_text(json.dumps({"results": {"8 12/8": one}}))
    path = tmp_path / "python"
    path.write_text(
        f"""#!/bin/bash
case "$*" in
    *overview.py*) exec {sys.executable} "$@" ;;
    *--output*) folder="${{@: -1}}" ;;
esac
echo "$*" >> {tmp_path}/calls
case "$*" in
    *spo_rlhf.cli.prepare*) echo "no room"; exit 2 ;;
    *tree_training.py*) mkdir -p "$folder"; cp {results} "$folder" ;;
    *learning_curves.py*) mkdir -p "$folder"; echo '{{"runs": []}}' > "$folder/results.json"; echo "learning_curves: error: no"; exit 2 ;;
esac
"""
    )
    path.chmod(0o755)
    return path


def run_all(python: Path, *options: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": str(python)}
    return subprocess.run(["bash", SCRIPT, *map(str, options)], env=environment, capture_output=True, text=True)


def test_what_fails_is_named_and_the_others_go_on(python, tmp_path):
    out = tmp_path / "out"
    names = "learning_curves,cost_growth,tree_training"
    done = run_all(python, "--output", out, "--only", names)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("run_all.sh: error: failed: learning_curves task; logs in")
    assert "learning_curves: error: no" in done.stdout and "cost_growth: left out, it needs the task" in done.stdout
    assert "| tree_training | 8 12/8, s | 1 | 4 | 0.8 | 4.00 x peer, 0.80 of limit |" in done.stdout
    assert json.loads((out / "overview.json").read_text())["rows"][0]["ours"] == 1
    assert (out / "learning_curves" / "results.part.json").exists(), "half of the results are no results"
    before = (tmp_path / "calls").read_text()
    again = run_all(python, "--output", out, "--only", "tree_training")
    assert again.returncode == 0 and "tree_training: done before" in again.stdout
    assert (tmp_path / "calls").read_text() == before


def test_what_takes_longer_than_is_left_is_left_out(python, tmp_path):
    done = run_all(python, "--output", tmp_path / "out", "--minutes", 1, "--only", "tree_training,soak")
    assert done.returncode == 0 and "soak: left out" in done.stdout
    assert "left out: soak; --minutes gives more time" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "soak,nothing"], "--only nothing is none of"),
        (["--minutes", "0"], "no whole number"),
        (["--output"], "wants a value"),
        (["--fast"], "unknown option --fast"),
    ],
)
def test_wrong_usage_is_one_line(options, message, python):
    done = run_all(python, *options)
    [line] = done.stderr.splitlines()
    assert done.returncode == 2 and message in line and not (python.parent / "calls").exists()


def test_help_and_a_dry_run_start_nothing(python):
    told = run_all(python, "--help")
    assert told.returncode == 0 and "exit status" in told.stdout and "#" not in told.stdout.splitlines()[0]
    done = run_all(python, "--dry-run", "--async")
    assert done.returncode == 0 and not (python.parent / "calls").exists()
    assert len(done.stdout.splitlines()) == 1 + len(READERS) and "--async" in done.stdout


def test_commands_of_the_script_are_those_that_the_benchmarks_take(tmp_path):
    """As their parsers see them; cheaper than a run, which is `bash benchmarks/run_all.sh`."""
    done = run_all(Path(sys.executable), "--dry-run", "--async", "--output", tmp_path)
    for line in done.stdout.splitlines():
        _, program, *words = shlex.split(line)
        if program != "-m":
            module = importlib.import_module(Path(program).stem)
            assert module.build_parser().parse_args(words).output == tmp_path / Path(program).stem


def test_the_quick_form_of_one_runs_whole(tmp_path):
    assert tree_training.main(["--quick", "--output", str(tmp_path / "tree_training")]) == 0
    assert [row.benchmark for row in rows_of(tmp_path)] == ["tree_training"] * 2
