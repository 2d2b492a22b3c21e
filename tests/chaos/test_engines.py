"""Engines killed and stopped in real runs: the training is that of the unbroken run, and too many deaths end it with one line."""

import os
import signal

import pytest
import run_processes
import stack
import torch

from spo_rlhf.trainer import checkpoints

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = 120  # of about a second: an engine is back after half a minute
TWO_ENGINES = dict(
    train__colocate_all=None,
    vllm__num_engines=2,
    train__num_episodes=STEPS // 2,
    actor__lr_scheduler="constant",
    spo__engine_timeout=30,
    eval__temperature=0,
    eval__n_samples_per_prompt=1,
)
# What tells of the engines' batches and of time, not of what was sampled and trained.
NOT_OF_THE_STEP = ("timing/", "rollout/logprob_gap_", "rollout/cached_tokens", "rollout/cache_hit_rate")
OF_THE_FAULT = ("rollout/requests_resent", "rollout/engine_restarts")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=8)


def at_work(pid: int, engine: int, method: str = "rollout"):
    """The process of an engine while it has a request, or another call."""
    run_processes.wait_for(
        lambda: len(run_processes.named(pid, run_processes.ENGINE)) == 2, stack.LIMIT_S, "two engines"
    )
    process = run_processes.named(pid, run_processes.ENGINE)[engine]
    run_processes.wait_for(
        lambda: process.cmdline()[0].endswith(f".{method}"), stack.LIMIT_S, f"its {method}", poll_s=0.001
    )
    return process


def wait_until_back(process, directory, times: int) -> None:
    """Until engines have come back so often."""
    run_processes.wait_for(
        lambda: sum(" is back after " in event["text"] for event in stack.events(directory, "note")) == times,
        stack.LIMIT_S,
        "an engine that is back",
    )
    assert process.poll() is None


def core_of(pid: int, engine):
    [core] = [core for core in run_processes.named(pid, run_processes.CORE) if core.ppid() == engine.pid]
    return core


def test_a_run_whose_engines_die_and_hang_is_the_unbroken_run(task, tmp_path):
    changes = dict(TWO_ENGINES, eval__dataset=task / "test.jsonl")
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole = stack.train(stack.options(task, tmp_path / "whole", **changes), tmp_path / "whole")

    process = stack.start(stack.options(task, tmp_path / "broken", **changes))
    run_processes.kill(at_work(process.pid, 0), "an engine at work, before it ever got weights")
    wait_until_back(process, tmp_path / "broken", 1)
    loading = at_work(process.pid, 1, "load_weights")
    run_processes.kill(loading, "an engine while it takes new weights")
    wait_until_back(process, tmp_path / "broken", 2)
    core = core_of(process.pid, at_work(process.pid, 0))
    os.kill(core.pid, signal.SIGSTOP)
    print(f"injected: the core of an engine is stopped (process {core.pid})")
    broken = stack.finish(process, tmp_path / "broken")

    assert len(broken["steps"]) == len(whole["steps"]) == STEPS
    for one, two in zip(whole["steps"], broken["steps"], strict=True):
        assert one.keys() == two.keys()
        for name in one:
            if not name.startswith(NOT_OF_THE_STEP) and name not in OF_THE_FAULT:
                assert one[name] == two[name], name
        assert two["rollout/requests"] == two["rollout/answers"]
    deaths = broken["summary"]["engine_restarts"]
    print(f"survived: {deaths} deaths, {broken['summary']['requests_resent']} requests sent again, {STEPS} equal steps")
    notes = [event["text"] for event in stack.events(tmp_path / "broken", "note")]
    print(*(text for text in notes if text.startswith("engine ")), sep="\n")
    assert any(" did not take new weights: it is started again" in text for text in notes)
    assert deaths == 3 and whole["summary"]["engine_restarts"] == 0
    assert "3 times an engine died and was started again" in broken["stdout"].splitlines()[-1]
    assert whole["evals"] == broken["evals"]
    one, two = stack.weights(tmp_path / "whole" / "model"), stack.weights(tmp_path / "broken" / "model")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_engine_that_hangs_while_it_starts_again_is_started_once_more(task, tmp_path):
    process = stack.start(stack.options(task, tmp_path, spo__engine_timeout=30, train__num_episodes=STEPS))
    stack.wait_for_events(process, tmp_path, "step", 1)
    [engine] = run_processes.named(process.pid, run_processes.ENGINE)
    run_processes.kill(engine, "the only engine")

    def starting():
        return [one for one in run_processes.named(process.pid, run_processes.ENGINE) if one != engine]

    run_processes.wait_for(starting, stack.LIMIT_S, "another engine that starts", poll_s=0.01)
    [hung] = starting()
    os.kill(hung.pid, signal.SIGSTOP)
    print(f"injected: the engine that is started again is stopped while it starts (process {hung.pid})")
    wait_until_back(process, tmp_path, 1)
    assert not run_processes.alive([hung]), "it holds no memory of a GPU"
    process.send_signal(signal.SIGTERM)
    run = stack.finish(process, tmp_path, status=75)
    notes = [event["text"] for event in stack.events(tmp_path, "note")]
    print(*(text for text in notes if text.startswith("engine ")), sep="\n")
    assert sum("was not up again within" in text and text.endswith("it is started once more") for text in notes) == 1
    assert run["summary"]["engine_restarts"] == 2


def test_too_many_deaths_stop_the_run_with_one_line_and_a_checkpoint(task, tmp_path):
    process = stack.start(
        stack.options(task, tmp_path, spo__max_engine_restarts=0, spo__engine_timeout=30, train__num_episodes=50)
    )
    stack.wait_for_events(process, tmp_path, "step", 1)
    [core] = run_processes.named(process.pid, run_processes.CORE)
    run_processes.kill(core, "the core of the only engine")
    run = stack.finish(process, tmp_path, status=1)
    last = run["stdout"].splitlines()[-1]
    print(f"survived: {last}")
    assert last.startswith("spo-train: stopped: engine 0 ") and "--spo.max_engine_restarts 0" in last
    assert run["summary"]["engine_restarts"] == 1 and not run["summary"]["finished"]
    left = checkpoints.newest(tmp_path / "checkpoints")
    assert left is not None and left.step == len(run["steps"]), "no finished step is lost"
    assert f"; the checkpoint is {left.path}. --spo.resume auto goes on" in last
