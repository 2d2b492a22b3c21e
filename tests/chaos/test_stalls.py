"""A process of a real run, without which there is no run, hangs or dies: the run ends with one line, which names it."""

import os
import signal
import time

import pytest
import run_processes
import stack

from spo_rlhf.trainer import checkpoints

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
LIMIT_S = 120  # the start of a run is within it too, on a machine with other work


def test_a_policy_that_hangs_ends_the_run_and_leaves_nothing(tmp_path):
    task = stack.make_task(tmp_path / "task", train=16, test=8)
    limits = dict(spo__stall_timeout=LIMIT_S, train__num_episodes=500, ckpt__save_steps=1)
    process = stack.start(stack.options(task, tmp_path, **limits))
    stack.wait_for_events(process, tmp_path, "step", 2)
    [policy] = run_processes.named(process.pid, "ray::SegmentPolicyActor")
    everything = run_processes.of(process.pid)
    os.kill(policy.pid, signal.SIGSTOP)
    print(f"injected: the policy is stopped (process {policy.pid})")
    began = time.monotonic()
    run = stack.finish(process, tmp_path, status=1)
    last = run["stdout"].splitlines()[-1]
    print(f"survived, after {time.monotonic() - began:.0f} s: {last}")
    assert last.startswith(f"spo-train: stopped: nothing was heard of the run for {LIMIT_S} s (--spo.stall_timeout)")
    assert checkpoints.newest(tmp_path / "checkpoints") is not None
    run_processes.wait_for(lambda: not run_processes.alive(everything), 10, "processes are left")


def test_a_policy_that_dies_ends_the_run_and_is_named(tmp_path):
    task = stack.make_task(tmp_path / "task", train=16, test=8)
    process = stack.start(stack.options(task, tmp_path, train__num_episodes=500))
    stack.wait_for_events(process, tmp_path, "step", 2)
    [policy] = run_processes.named(process.pid, "ray::SegmentPolicyActor")
    everything = run_processes.of(process.pid)
    run_processes.kill(policy, "the policy")
    began = time.monotonic()
    run = stack.finish(process, tmp_path, status=1)
    last = run["stdout"].splitlines()[-1]
    print(f"survived, after {time.monotonic() - began:.0f} s: {last}")
    assert last.startswith(f"spo-train: error: the policy (process {policy.pid}) died")
    run_processes.wait_for(lambda: not run_processes.alive(everything), 10, "processes are left")


def test_a_terminal_that_is_closed_while_ray_starts_ends_the_run_and_ray_lives_until_then(tmp_path):
    task = stack.make_task(tmp_path / "task", train=16, test=8)
    process = stack.start(stack.options(task, tmp_path))

    def of_ray():
        return [one for one in run_processes.of(process.pid) if one.name() in ("gcs_server", "raylet")]

    run_processes.wait_for(of_ray, stack.LIMIT_S, "a Ray that starts", poll_s=0.01)
    everything = run_processes.of(process.pid)
    os.killpg(process.pid, signal.SIGHUP)
    print("injected: SIGHUP to all, while Ray starts")
    run = stack.finish(process, tmp_path, status=75)
    last = run["stdout"].splitlines()[-1]
    print(f"survived: {last}")
    assert last.startswith("spo-train: SIGHUP ended the run at once; nothing is left running")
    run_processes.wait_for(lambda: not run_processes.alive(everything), 10, "processes are left")
