"""Engines that die, hang or lose their weights: what comes out is what an unbroken pool would have given, once each."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from spo_rlhf.core.seeds import derive_seed
from spo_rlhf.errors import RunStopped
from spo_rlhf.rollout.ledger import EngineLedger
from spo_rlhf.rollout.toy_engine import ToyEngine, ToyLanguageModel
from spo_rlhf.trainer.engine_pool import FINAL_TRIES, EngineGone, EnginePool

MODEL = ToyLanguageModel(vocabulary=3, max_tokens=6, reward=len)
START_S = 7.0  # of an engine


class Cluster:
    """Toy engines in place of Ray's, with a clock of their own. An answer takes a second; `hung` engines give none.

    `die(engine)` kills a process; as Ray does, it starts another, which has the weights of the folder (version 0).
    """

    def __init__(self, engines: int):
        self.now = 0.0
        self.started = [0.0] * engines  # when the present process is up
        self.process = [0] * engines
        self.version = [0] * engines
        self.hung, self.broken_start = set(), set()
        self.hung_starts = 0  # so many processes that are started from now on never come up
        self.silent_starts = False  # nor tell a call so
        self.policy_version = 0
        self.calls = {}  # handle -> (engine, process, due, function)
        self.taken = []  # (engine, slot, version of its weights) of every request that an engine took
        self.dies_while_sent = set()

    def die(self, engine: int) -> None:
        self.process[engine] += 1
        self.started[engine] = self.now + START_S if self.hung_starts <= 0 else float("inf")
        self.hung_starts, self.version[engine] = self.hung_starts - 1, 0
        self.hung.discard(engine)

    # what EnginePool calls

    def call(self, engine, method, *args):
        handle = len(self.calls)
        self.calls[handle] = engine, self.process[engine], self.now + 1.0, lambda: getattr(self, method)(engine, *args)
        if method == "rollout":
            self.taken.append((engine, args[0].slot, self.version[engine]))
        return handle

    def ready(self, handles, limit_s):
        found = [handle for handle in handles if self._is_ready(handle)]
        if not found:
            self.now += limit_s
            found = [handle for handle in handles if self._is_ready(handle)]
        return found

    def _is_ready(self, handle):
        engine, process, due, _ = self.calls[handle]
        if self.silent_starts and engine is not None and self.started[engine] == float("inf"):
            return process != self.process[engine]
        return engine is None or process != self.process[engine] or (self.now >= due and engine not in self.hung)

    def result(self, handle):
        engine, process, _, function = self.calls[handle]
        if engine in self.broken_start:
            raise EngineGone("does not start", final=True)
        if process != self.process[engine] or self.now < self.started[engine]:
            raise EngineGone("died")
        return function()

    def kill(self, engine):
        self.die(engine)

    def send_weights(self, engines):
        handle = len(self.calls)
        self.calls[handle] = None, 0, self.now, lambda: self._send(engines)
        return handle

    def weights_sent(self, handle):
        return self.calls[handle][3]()

    def broadcast(self, engines):
        self.policy_version += 1
        return self._send(engines)

    def _send(self, engines):
        failed = [engine for engine in engines if engine in self.dies_while_sent]
        self.dies_while_sent -= set(failed)
        for engine in engines:
            self.version[engine] = self.policy_version
        for engine in failed:
            self.die(engine)
        return self.policy_version, 100, failed

    # methods of an engine

    def about(self, engine):
        return f"{engine}-{self.process[engine]}", self.version[engine], START_S

    def heartbeat(self, engine):
        pass

    def reward_counts(self, engine):
        return engine

    def rollout(self, engine, request, version):
        assert version == self.version[engine], "an engine takes no request for other weights"
        toy = ToyEngine(MODEL, 0)
        seed = derive_seed(*request.seed, request.slot)
        sampled = asyncio.run(toy.sample((), n=request.num_samples, max_tokens=6, seed=seed, logprobs=False))
        return request.slot, [one.token_ids for one in sampled]


class Heard(SimpleNamespace):
    def send(self, event, **values):
        self.events.append((event, values))

    def note(self, text):
        self.notes.append(text)


def make_pool(engines: int, max_restarts: int = 3) -> tuple[EnginePool, Cluster, Heard]:
    cluster: Any = Cluster(engines)
    heard: Any = Heard(events=[], notes=[])
    pool = EnginePool(cluster, EngineLedger(engines, max_restarts), heard, timeout_s=20.0, clock=lambda: cluster.now)
    cluster.now = START_S
    pool.start()
    return pool, cluster, heard


def submit(pool: EnginePool, slots: range, step: int = 0) -> None:
    for slot in slots:
        request: Any = SimpleNamespace(slot=slot, num_samples=2, seed=(1, "train", step))
        pool.submit(request)


def drain(pool: EnginePool) -> list:
    answers = []
    while pool.pending:
        answers += [answer for _, answer in pool.take(10.0)]
    return sorted(answers)


def unbroken(slots: range, step: int = 0) -> list:
    pool, _, _ = make_pool(1)
    submit(pool, slots, step)
    return drain(pool)


@pytest.mark.parametrize("engines", [1, 2, 3])
def test_an_engine_killed_at_work_changes_nothing_of_the_step(engines):
    pool, cluster, heard = make_pool(engines)
    pool.broadcast()
    submit(pool, range(12))
    cluster.die(0)
    answers = drain(pool)
    assert answers == unbroken(range(12))
    counts = pool.take_counts()
    assert counts["rollout/requests"] == counts["rollout/answers"] == 12
    assert counts["rollout/engine_restarts"] == 1 and counts["rollout/requests_resent"] == 12 // engines
    assert heard.notes[0].startswith(f"engine 0 died: it is started again, {12 // engines} requests are sent again")
    assert pool.take_counts() == dict.fromkeys(counts, 0)


def test_a_run_that_goes_on_tells_what_the_checkpoint_had_not_told():
    pool, _, _ = make_pool(1)
    submit(pool, range(3))
    drain(pool)
    pool.take_counts()
    submit(pool, range(8), step=1)  # an evaluation behind the step
    drain(pool)
    untold = pool.untold()
    resumed, _, _ = make_pool(1)
    resumed.broadcast()  # the weights of the checkpoint
    resumed.go_on_from(untold)
    assert resumed.untold() == untold
    for one in (pool, resumed):
        submit(one, range(3), step=2)
        drain(one)
    assert resumed.take_counts() == pool.take_counts()


def test_the_others_go_on_and_a_new_engine_gets_the_present_weights_before_its_first_request():
    pool, cluster, _ = make_pool(2)
    pool.broadcast()
    pool.broadcast()
    submit(pool, range(4))
    cluster.die(1)
    began = cluster.now
    assert len(drain(pool)) == 4 and cluster.now - began < START_S, "nobody waited for the new process"
    while 1 not in pool.ledger.living:
        pool.take(1.0)
    submit(pool, range(4, 8))
    drain(pool)
    assert {engine for engine, slot, _ in cluster.taken if slot >= 4} == {0, 1}
    assert {version for _, _, version in cluster.taken} == {2}


def test_a_hung_engine_is_killed_after_the_limit_and_not_before():
    pool, cluster, heard = make_pool(2)
    submit(pool, range(4))
    cluster.hung.add(1)
    began = cluster.now
    assert drain(pool) == unbroken(range(4))
    assert 20.0 < cluster.now - began < 20.0 + 2 * 10.0
    assert cluster.process == [0, 1] and "gave no sign of life for 20 s (--spo.engine_timeout)" in heard.notes[0]


def test_time_without_a_look_at_the_engines_is_not_taken_for_their_silence():
    pool, cluster, heard = make_pool(2)
    for step in range(3):
        submit(pool, range(4), step)
        pool.take(0.0)  # signs of life are asked for, and what comes of it waits for the training
        cluster.now += 1000.0
        drain(pool)
    assert heard.notes == []


def test_an_engine_that_dies_while_weights_are_sent_has_none_of_them_until_it_has_all():
    pool, cluster, heard = make_pool(2)
    cluster.dies_while_sent = {1}
    pool.broadcast()
    submit(pool, range(6))
    assert [engine for engine, _, _ in cluster.taken] == [0] * 6
    drain(pool)
    cluster.dies_while_sent = {1}  # once more, when it is started again
    while 1 not in pool.ledger.living:
        pool.take(1.0)
    assert cluster.version == [1, 1] and "did not take new weights" in heard.notes[0]
    submit(pool, range(6))
    assert len(drain(pool)) == 6


def test_weights_that_came_before_a_training_step_are_sent_again_after_it():
    pool, cluster, _ = make_pool(2)
    submit(pool, range(2))
    cluster.die(1)
    drain(pool)
    while not any(call.kind == "weights" for call in pool._calls.values()):
        pool.take(1.0)
    handle = next(handle for handle, call in pool._calls.items() if call.kind == "weights")
    sent = cluster.weights_sent(handle)
    cluster.calls[handle] = None, 0, 0.0, lambda: sent  # it was done before the step
    pool.broadcast()
    while 1 not in pool.ledger.living:
        pool.take(1.0)
    assert cluster.version == [1, 1]


def test_an_engine_that_is_started_again_after_the_policy_was_trained_is_ahead_of_the_others_until_the_next_weights():
    pool, cluster, _ = make_pool(2)
    submit(pool, range(4))
    cluster.policy_version = 1  # trained, while the requests are in flight
    cluster.die(1)
    assert drain(pool) == unbroken(range(4))
    while 1 not in pool.ledger.living:
        pool.take(1.0)
    assert cluster.version == [0, 1] and pool.version == 0
    submit(pool, range(4, 8))
    drain(pool)
    versions = {engine: version for engine, slot, version in cluster.taken if slot >= 4}
    assert versions == {0: 0, 1: 1}, "each request names the weights of its engine"
    pool.broadcast()
    submit(pool, range(8, 12))
    drain(pool)
    assert {version for _, slot, version in cluster.taken if slot >= 8} == {2}
    assert pool.take_counts()["rollout/weight_bytes"] == 300, "once to the new engine, once to each"


def test_a_process_that_was_given_up_and_answers_again_is_replaced():
    """Ray could not reach it for a moment: its requests are others' by then."""
    pool, cluster, _ = make_pool(2)
    submit(pool, range(4))
    pool._bury(1, "could not be reached", kill=False)
    assert drain(pool) == unbroken(range(4))
    while 1 not in pool.ledger.living:
        pool.take(1.0)
    assert cluster.process == [0, 1]


