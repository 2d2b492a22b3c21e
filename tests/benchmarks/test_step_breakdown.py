"""Step breakdown: seconds between the records, idle shares, pairs, the command; and (slow) a real run and its refusal."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import idle_watch
import pytest
import stack
import step_breakdown as benchmark
from idle_watch import idle_shares
from step_breakdown import ASYNCHRONOUS, SYNCHRONOUS, results_of, steps_of, summary, table

ROOT = Path(__file__).resolve().parents[2]


def step(time, generation, training, reward=0.5):
    metrics = {
        "timing/generation": generation,
        "timing/make_experience": 1.0,
        "timing/ppo_train": training,
        "timing/broadcast": 0.5,
        "timing/step_total": generation + training + 1.5,
        "rollout/response_tokens": 100,
        "rollout/mc_tokens": 20,
        "trained_tokens": 80.0,
        "rollout/reward_mean": reward,
    }
    return {"event": "step", "time": time, "metrics": metrics}


EVENTS = [
    {"event": "plan", "time": 100.0},
    {"event": "note", "time": 101.0},
    step(110.0, 4.0, 2.0),
    {"event": "eval", "time": 113.0, "seconds": 3.0},
    step(121.0, 3.0, 3.0),
    step(126.0, 4.0, 2.0),
]


def test_a_step_is_what_lies_between_the_records_without_evaluations():
    first, second, third = steps_of(EVENTS)
    assert first.seconds == 10 and first.phases["rest"] == pytest.approx(10 - 7.5)
    assert second.seconds == 11 - 3 and second.phases["rest"] == pytest.approx(8 - 7.5)
    assert third.seconds == 5 and third.phases["rest"] == pytest.approx(-2.5), "phases overlap"
    assert (third.start, third.end, third.tokens, third.trained_tokens) == (121.0, 126.0, 120, 80.0)
    assert steps_of([step(5.0, 1, 1)]) == [], "where it began is not known"


def test_a_summary_is_the_mean_of_its_steps():
    found = summary(steps_of(EVENTS)[1:])
    assert found["seconds"] == pytest.approx(6.5) and found["tokens_per_second"] == pytest.approx(240 / 13)
    assert sum(found["phases"].values()) == pytest.approx(found["seconds"])


def test_idle_is_a_look_at_which_next_to_nothing_was_used():
    looks = [(at / 5, 0.2, {"engine": 0.2 * (at < 15), "actor": 0.15 * (at % 5 == 0)}) for at in range(1, 21)]
    assert idle_shares(looks, 0.0, 4.0) == {"engine": pytest.approx(6 / 20), "actor": pytest.approx(16 / 20)}
    assert idle_shares(looks, 3.0, 4.0)["engine"] == 1
    assert idle_shares([], 0.0, 4.0) == {"engine": None, "actor": None}


def test_processes_are_looked_at_from_outside(monkeypatch):
    monkeypatch.setattr(idle_watch, "WORKERS", {"engine": sys.executable, "actor": sys.executable})
    monkeypatch.setattr(idle_watch, "LOOK_S", 0.05)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        watch = idle_watch.Watch(process.pid)
        watch.start()
        deadline = time.monotonic() + 60
        while len(watch.looks) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        watch.stop()
        process.communicate(b"\n")
    assert len(watch.looks) >= 3 and not watch.is_alive()
    assert all(seconds > 0 and set(spent) == {"engine", "actor"} for _, seconds, spent in watch.looks)


def a_run(way, repeat, events, idle=0.25):
    found = {"method": "group", "way": way, "repeat": repeat, "idle": {"engine": idle, "actor": None}}
    return found | summary(steps_of(events)[1:])


def test_ways_are_compared_pair_by_pair():
    slow = [EVENTS[0], EVENTS[2], step(130.0, 5, 5, reward=0.4), step(150.0, 5, 5, reward=0.4)]
    runs = [a_run(SYNCHRONOUS, number, slow) for number in (0, 1)]
    alone = results_of(runs)
    assert (
        set(alone["group"]) == {SYNCHRONOUS} and "| group | synchronous | 20.00 (20.00 to 20.00) |" in table(alone)[-1]
    )
    both = results_of([*runs, a_run(ASYNCHRONOUS, 0, EVENTS), a_run(ASYNCHRONOUS, 1, EVENTS)])["group"]
    assert both["asynchronous over synchronous"]["median"] == pytest.approx(20 / 6.5)
    assert both["reward difference"] == pytest.approx((0.1, 0))
    *_, row, _, learned = table({"group": both})
    assert "| 25% | - | 18 | 3.08 (3.08 to 3.08) |" in row
    assert learned == "group: mean reward of the same steps, asynchronous less synchronous: +10.0 % (± 0.0)"


def arguments(task, *more):
    return benchmark.build_parser().parse_args(["--task-dir", str(task), "--output", "out", *more])


def test_the_command_has_so_many_steps_and_no_evaluations(prepared):
    args = arguments(prepared["arithmetic"], "--steps", "3", "--prompts", "8", "--set", "spo.pack_trees=on")
    for method in benchmark.METHODS:
        command = benchmark.train_command(args, method, SYNCHRONOUS, Path("run"), 7)
        assert command[command.index("--data.max_samples") + 1] == "24" and "--train.async_enable" not in command
        assert not [word for word in command if word.startswith(("--eval.", "--spo.token_budget"))]
        assert (
            command[command.index("--spo.pack_trees") + 1] == "on" and command[command.index("--train.seed") + 1] == "7"
        )
        ahead = benchmark.train_command(args, method, ASYNCHRONOUS, Path("run"), 7)
        assert "--train.async_enable" in ahead and "--train.colocate_all" not in ahead


def test_wrong_usage_is_one_line(tmp_path, capsys):
    for more, message in (
        ([], "make it with spo-prepare"),
        (["--methods", "group,ppo"], "none of group, chain, tree"),
        (["--set", "spo.mode"], "give NAME=VALUE"),
    ):
        assert benchmark.main(["--task-dir", str(tmp_path), "--output", str(tmp_path / "out"), *more]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line and not (tmp_path / "out").exists()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_steps_have_phases_that_add_up(prepared, tmp_path):
    task = ["--task-dir", prepared["arithmetic"], "--output", tmp_path / "out"]
    coin = ["--set", f"reward.remote_url={stack.COIN_REWARD}"]  # an untrained model is never right
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/step_breakdown.py", "--quick", "--methods", "chain", *coin, *task],
        env={**os.environ, "TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    [one] = results["runs"]
    assert one["steps"] == 2 and sum(one["phases"].values()) == pytest.approx(one["seconds"])
    assert all(seconds >= 0 for seconds in one["phases"].values()), "nothing overlaps"
    assert 0 < one["idle"]["engine"] < 1 and 0 < one["idle"]["actor"] < 1
    assert (tmp_path / "out" / "steps.png").stat().st_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", "/tmp")
        assert benchmark.main([*map(str, task), "--quick", "--methods", "chain", "--set", "spo.mode=chains"]) == 2
