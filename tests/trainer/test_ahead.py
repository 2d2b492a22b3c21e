"""Sampling ahead of training: what the ages of the batches are, exactly, and that no bound is passed, whatever takes how long."""

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.trainer.ahead import Ahead


@dataclass
class Run:
    """A run as the loop makes it: batches are numbers, engines are done with one when `answered` says so.

    `empty`: batches that turn out to have no prompt; `leaves`: batches of which nothing is trained.
    """

    bound: int
    batches: int
    empty: frozenset = frozenset()
    leaves: frozenset = frozenset()
    answered: list[int] = field(default_factory=list)  # batches whose answers come while batch i trains

    def go(self) -> "Run":
        self.ahead, self.version, self.updates = Ahead(self.bound), 0, 0
        self.waiting, self.in_flight = deque(), set()
        self.ages, self.versions, self.most = [], {}, 0
        for number in range(self.batches):
            if not self.waiting:
                self.send(number)
            assert self.waiting.popleft() == number, "in their order"
            self.in_flight -= set(range(number + 1))
            if self.bound and self.ahead.wants_weights(len(self.in_flight)):
                self.give_weights()
            while number + 1 + len(self.waiting) < self.batches and self.ahead.may_send(
                1 + sum(one not in self.empty for one in self.waiting)
            ):
                self.send(number + 1 + len(self.waiting))
            self.most = max(self.most, len(self.waiting))
            if number in self.empty or number in self.leaves:
                continue
            self.ages.append(self.updates - self.versions[number])
            done = self.answered[number % len(self.answered)] if self.answered else 0
            self.in_flight -= set(sorted(self.in_flight)[:done])
            self.updates += 1
            self.ahead.trained()
            if not self.bound:
                self.give_weights()
        return self

    def send(self, number: int) -> None:
        assert number not in self.versions, "once"
        self.versions[number] = self.version
        self.waiting.append(number)
        if number not in self.empty:
            self.in_flight.add(number)

    def give_weights(self) -> None:
        assert not self.in_flight, "no token of two policies"
        self.version = self.updates
        self.ahead.sent_weights()


@pytest.mark.parametrize(
    ("bound", "ages"),
    [
        (0, [0, 0, 0, 0, 0, 0, 0]),
        (1, [0, 1, 1, 1, 1, 1, 1]),
        (2, [0, 1, 2, 1, 2, 1, 2]),
        (3, [0, 1, 2, 3, 1, 2, 3]),
    ],
)
def test_ages_where_the_engines_are_slower_than_the_policy(bound, ages):
    assert Run(bound, 7).go().ages == ages


def test_faster_engines_get_newer_weights():
    assert Run(2, 7, answered=[9]).go().ages == [0, 1, 2, 2, 2, 2, 2]
    assert Run(3, 4, answered=[1]).go().versions == {0: 0, 1: 0, 2: 0, 3: 0}


def test_a_batch_that_is_not_trained_ages_nobody():
    run = Run(1, 5, leaves=frozenset({1, 2})).go()
    assert run.ages == [0, 0, 1], "batch 3 was sent when the engines had what the policy had"


@given(
    bound=st.integers(0, 4),
    batches=st.integers(1, 30),
    empty=st.frozensets(st.integers(0, 29), max_size=5),
    leaves=st.frozensets(st.integers(0, 29), max_size=8),
    answered=st.lists(st.integers(0, 5), max_size=6),
)
def test_no_batch_is_older_than_the_bound_and_each_is_trained_once(bound, batches, empty, leaves, answered):
    run = Run(bound, batches, empty, leaves, answered).go()
    trained = [number for number in range(batches) if number not in empty | leaves]
    assert len(run.ages) == len(trained) and all(0 <= age <= bound for age in run.ages)
    assert run.most <= bound + len(empty), "no more work in flight than that"
    if bound == 1 and not empty | leaves:
        assert run.ages[1:] == [1] * (batches - 1)