def test_too_many_deaths_end_the_run_with_one_line():
    pool, cluster, heard = make_pool(1, max_restarts=1)
    submit(pool, range(2))
    cluster.die(0)
    drain(pool)
    submit(pool, range(2))
    cluster.die(0)
    with pytest.raises(
        RunStopped, match="^engine 0 died; 2 engines died within 60 minutes, more than --spo.max_eng"
    ) as end:
        drain(pool)
    assert "\n" not in str(end.value)
    [(event, values)] = heard.events
    assert event == "engines" and values["metrics"]["rollout/engine_restarts"] == 2


def test_too_many_deaths_by_new_weights_let_the_step_come_to_its_end():
    pool, cluster, heard = make_pool(2, max_restarts=0)
    cluster.dies_while_sent = {1}
    pool.broadcast()
    assert pool.ask("reward_counts") == [0] and heard.events == []
    with pytest.raises(RunStopped, match="^engine 1 did not take new weights; 1 engines died"):
        pool.take(1.0)
    assert len(heard.events) == 1


def test_an_engine_that_does_not_start_again_ends_the_run():
    pool, cluster, _ = make_pool(1)
    submit(pool, range(2))
    cluster.die(0)
    cluster.broken_start.add(0)
    began = cluster.now
    with pytest.raises(RunStopped, match="^engine 0 died and does not start again: does not start"):
        drain(pool)
    assert cluster.now - began < 3 * FINAL_TRIES


