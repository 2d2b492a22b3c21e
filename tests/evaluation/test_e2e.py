"""The quickstart's model on the real engine: every context from one pass, a killed run resumed, more engines, one of which dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import run_processes

from evaluation.__main__ import main
from spo_rlhf.cli import quickstart

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
# The quickstart's own limit, and two below it that cut short problems and most problems.
LONGEST = str(quickstart.TRAIN_OPTIONS["data.max_len"])
DATA_DIR = Path(os.environ.get("SPO_DATA_DIR", ROOT.parent / "shared" / "data"))
CONTEXTS = f"54,80,{LONGEST}"
# A fifth of the quickstart's warm-up: the model solves a few per cent of the held-out problems.
WARM_UP_STEPS = "80"


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """What the first half of quickstart.sh makes, by its own code, after a shorter warm-up."""
    folder = tmp_path_factory.mktemp("quickstart") / "task"
    options = [*quickstart.prepare_options(folder), "--warm-up-steps", WARM_UP_STEPS]
    assert quickstart.run(quickstart.command("prepare", options)) == 0
    return folder


def command(task: Path, output: Path, *more: str) -> list[str]:
    flags = {
        "--model": task / "model",
        "--tasks": "arithmetic",
        "--data-dir": task,
        "--contexts": CONTEXTS,
        "--output": output,
        "--workers": 1,
    }
    return [sys.executable, "-m", "evaluation", "run", *(str(part) for pair in flags.items() for part in pair), *more]


def evaluate(task: Path, output: Path, *more: str) -> dict:
    done = subprocess.run(command(task, output, *more), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"| arithmetic | {LONGEST} |" in done.stdout
    return json.loads((output / "results.json").read_text())


def evaluate_while_an_engine_dies(task: Path, output: Path, *more: str) -> dict:
    """With two engines, of which one is killed when the first responses have come."""
    log = output / "samples" / "arithmetic.jsonl"
    run = subprocess.Popen(
        command(task, output, *more, "--data-parallel", "2"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while run.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 5):
        time.sleep(0.02)
    run_processes.kill(run_processes.named(run.pid, "ray::LocalEngine.generate")[0], "an engine of an evaluation")
    _, told = run.communicate(timeout=600)
    assert run.returncode == 0, told[-3000:]
    [line] = [line for line in told.splitlines() if "it is started again" in line]
    print(f"survived: {line}")
    return json.loads((output / "results.json").read_text())


def scores(results: dict, context: str) -> dict:
    return results["tasks"]["arithmetic"]["contexts"][context]


def samples(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "samples" / "arithmetic.jsonl").read_text().splitlines()]


def same_files(first: Path, second: Path) -> bool:
    names = ("results.json", "samples/arithmetic.jsonl")
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_one_pass_gives_the_grades_of_separate_runs(task, tmp_path):
    greedy = ("--temperature", "0", "--no-curve")
    together = evaluate(task, tmp_path / "together", *greedy)
    apart = evaluate(task, tmp_path / "apart", *greedy, "--separate-contexts")
    assert together["tasks"]["arithmetic"]["contexts"] == apart["tasks"]["arithmetic"]["contexts"]
    one_pass = {row["id"]: row for row in samples(tmp_path / "together")}
    separate = samples(tmp_path / "apart")
    assert len(separate) == 3 * len(one_pass) == 3 * quickstart.HELD_OUT
    for row in separate:
        key = str(row["context"])
        assert row["grades"] == {key: one_pass[row["id"]]["grades"][key]}
        assert row["response"] == one_pass[row["id"]]["response"][: row["grades"][key]["chars"]]
    short, long = scores(together, "54"), scores(together, LONGEST)
    assert short["truncated"] > scores(together, "80")["truncated"] > long["truncated"]
    assert short["strict"]["pass@1"] < long["strict"]["pass@1"] < 1
    # The warm-up graded the same problems by the same grader, greedily, on the model in memory.
    assert abs(long["strict"]["pass@1"] - json.loads((task / "prepare.json").read_text())["accuracy"]) <= 0.02


def test_a_killed_run_goes_on_and_grows_to_what_two_engines_sample_at_once(task, tmp_path, capsys):
    sampled = ("--temperature", "0.3", "--limit", "128", "--seed", "3")
    whole = evaluate(task, tmp_path / "whole", *sampled, "--samples", "3", "--data-parallel", "2")
    strict = scores(whole, LONGEST)["strict"]
    assert 0 < strict["pass@1"] <= strict["pass@k"]["2"] <= strict["pass@k"]["3"] < 1

    broken = tmp_path / "broken"
    log = broken / "samples" / "arithmetic.jsonl"
    run = subprocess.Popen(
        command(task, broken, *sampled, "--samples", "2"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while run.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 20):
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = log.read_bytes().count(b"\n")
    with open(log, "ab") as file:
        file.write(b'{"context": 160, "finis')
    resumed = evaluate(task, broken, *sampled, "--samples", "2")
    assert 20 <= kept < scores(resumed, LONGEST)["samples"] == 2 * 128
    assert samples(broken) == [row for row in samples(tmp_path / "whole") if row["sample"] < 2]

    assert evaluate(task, broken, *sampled, "--samples", "3") == whole and same_files(broken, tmp_path / "whole")
    before = {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    assert main(command(task, broken, *sampled, "--samples", "3", "--seed", "4")[3:]) == 2
    assert "another seed" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_an_engine_that_dies_changes_nothing_of_the_results(task, tmp_path):
    sampled = ("--temperature", "0.3", "--limit", "128", "--seed", "3", "--samples", "3")
    whole = evaluate(task, tmp_path / "whole", *sampled)
    assert evaluate_while_an_engine_dies(task, tmp_path / "killed", *sampled) == whole
    assert same_files(tmp_path / "whole", tmp_path / "killed")


def test_the_context_sweep_script_on_the_real_data_sets(task, tmp_path):
    tasks = {"math500": "math500.jsonl", "aime24": "aime24.jsonl", "gsm8k": "gsm8k_test.jsonl"}
    if missing := [name for name in tasks.values() if not (DATA_DIR / name).exists()]:
        pytest.skip(f"no {', '.join(missing)} in {DATA_DIR}; set SPO_DATA_DIR")
    script = ROOT / "examples" / "scripts" / "eval_context_sweep.sh"
    environment = {**os.environ, "SMOKE": "1", "DATA_DIR": str(DATA_DIR)}
    arguments = ["bash", str(script), str(task / "model"), str(tmp_path)]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads((tmp_path / "results.json").read_text())["tasks"]
    assert {name: set(known["contexts"]) for name, known in measured.items()} == dict.fromkeys(
        tasks, {"512", "768", "1024"}
    )
    assert "Beside Table 1 of the paper" not in done.stdout, "its contexts are longer"
    assert all((tmp_path / f"report.{name}").stat().st_size for name in ("md", "html", "png", "json"))
