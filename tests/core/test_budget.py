"""Continuations where they are worth it: which rules keep the expected gradient exact, by enumeration of all groups."""

import asyncio
from itertools import product

import numpy as np
import pytest
from enumerable import ToyLM

from spo_rlhf.core.advantages import chain, to_tokens
from spo_rlhf.core.options import OptionError
from spo_rlhf.core.partition import PARTITIONS, Fixed, Places
from spo_rlhf.core.values import ValueEstimate, leave_one_out
from spo_rlhf.rollout.estimators import ESTIMATORS, Disputed, Estimator, MonteCarlo


class IncludingItself(Disputed):
    """What must not be: the own reward in the question."""


def expected_gradient(lm: ToyLM, estimator: Estimator, partition, responses: int) -> np.ndarray:
    """Over all groups; the values are exact, since estimates enter linearly."""
    total, settled = np.zeros_like(lm.prob), {}

    def boundaries_and_values(index: int, others: tuple[float, ...]):
        if (index, others) not in settled:
            boundary_K = lm.partition(partition, index)

            async def value(position: int, rollouts: int | None = None) -> ValueEstimate:
                return ValueEstimate(lm.value(lm.responses[index][:position]), 0.0, 1)

            async def theirs() -> list[float]:
                return list(others)

            settled[index, others] = asyncio.run(estimator.estimate_among(boundary_K, value, theirs))
        return settled[index, others]

    for group in product(lm.possible(), repeat=responses):
        reward_B = lm.rewards[list(group)]
        for place, (index, base) in enumerate(zip(group, leave_one_out(reward_B))):
            seen = reward_B if isinstance(estimator, IncludingItself) else np.delete(reward_B, place)
            boundary_K, estimates = boundaries_and_values(index, tuple(seen.tolist()))
            adv_T = to_tokens(chain([base, *(one.mean for one in estimates)], reward_B[place]), boundary_K)
            weight = lm.weights[list(group)].prod() / responses
            for t, adv in enumerate(adv_T):
                total += weight * adv * lm.score(index, t, t + 1)
    return total


@pytest.fixture(scope="module")
def lm() -> ToyLM:
    """With rewards 0 and 1, so that others often agree."""
    made = ToyLM(2, max_tokens=2)
    made.rewards = (np.arange(len(made.responses)) % 3 == 0).astype(float)
    return made


@pytest.mark.parametrize("partition", [Fixed(segment_length=1), Places(places=(1,)), Places(places=(5,))])
@pytest.mark.parametrize("responses", [2, 3, 4])
def test_continuations_where_the_others_disagree_are_exact(lm, partition, responses):
    gradient = expected_gradient(lm, Disputed(), partition, responses)
    assert gradient == pytest.approx(lm.policy_gradient(), abs=1e-12)


def test_with_the_own_reward_in_the_question_they_are_not(lm):
    gradient = expected_gradient(lm, IncludingItself(), Fixed(segment_length=1), 3)
    assert np.abs(gradient - lm.policy_gradient()).max() > 1e-3


def asked(estimator: Estimator, others: list[float]) -> list[int]:
    """Positions whose values are asked for."""
    positions = []

    async def value(position: int, rollouts: int | None = None) -> ValueEstimate:
        positions.append(position)
        return ValueEstimate(0.0, 0.0, 1)

    async def theirs() -> list[float]:
        return others

    asyncio.run(estimator.estimate_among([0, 2, 5, 9], value, theirs))
    return positions


def test_agreement_costs_nothing_and_fewer_than_two_others_cannot_agree():
    assert asked(Disputed(), [1.0, 1.0, 1.0]) == [] and asked(Disputed(), [1.0, 0.0, 1.0]) == [2, 5]
    assert asked(Disputed(), [1.0]) == asked(Disputed(), []) == asked(MonteCarlo(), [1.0, 1.0]) == [2, 5]
    assert ESTIMATORS["disputed"] is Disputed


def test_places_are_those_that_a_response_reaches():
    partition = PARTITIONS["places"](places=(3, 8))
    assert partition.boundaries([0.5] * 3) == [0, 3]
    assert partition.boundaries([0.5] * 8) == [0, 3, 8] and partition.boundaries([0.5] * 9) == [0, 3, 8, 9]


@pytest.mark.parametrize("places", [(), (0,), (5, 5), (5, 3)])
def test_places_rise_from_1(places):
    with pytest.raises((ValueError, OptionError), match="each above the one before|places"):
        Places(places=places)