@pytest.mark.parametrize("answers", ["with an error", "never"])
def test_an_engine_that_hangs_while_it_starts_again_is_started_once_more(answers):
    pool, cluster, heard = make_pool(2)
    cluster.silent_starts = answers == "never"  # as of a process that is stopped
    submit(pool, range(4))
    cluster.hung_starts, began = 1, cluster.now
    cluster.die(1)
    assert drain(pool) == unbroken(range(4)), "the other one goes on meanwhile"
    pool.settle()
    limit = pool.restart_limit_s
    assert limit == 3 * START_S + 2 * 20.0
    assert limit + START_S <= cluster.now - began < limit + START_S + 2 * 10.0
    assert f"engine 1 died and was not up again within {limit:g} s: it is started once more" in heard.notes
    assert cluster.process == [0, 2] and heard.notes[-1].startswith("engine 1 is back")
    assert pool.take_counts()["rollout/engine_restarts"] == 2
    submit(pool, range(4, 8))
    assert len(drain(pool)) == 4 and pool.ledger.living == {0, 1}


@pytest.mark.parametrize("looked", [False, True])
def test_a_death_behind_a_long_step_is_not_taken_for_one_to_come(looked):
    """By new weights: before anything was asked of the engines, or after an hour in which nobody looked at them."""
    pool, cluster, heard = make_pool(2)
    if looked:
        submit(pool, range(2))
        drain(pool)
    cluster.now += 3600.0
    cluster.dies_while_sent, cluster.hung_starts, began = (
        {1},
        2,
        cluster.now,
    )  # of the one that died, and of the one for it
    pool.broadcast()
    pool.settle()
    limit = pool.restart_limit_s
    assert f"engine 1 died and was not up again within {limit:g} s: it is started once more" in heard.notes
    assert limit + START_S <= cluster.now - began < limit + START_S + 2 * 10.0
    assert 0 <= int(heard.notes[-1].removeprefix("engine 1 is back after ").removesuffix(" s")) < limit


def test_starts_that_hang_again_and_again_end_the_run_as_deaths_do():
    pool, cluster, heard = make_pool(1, max_restarts=2)
    submit(pool, range(2))
    cluster.hung_starts, began = 9, cluster.now
    cluster.die(0)
    with pytest.raises(RunStopped, match="^engine 0 died and was not up again within 61 s; 3 engines died within 60"):
        drain(pool)
    assert cluster.now - began < 3 * pool.restart_limit_s and len(heard.events) == 1


def test_what_is_asked_of_all_is_answered_by_those_that_live():
    pool, cluster, _ = make_pool(3)
    cluster.hung.add(2)
    assert pool.ask("reward_counts") == [0, 1] and pool.ledger.living == {0, 1}
    pool.settle()
    assert pool.ask("reward_counts") == [0, 1, 2]
