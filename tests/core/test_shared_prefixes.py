"""Credit by shared prefixes: its expectation over all groups is the policy gradient, and its numbers are those of its equation."""

from itertools import product

import numpy as np
import pytest
from enumerable import ToyLM
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.core.advantages import to_tokens
from spo_rlhf.core.shared_prefixes import credit, shared_lengths
from spo_rlhf.core.values import Prior, leave_one_out

GROUPS = st.lists(
    st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=6), st.sampled_from([0.0, 1.0, 0.5])),
    min_size=2,
    max_size=6,
)


def by_equation(token_ids, reward_N, i: int, t: int, strength: float, prior: Prior | None) -> float:
    """A_i(t), state by state."""

    def through(end: int, including: bool) -> list[float]:
        return [
            reward_N[j]
            for j, tokens in enumerate(token_ids)
            if (j != i or including) and len(tokens) >= end and tokens[:end] == token_ids[i][:end]
        ]

    base, before = leave_one_out(reward_N, prior)[i], len(token_ids) - 1
    for end in range(1, t + 1):
        others = through(end, including=False)
        if len(others) < before and others:
            base = (sum(others) + strength * base) / (len(others) + strength)
        before = len(others)
    last = t + 1 == len(token_ids[i])
    return (reward_N[i] if last else np.mean(through(t + 1, including=True))) - base


@given(GROUPS, st.sampled_from([0.0, 1.0, 2.5]), st.booleans())
def test_advantages_are_those_of_the_equation(group, strength, known):
    token_ids, reward_N = [tokens for tokens, _ in group], [reward for _, reward in group]
    prior = Prior(0.3, 4.0) if known else None
    for i, one in enumerate(credit(token_ids, reward_N, strength, prior)):
        assert one.boundaries[0] == 0 and one.boundaries[-1] == len(token_ids[i])
        assert all(a < b for a, b in zip(one.boundaries, one.boundaries[1:]))
        adv_T = to_tokens(np.array(one.adv_K), one.boundaries)
        expected = [by_equation(token_ids, reward_N, i, t, strength, prior) for t in range(len(token_ids[i]))]
        assert adv_T.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("strength", [0.0, 1.0, 5.0])
@pytest.mark.parametrize(
    "responses, prior", [(2, None), (3, None), (4, None), (1, Prior(0.7, 3.0)), (3, Prior(-1.0, 2.0))]
)
def test_the_expected_gradient_is_the_policy_gradient(strength, responses, prior):
    lm = ToyLM(4, max_tokens=2 if responses > 2 else 3)
    total = np.zeros_like(lm.prob)
    score = {i: [lm.score(i, t, t + 1) for t in range(len(lm.responses[i]))] for i in lm.possible()}
    for group in product(lm.possible(), repeat=responses):
        weight = lm.weights[list(group)].prod() / responses
        found = credit([lm.responses[i] for i in group], lm.rewards[list(group)], strength, prior)
        for i, one in zip(group, found):
            for t, adv in enumerate(to_tokens(np.array(one.adv_K), one.boundaries)):
                total += weight * adv * score[i][t]
    assert total == pytest.approx(lm.policy_gradient(), abs=1e-12)


def test_where_nothing_is_shared_it_is_rloo():
    found = credit([[1, 5], [2, 6, 7], [3]], [1.0, 0.0, 1.0])
    assert [set(one.adv_K) for one in found] == [{0.5}, {-1.0}, {0.5}]


def test_a_shared_beginning_is_not_blamed_for_what_comes_behind_it():
    """Two go on from the same right start, one of them wrongly; two others start wrongly."""
    found = credit([[1, 2, 3], [1, 2, 4], [5, 6], [7, 8]], [1.0, 0.0, 0.0, 0.0], strength=0.0)
    right, wrong = (to_tokens(np.array(one.adv_K), one.boundaries) for one in found[:2])
    assert right.tolist() == [0.5, 0.5, 1.0] and wrong[0] == pytest.approx(0.5 - 1 / 3) and wrong[-1] == -1.0
    assert found[2].adv_K[0] == pytest.approx(-1 / 3)


def test_shared_lengths():
    assert shared_lengths([[1, 2, 3], [1, 2], [4]]).tolist() == [[3, 2, 0], [2, 2, 0], [0, 0, 1]]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="empty"):
        credit([[], [1]], [0.0, 1.0])
    with pytest.raises(ValueError, match="at least 2"):
        credit([[1]], [1.0])
