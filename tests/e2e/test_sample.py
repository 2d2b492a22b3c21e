"""spo-sample on the real engine: rewards and order, a killed and an interrupted run, several engines, selections."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import by_heart
import psutil
import pytest
import stack

from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.verdict import Question
from spo_rlhf.tasks.arithmetic import PROMPT_TEMPLATE, generate

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
REWARD = stack.ROOT / "spo_rlhf" / "tasks" / "math_reward.py"
RESPONSES, MAX_NEW_TOKENS = 200, 36


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """Six problems, and a model that knows them by heart: sampled hot, it is often wrong and goes on and on."""
    folder = tmp_path_factory.mktemp("task")
    problems = generate(seed=1, count=6, min_steps=2, max_steps=4)
    by_heart.learn(folder, problems, PROMPT_TEMPLATE)
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems), encoding="utf-8")
    return folder


def start(task: Path, output: Path, *more: str, reward: Path = REWARD) -> subprocess.Popen:
    arguments = [
        "--model",
        task / "model",
        "--data",
        task / "test.jsonl",
        "--input-key",
        "problem",
        "--label-key",
        "answer",
        "--template",
        PROMPT_TEMPLATE,
        "--reward",
        reward,
        "--samples",
        RESPONSES,
        "--max-new-tokens",
        MAX_NEW_TOKENS,
        "--temperature",
        1.5,
        "--seed",
        5,
        "--output",
        output,
        *more,
    ]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "spo_rlhf.cli.sample", *map(str, arguments)],
        cwd=stack.ROOT,
        env=stack.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, output: Path, status: int = 0) -> str:
    stdout, stderr = process.communicate(timeout=stack.LIMIT_S)
    log = (output / "sample.log").read_text(errors="replace")[-3000:] if (output / "sample.log").exists() else ""
    assert process.returncode == status, f"exit status {process.returncode}\n{stdout}\n{stderr}\n{log}"
    assert "Traceback" not in stdout + stderr
    return stdout


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wait_for_rows(process: subprocess.Popen, path: Path, count: int) -> None:
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= count):
        time.sleep(0.02)
    assert process.poll() is None, "finished before it could be stopped"


@pytest.fixture(scope="module")
def unbroken(task, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("unbroken")
    finish(start(task, output), output)
    return output


def test_every_sample_is_there_once_in_order_with_its_reward(task, unbroken):
    samples = rows(unbroken / "samples.jsonl")
    problems = {row["id"]: row for row in rows(task / "test.jsonl")[:6]}
    assert [(row["id"], row["sample"]) for row in samples] == [(i, s) for i in problems for s in range(RESPONSES)]
    for row in samples:
        problem = problems[row["id"]]
        assert row["prompt"] == PROMPT_TEMPLATE.format(problem["problem"]) and row["label"] == problem["answer"]
        assert row["truncated"] == (not row["response"].endswith("<|endoftext|>"))
        assert 1 <= row["tokens"] <= MAX_NEW_TOKENS
        is_right = grade_here(Question(problem["answer"]), row["response"].removesuffix("<|endoftext|>")).correct
        assert row["reward"] == (0 if row["truncated"] else is_right)
    assert {row["reward"] for row in samples} == {0, 1} and any(row["truncated"] for row in samples)
    assert len({row["response"] for row in samples if row["id"] == samples[0]["id"]}) > 5, (
        "every request has its own seed"
    )
    summary = json.loads((unbroken / "summary.json").read_text())
    assert summary["finished"] and summary["samples"] == summary["this_run"]["samples"] == 6 * RESPONSES
    assert summary["reward_mean"] == pytest.approx(sum(row["reward"] for row in samples) / len(samples))
    assert summary["tokens"] == sum(row["tokens"] for row in samples)
    assert summary["truncated"] == sum(row["truncated"] for row in samples)


def test_killed_and_interrupted_it_goes_on_and_ends_with_the_same_file(task, unbroken, tmp_path):
    path = tmp_path / "samples.jsonl"
    killed = start(task, tmp_path)
    wait_for_rows(killed, path, 20)
    children = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.communicate()
    psutil.wait_procs(children, timeout=30)
    kept = path.read_bytes().count(b"\n")
    with open(path, "ab") as file:
        file.write(b'{"id": 0, "label": "1')
    interrupted = start(task, tmp_path)
    wait_for_rows(interrupted, path, kept + 20)
    children = psutil.Process(interrupted.pid).children(recursive=True)
    os.kill(interrupted.pid, signal.SIGINT)
    stdout = finish(interrupted, tmp_path, status=130)
    assert "interrupted" in stdout.splitlines()[-1]
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    kept = path.read_bytes().count(b"\n")
    assert kept < 6 * RESPONSES and not (tmp_path / "summary.json").exists()
    stdout = finish(start(task, tmp_path), tmp_path)
    assert f"{kept} of them there" in stdout
    assert path.read_bytes() == (unbroken / "samples.jsonl").read_bytes()
    assert json.loads((tmp_path / "summary.json").read_text())["this_run"]["samples"] == 6 * RESPONSES - kept


def test_a_finished_folder_is_selected_from_without_sampling(task, unbroken):
    before = (unbroken / "samples.jsonl").read_bytes()
    finish(start(task, unbroken, "--select", "correct", "--per-prompt", "3"), unbroken)
    correct = rows(unbroken / "correct.jsonl")
    summary = json.loads((unbroken / "summary.json").read_text())
    assert summary["this_run"]["samples"] == 0 and summary["selected"] == len(correct) > 0
    assert all(row["reward"] == 1 and grade_here(Question(row["label"]), row["response"]).correct for row in correct)
    finish(start(task, unbroken, "--select", "pairs", "--per-prompt", "5"), unbroken)
    pairs = rows(unbroken / "pairs.jsonl")
    assert 5 <= len(pairs) <= 30 and all(row["chosen_reward"] == 1 and row["rejected_reward"] == 0 for row in pairs)
    assert (unbroken / "samples.jsonl").read_bytes() == before
    process = start(task, unbroken, "--temperature", "0.5")
    assert "another temperature" in finish(process, unbroken, status=2)


def test_two_engines_through_ray_sample_what_one_samples(task, unbroken, tmp_path):
    finish(start(task, tmp_path, "--engines", "2"), tmp_path)
    assert (tmp_path / "samples.jsonl").read_bytes() == (unbroken / "samples.jsonl").read_bytes()


def test_a_reward_that_fails_while_sampling_is_one_line(task, tmp_path):
    reward = tmp_path / "reward.py"
    # An empty response is graded before the engine starts; this one fails on the first real response.
    reward.write_text(
        "def reward_func(queries, prompts, labels):\n"
        "    if len(queries[0]) > len(prompts[0]):\n"
        "        raise KeyError('answer sheet')\n"
        "    return {'rewards': [0.0]}\n"
    )
    stdout = finish(start(task, tmp_path / "out", reward=reward), tmp_path / "out", status=2)
    assert stdout.splitlines()[-1].startswith("spo-sample: error: ") and "answer sheet" in stdout.splitlines()[-1]
