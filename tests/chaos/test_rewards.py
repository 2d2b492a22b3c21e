"""Rewards that misbehave in the real reward processes: each is limited and counted, its process replaced, and the others go on."""

import math
import time

import psutil
import pytest

from spo_rlhf.errors import RunStopped
from spo_rlhf.rollout.reward import NOT_GRADED, FileReward, RewardCounts
from spo_rlhf.trainer.events import Reporter
from spo_rlhf.trainer.rewards import RewardWatch

LIMIT_S, WORKERS = 1.0, 2
# The query is what the reward does; afterwards it is right, where there is an afterwards.
SOURCE = """\
import ctypes, os, subprocess, sys, time
DEEDS = {
    "hang": lambda: time.sleep(300),
    "hang in C code": lambda: pow(7, 10**9),
    "ignore signals": lambda: [__import__("signal").signal(n, lambda *_: None) for n in (2, 15)] and time.sleep(300),
    "end": lambda: os._exit(3),
    "crash": lambda: ctypes.string_at(0),
    "be killed": lambda: os.kill(os.getpid(), 9),
    "eat memory": lambda: [bytes(1 << 30) for _ in range(64)],
    "print": lambda: print("x" * 100_000, flush=True),
    "write to its standard output": lambda: os.write(1, b"y" * 10_000),
    "write into every descriptor": lambda: [writes(number) for number in range(3, 64)],
    "close every descriptor": lambda: os.closerange(0, 64),
    "fork": lambda: forks(),
    "start a program": lambda: keep(subprocess.Popen(["sleep", "300"]).pid),
}

def keep(pid):
    with open({pids!r}, "a") as file:
        file.write(f"{{pid}}\\n")

def forks():
    if (pid := os.fork()) == 0:
        time.sleep(300)
        os._exit(0)
    keep(pid)

def writes(number):
    try:
        os.write(number, b"no answer")
    except OSError:
        pass

def reward_func(queries, prompts, labels):
    [query] = queries
    if query in ("nan", "inf"):
        return {"rewards": [float(query)]}
    DEEDS.get(query, lambda: None)()
    return {"rewards": [1.0]}
"""
HANGS = ("hang", "hang in C code", "ignore signals")
DIES = ("end", "crash", "be killed", "eat memory", "write into every descriptor", "close every descriptor")
HARMLESS = ("print", "write to its standard output", "fork", "start a program")


@pytest.fixture
def reward(tmp_path):
    path = tmp_path / "reward.py"
    path.write_text(SOURCE.replace("{{", "{").replace("}}", "}").replace("{pids!r}", repr(str(tmp_path / "pids"))))
    with FileReward(str(path), workers=WORKERS, timeout_s=LIMIT_S, supervised=True) as reward:
        yield reward


def assert_right(reward, times: int = 4) -> None:
    futures = [reward.submit("be right", "", "7") for _ in range(times)]
    assert [future.result(timeout=30).reward for future in futures] == [1.0] * times


@pytest.mark.parametrize("deed", [*HANGS, *DIES, *HARMLESS])
def test_one_that_misbehaves_costs_itself_alone(reward, deed):
    assert_right(reward)
    before, began = set(reward._pool.worker_pids()), time.monotonic()
    print(f"injected: a reward that will {deed}")
    bad = reward.submit(deed, "", "7")
    assert_right(reward)
    grade = bad.result(timeout=30)
    print(f"survived after {time.monotonic() - began:.1f} s: {reward.counts}")
    assert time.monotonic() - began < LIMIT_S + 10
    assert_right(reward)
    assert reward.counts == RewardCounts(rewards=13, timeouts=deed in HANGS, crashes=deed in DIES)
    assert (grade is NOT_GRADED) == (deed not in HARMLESS) and grade.reward == (deed in HARMLESS)
    assert (set(reward._pool.worker_pids()) == before) == (deed in HARMLESS), "replaced where it died"


def test_a_reward_that_is_no_number_is_handed_on_to_whoever_looks_after_it(reward):
    grades = [reward.submit(query, "", "7").result(timeout=30).reward for query in ("nan", "inf")]
    assert math.isnan(grades[0]) and math.isinf(grades[1]) and reward.counts == RewardCounts(rewards=2)


def test_workers_that_are_killed_between_two_rewards_are_replaced(reward):
    for _ in range(3):
        assert_right(reward)
        workers = [psutil.Process(pid) for pid in reward._pool.worker_pids()]
        for worker in workers:
            worker.kill()
        psutil.wait_procs(workers, timeout=10)
        time.sleep(0.2)
    assert_right(reward)
    assert reward.counts.timeouts == reward.counts.crashes == 0


def test_what_a_reward_has_started_ends_with_its_process(reward, tmp_path):
    for deed in ("fork", "start a program"):
        assert reward.submit(deed, "", "7").result(timeout=30).reward == 1
    started = [psutil.Process(int(pid)) for pid in (tmp_path / "pids").read_text().split()]
    assert len(started) == 2
    reward.close()
    _, left = psutil.wait_procs(started, timeout=5)
    assert [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


def test_above_a_share_of_them_the_run_stops(reward):
    class Engines:
        """One, whose counts are those of the reward processes."""

        def ask(self, method):
            return [("engine 0", reward.counts)]

    watch = RewardWatch(Engines(), 0.05, Reporter())  # pyright: ignore[reportArgumentType]
    for number, deed in enumerate(["end", "be killed", "end", "end"]):
        assert_right(reward, 12)
        reward.submit(deed, "", "7").result(timeout=30)
        if number < 3:
            watch.check()
    with pytest.raises(
        RunStopped, match=r"^0 of 52 rewards .* processes of 4 died: more than --spo.max_reward_failures"
    ):
        watch.check()
