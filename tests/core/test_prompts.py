"""Skipped prompts with known chances, and dropped ones: what either does to the expected gradient, by enumeration."""

from itertools import product

import numpy as np
import pytest
from enumerable import ToyLM
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.core.prompts import PROMPT_CHOICES, SkipDecided
from spo_rlhf.core.values import Prior, leave_one_out

PRIORS = [Prior(0.5, 3.0), Prior(0.97, 9.0), Prior(0.0, 2.0)]
SKIP = SkipDecided(floor=0.25)


def group_gradients(lm: ToyLM, prior: Prior | None, keep) -> np.ndarray:
    """E[keep(rewards) * sum_i A_i grad log pi(y_i)] over all pairs of responses; rewards are 0 or 1."""
    total = np.zeros_like(lm.prob)
    score = {index: lm.score(index, 0, len(lm.responses[index])) for index in lm.possible()}
    for pair in product(lm.possible(), repeat=2):
        reward_B = (lm.rewards[list(pair)] > 0).astype(float)
        for index, adv in zip(pair, reward_B - leave_one_out(reward_B, prior)):
            total += lm.weights[list(pair)].prod() * keep(reward_B) * adv * score[index]
    return total


def anyway(reward_B) -> float:
    return 1.0


def mixed(reward_B) -> float:
    """Dynamic sampling: groups that are all right or all wrong are dropped and replaced."""
    return float(0 < reward_B.mean() < 1)


@pytest.fixture(scope="module")
def prompts() -> list[np.ndarray]:
    """The gradient of each of three prompts."""
    return [group_gradients(ToyLM(seed, max_tokens=2), None, anyway) for seed in (1, 2, 3)]


def test_over_all_draws_the_weighted_sum_is_that_of_all_prompts(prompts) -> None:
    keep = [SKIP.keep_probability(prior) for prior in PRIORS]
    assert keep[0] == 1 and 0.25 < keep[1] < 0.5 and keep[2] == 0.25
    weighted, plain = np.zeros_like(prompts[0]), np.zeros_like(prompts[0])
    for kept in product((0, 1), repeat=3):
        chance = np.prod([q if k else 1 - q for q, k in zip(keep, kept)])
        weighted += chance * sum(k * g / q for k, g, q in zip(kept, prompts, keep))
        plain += chance * sum(k * g for k, g in zip(kept, prompts))
    np.testing.assert_allclose(weighted, sum(prompts), rtol=0, atol=1e-12)
    assert np.abs(plain - sum(prompts)).max() > 0.01, "without the weights the kept prompts stand for themselves alone"


def test_a_batch_of_kept_prompts_is_the_mean_times_the_number_considered(prompts) -> None:
    """Considering ends with the second kept prompt: all sequences up to a length after which next to nothing is left."""
    keep = [SKIP.keep_probability(prior) for prior in PRIORS]
    steps = [(q / 3, g / q) for g, q in zip(prompts, keep)]  # a prompt is drawn and kept
    skipped = 1 - sum(chance for chance, _ in steps)
    left = {0: (1.0, np.zeros_like(prompts[0]))}  # kept so far -> probability, expected sum on that event
    total, considered = np.zeros_like(prompts[0]), 0.0
    for number in range(1, 400):
        after: dict[int, tuple[float, np.ndarray]] = {}
        for kept, (chance, part) in left.items():
            moves = [(kept, skipped, np.zeros_like(part)), *((kept + 1, c, g) for c, g in steps)]
            for to, c, g in moves:
                known = after.get(to, (0.0, np.zeros_like(part)))
                after[to] = known[0] + chance * c, known[1] + c * (part + chance * g)
        chance, part = after.pop(2, (0.0, np.zeros_like(total)))
        total, considered, left = total + part, considered + number * chance, after
    np.testing.assert_allclose(total, considered * sum(prompts) / 3, rtol=0, atol=1e-9)


def test_dropping_undecided_groups_is_harmless_only_where_they_had_no_gradient() -> None:
    """Against the other responses alone, a group of equal rewards has none. Against a history it has."""
    lm = ToyLM(2, max_tokens=2)
    exact = group_gradients(lm, None, anyway)
    assert np.abs(exact).max() > 0.01
    np.testing.assert_allclose(group_gradients(lm, None, mixed), exact, rtol=0, atol=1e-12)
    known = Prior(0.3, 2.0)
    np.testing.assert_allclose(group_gradients(lm, known, anyway), exact, rtol=0, atol=1e-9)
    biased = group_gradients(lm, known, mixed)
    assert np.linalg.norm(biased - exact) > 0.1 * np.linalg.norm(exact)


@given(st.floats(-1, 2), st.floats(0.01, 1))
def test_a_prompt_is_kept_with_a_chance_above_zero(mean: float, floor: float) -> None:
    q = SkipDecided(floor=floor).keep_probability(Prior(mean, 1.0))
    assert floor <= q <= 1 and q >= min(SkipDecided(floor=floor).keep_probability(Prior(mean / 2, 1.0)), floor)


def test_all_prompts_are_all() -> None:
    assert PROMPT_CHOICES["all"]().keep_probability(Prior(0.0, 99.0)) == 1 and PROMPT_CHOICES["all"]().memory() is None
