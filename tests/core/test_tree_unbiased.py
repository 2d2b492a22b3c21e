"""The expected SPO-tree gradient against the exact policy gradient, over every tree that an enumerable model can grow.

Two levels, (2, 2) unless told otherwise: level 1 holds the first token of a response, level 2 the rest. A place of level 2
stays empty where the first token ended the response. What is checked is stated in spo_rlhf/core/tree.py.
"""

from itertools import product

import numpy as np
import pytest
from enumerable import ToyLM

from spo_rlhf.core import tree
from spo_rlhf.core.tree import NO_PARENT
from spo_rlhf.core.tree_baselines import AgainstOthers, Shrunk, level_weights
from spo_rlhf.core.values import Prior

BRANCHING = (2, 2)


def segments(lm: ToyLM, cut: int) -> dict[tuple[int, ...], list[int]]:
    """Responses by index, by their first ``cut`` tokens."""
    found: dict[tuple[int, ...], list[int]] = {}
    for index in lm.possible():
        found.setdefault(lm.responses[index][:cut], []).append(index)
    return found


def children_of_root(lm: ToyLM, branching: int, cut: int) -> list[tuple[float, int, tuple[int, ...]]]:
    """Every first-level node with the subtree below it: its probability, one response through it, its leaves."""
    found = []
    for indices in segments(lm, cut).values():
        probability = sum(lm.weights[index] for index in indices)
        if len(indices) == 1 and len(lm.responses[indices[0]]) <= cut:  # ended: a leaf
            found.append((probability, indices[0], ()))
            continue
        for leaves in product(indices, repeat=branching):
            weight = probability * np.prod([lm.weights[leaf] / probability for leaf in leaves])
            found.append((weight, leaves[0], leaves))
    return found


def expected_level_sums(
    lm: ToyLM,
    kind: str | tree.NodeAdvantage,
    branching: tuple[int, int] = BRANCHING,
    prior: Prior | None = None,
    cut: int = 1,
) -> list[np.ndarray]:
    """Per level: expectation of the sum of A(n) grad log pi(n) over its nodes."""
    lengths = {index: len(lm.responses[index]) for index in lm.possible()}
    score_1 = {index: lm.score(index, 0, min(cut, length)) for index, length in lengths.items()}
    score_2 = {index: lm.score(index, min(cut, length), length) for index, length in lengths.items()}
    level_1, level_2 = np.zeros_like(lm.prob), np.zeros_like(lm.prob)
    for pair in product(children_of_root(lm, branching[1], cut), repeat=branching[0]):
        weight, parent_N, reward_N, score_N = 1.0, [NO_PARENT], [np.nan], [None]
        for probability, index, leaves in pair:
            weight *= probability
            node = len(parent_N)
            parent_N.append(0)
            reward_N.append(np.nan if leaves else lm.rewards[index])
            score_N.append(score_1[index])
            for leaf in leaves:
                parent_N.append(node)
                reward_N.append(lm.rewards[leaf])
                score_N.append(score_2[leaf])
        adv_N = tree.advantages(parent_N, tree.values(parent_N, reward_N), kind, prior)
        for parent, adv, score in zip(parent_N[1:], adv_N[1:], score_N[1:]):
            if parent == 0:
                level_1 += weight * adv * score
            else:
                level_2 += weight * adv * score
    return [level_1, level_2]


def expected_level_gradients(lm: ToyLM, kind, branching=BRANCHING, prior=None, cut: int = 1) -> list[np.ndarray]:
    """The same over the B_1 .. B_d places of the level."""
    sums = expected_level_sums(lm, kind, branching, prior, cut)
    return [level / places for level, places in zip(sums, np.cumprod(branching))]


def exact_level_gradients(lm: ToyLM, cut: int = 1) -> list[np.ndarray]:
    """The policy gradient, split by the level that a token lies in."""
    starts = (0, cut, None)  # and the end
    return [
        sum(
            lm.weights[index]
            * lm.rewards[index]
            * lm.score(index, *slice(start, end).indices(len(lm.responses[index]))[:2])
            for index in lm.possible()
        )
        for start, end in zip(starts, starts[1:])
    ]


