"""Trees cut by a partition, over every tree of two levels that an enumerable model can grow."""

from itertools import product

import numpy as np
import pytest
from enumerable import ToyLM

from spo_rlhf.core import tree
from spo_rlhf.core.partition import Cutpoint, Fixed, Newline
from spo_rlhf.core.tree import NO_PARENT
from spo_rlhf.core.tree_baselines import Shrunk
from spo_rlhf.core.tree_cuts import AtBoundaries

BRANCHING = (2, 2)


def cut_of(lm: ToyLM, cuts: AtBoundaries, index: int, by_state: bool) -> int | None:
    prob_T = lm.top_T(index) if by_state else np.array(lm.probs_T[index])
    return cuts.end(prob_T, [lm.texts[token] for token in lm.responses[index]])


def first_level(lm: ToyLM, cuts: AtBoundaries, by_state: bool) -> list[tuple[float, int, int | None, list[int]]]:
    """Every node below the prompt with its subtree: probability, response, its cut, the leaves (the response itself first)."""
    found = []
    for index in lm.possible():
        end = cut_of(lm, cuts, index, by_state)
        if end is None:
            found.append((lm.weights[index], index, None, []))
            continue
        for other, chance in lm.completions(lm.responses[index][:end]).items():
            found.append((lm.weights[index] * chance, index, end, [index, other]))
    return found


def expected_gradient(lm: ToyLM, cuts: AtBoundaries, kind, by_state: bool) -> np.ndarray:
    """Expectation of the sum of A(n) grad log pi(n), each level over its places."""
    total = np.zeros_like(lm.prob)
    nodes_1 = first_level(lm, cuts, by_state)
    assert sum(weight for weight, *_ in nodes_1) == pytest.approx(1)
    for pair in product(nodes_1, repeat=BRANCHING[0]):
        parent_N, reward_N, parts = [NO_PARENT], [np.nan], [(0, 0, 0)]
        for _, index, end, leaves in pair:
            node = len(parent_N)
            parent_N.append(0)
            reward_N.append(np.nan if leaves else lm.rewards[index])
            parts.append((index, 0, end or len(lm.responses[index])))
            for leaf in leaves:
                parent_N.append(node)
                reward_N.append(lm.rewards[leaf])
                parts.append((leaf, end or 0, len(lm.responses[leaf])))
        adv_N = tree.advantages(parent_N, tree.values(parent_N, reward_N), kind)
        weight = pair[0][0] * pair[1][0]
        for parent, adv, part in zip(parent_N[1:], adv_N[1:], parts[1:]):
            total += weight * adv * lm.score(*part) / (2 if parent == 0 else 4)
    return total


STOPPING = [
    (Fixed(segment_length=1), False),
    (Newline(), False),
    (Cutpoint(interval=1, threshold=0.6), True),
]


@pytest.mark.parametrize("kind", ["loo", Shrunk(branching=BRANCHING)], ids=["loo", "shrunk"])
@pytest.mark.parametrize(("partition", "by_state"), STOPPING, ids=["fixed", "newline", "cutpoint by state"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_expected_gradient_is_the_policy_gradient_behind_stopping_times(seed, partition, by_state, kind):
    lm, cuts = ToyLM(seed, max_tokens=3, confident=0.3), AtBoundaries(partition=partition)
    ends = {cut_of(lm, cuts, index, by_state) for index in lm.possible()}
    assert len(ends) > 1, "some responses are cut"
    found = expected_gradient(lm, cuts, kind, by_state)
    np.testing.assert_allclose(found, lm.policy_gradient(), rtol=0, atol=1e-12)


def test_a_cut_at_a_token_that_turned_out_improbable_is_biased():
    lm, cuts = ToyLM(1, max_tokens=3, confident=0.3), AtBoundaries(partition=Cutpoint(interval=1, threshold=0.6))
    found = expected_gradient(lm, cuts, "loo", by_state=False)
    assert np.abs(found - lm.policy_gradient()).max() > 1e-4
