"""The real engine: every context from one pass, a killed and resumed run, several engines through Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
CONTEXTS = "70,90,160"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("tiny_model.py")), str(folder)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    return folder


def command(model_dir: Path, output: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "evaluation",
        "run",
        "--model",
        str(model_dir / "model"),
        "--tasks",
        "arithmetic",
        "--data-dir",
        str(model_dir),
        "--contexts",
        CONTEXTS,
        "--output",
        str(output),
        "--workers",
        "1",
        *more,
    ]


def evaluate(model_dir: Path, output: Path, *more: str) -> dict:
    done = subprocess.run(command(model_dir, output, *more), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| arithmetic | 160 |" in done.stdout
    return json.loads((output / "results.json").read_text())


def samples(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "samples" / "arithmetic.jsonl").read_text().splitlines()]


def test_one_pass_gives_the_grades_of_separate_runs(model_dir, tmp_path):
    greedy = ("--temperature", "0", "--no-curve")
    together = evaluate(model_dir, tmp_path / "together", *greedy)
    apart = evaluate(model_dir, tmp_path / "apart", *greedy, "--separate-contexts")
    assert together["tasks"]["arithmetic"]["contexts"] == apart["tasks"]["arithmetic"]["contexts"]
    one_pass = {row["id"]: row for row in samples(tmp_path / "together")}
    separate = samples(tmp_path / "apart")
    assert len(separate) == 3 * len(one_pass)
    for row in separate:
        key = str(row["context"])
        assert row["grades"] == {key: one_pass[row["id"]]["grades"][key]}
        assert row["response"] == one_pass[row["id"]]["response"][: row["grades"][key]["chars"]]
    scores = [together["tasks"]["arithmetic"]["contexts"][key] for key in ("70", "160")]
    assert (
        scores[0]["truncated"] > scores[1]["truncated"]
        and scores[0]["strict"]["pass@1"] < scores[1]["strict"]["pass@1"]
    )


def test_a_killed_run_resumes_to_the_results_of_an_unbroken_one(model_dir, tmp_path):
    sampled = ("--temperature", "1", "--top-p", "1", "--samples", "64", "--seed", "3")
    unbroken = evaluate(model_dir, tmp_path / "unbroken", *sampled)
    log = tmp_path / "broken" / "samples" / "arithmetic.jsonl"
    run = subprocess.Popen(
        command(model_dir, tmp_path / "broken", *sampled),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while run.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 20):
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    total = unbroken["tasks"]["arithmetic"]["contexts"]["160"]["samples"]
    kept = log.read_bytes().count(b"\n")
    assert 20 <= kept < total
    with open(log, "ab") as file:
        file.write(b'{"context": 160, "finis')
    resumed = evaluate(model_dir, tmp_path / "broken", *sampled)
    assert resumed == unbroken
    for name in ("results.json", "samples/arithmetic.jsonl"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    scores = unbroken["tasks"]["arithmetic"]["contexts"]["160"]["strict"]
    assert 0 < scores["pass@1"] < 1 and scores["pass@1"] <= scores["pass@k"]["64"]
    other = subprocess.run(
        command(model_dir, tmp_path / "broken", *sampled, "--seed", "4"), cwd=ROOT, capture_output=True, text=True
    )
    assert other.returncode == 2 and "another seed" in other.stderr


def test_two_engines_through_ray_sample_what_one_samples(model_dir, tmp_path):
    sampled = ("--temperature", "1", "--samples", "4", "--no-curve")
    one = evaluate(model_dir, tmp_path / "one", *sampled)
    two = evaluate(model_dir, tmp_path / "two", *sampled, "--data-parallel", "2")
    assert two == one and samples(tmp_path / "two") == samples(tmp_path / "one")