@pytest.fixture(scope="module", params=[0, 1])
def lm(request) -> ToyLM:
    return ToyLM(request.param, max_tokens=3)


def test_the_levels_add_up_to_the_policy_gradient(lm: ToyLM) -> None:
    np.testing.assert_allclose(sum(exact_level_gradients(lm)), lm.policy_gradient(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "factor"), [("loo", 1.0), ("mean", 1 - 1 / 2)])
def test_the_expected_gradient_is_the_policy_gradient(lm: ToyLM, kind: str, factor: float) -> None:
    for expected, exact in zip(expected_level_gradients(lm, kind), exact_level_gradients(lm)):
        assert np.abs(exact).max() > 0.01
        np.testing.assert_allclose(expected, factor * exact, rtol=0, atol=1e-9)


def test_dividing_by_the_spread_changes_the_direction(lm: ToyLM) -> None:
    """No multiple of the policy gradient: so `std` must not be taken for an unbiased estimator up to scale."""
    expected, exact = (
        np.concatenate([g.ravel() for g in f]) for f in (expected_level_gradients(lm, "std"), exact_level_gradients(lm))
    )
    cosine = expected @ exact / np.linalg.norm(expected) / np.linalg.norm(exact)
    assert 0.5 < cosine < 0.999


SHRUNK = Shrunk(branching=BRANCHING)
KNOWN = Prior(mean=-1.3, count=4.5)  # far from the truth, as it may be
ABSURD = Shrunk(branching=BRANCHING, settled=(1.0,))  # "all is settled by the first token", which it is not
CASES = [
    (SHRUNK, (2, 2), None),
    (SHRUNK, (2, 2), KNOWN),
    (ABSURD, (2, 2), KNOWN),
    (AgainstOthers(), (2, 2), KNOWN),
    (Shrunk(branching=(1, 2)), (1, 2), KNOWN),  # one response whose second half has a twin
    (Shrunk(branching=(2, 1)), (2, 1), None),
    (AgainstOthers(), (1, 2), KNOWN),
]


@pytest.mark.parametrize(("kind", "branching", "prior"), CASES, ids=str)
def test_shrunk_baselines_and_what_was_known_leave_the_gradient_exact(lm: ToyLM, kind, branching, prior) -> None:
    for expected, exact in zip(expected_level_gradients(lm, kind, branching, prior), exact_level_gradients(lm)):
        assert np.abs(exact).max() > 0.01
        np.testing.assert_allclose(expected, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("branching", [(2, 2), (1, 2)])
def test_level_weights_make_the_sum_over_nodes_the_policy_gradient(lm: ToyLM, branching: tuple[int, int]) -> None:
    """And without them it is none: the last level counts as many times as it has more nodes."""
    sums = expected_level_sums(lm, "loo" if branching[0] > 1 else Shrunk(branching=branching), branching, KNOWN)
    weighted = sum(weight * level for weight, level in zip(level_weights(branching), sums))
    factor = np.cumprod(branching).sum() / len(branching)
    np.testing.assert_allclose(weighted, factor * lm.policy_gradient(), rtol=0, atol=1e-9)
    cosine = np.sum(sum(sums) * lm.policy_gradient()) / np.linalg.norm(sum(sums)) / np.linalg.norm(lm.policy_gradient())
    assert cosine < 0.999


@pytest.mark.parametrize("branching", [(6, 6, 6), (4, 2), (1, 3), (5,)])
def test_the_mean_weight_of_the_nodes_of_a_full_tree_is_one(branching: tuple[int, ...]) -> None:
    places = np.cumprod(branching)
    assert np.average(level_weights(branching), weights=places) == pytest.approx(1)
    np.testing.assert_allclose(level_weights(branching) * places, places.mean())
