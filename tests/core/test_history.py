"""The history of prompts: what it says of one, how it fades, what a baseline from it does to the expected gradient."""

import json
from itertools import product

import numpy as np
import pytest
from enumerable import ToyLM
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.core.baselines import BASELINES
from spo_rlhf.core.history import NOTHING_KNOWN, PromptHistory, prompt_key
from spo_rlhf.core.options import build
from spo_rlhf.core.values import Prior, leave_one_out

REWARDS = st.lists(st.floats(-2, 2), min_size=1, max_size=6)
PRIORS = st.builds(Prior, mean=st.floats(-2, 2), count=st.floats(0.01, 50))


def expected_gradient(lm: ToyLM, responses: int, prior: Prior) -> np.ndarray:
    """Of sum_i (r_i - b_i) grad log pi(y_i) / n, over all groups of `responses`, by enumeration."""
    total = np.zeros_like(lm.prob)
    score = {index: lm.score(index, 0, len(lm.responses[index])) for index in lm.possible()}
    for group in product(lm.possible(), repeat=responses):
        reward_B, weight = lm.rewards[list(group)], np.prod(lm.weights[list(group)])
        for index, adv in zip(group, reward_B - leave_one_out(reward_B, prior)):
            total += weight * adv * score[index] / responses
    return total


@pytest.mark.parametrize("responses", [1, 2, 3])
@pytest.mark.parametrize("prior", [Prior(0.3, 1.0), Prior(-4.0, 17.5)], ids=str)
def test_the_gradient_with_a_history_is_the_policy_gradient(responses: int, prior: Prior) -> None:
    """Whatever is known, and however wrong it is: it was known before."""
    lm = ToyLM(3, max_tokens=2)
    exact = lm.policy_gradient()
    assert np.abs(exact).max() > 0.01
    np.testing.assert_allclose(expected_gradient(lm, responses, prior), exact, rtol=0, atol=1e-9)


def test_a_history_that_knows_the_own_response_is_not_harmless() -> None:
    """What the docstring forbids, enumerated: the prompt's rewards entered before their baselines are formed."""
    lm, history = ToyLM(3, max_tokens=2), PromptHistory(half_life=8, strength=1)
    total = np.zeros_like(lm.prob)
    for index in lm.possible():
        history.restore(PromptHistory(half_life=8, strength=1).state())
        history.add("prompt", [lm.rewards[index]], 0)
        [adv] = lm.rewards[[index]] - leave_one_out(lm.rewards[[index]], history.prior("prompt", 0))
        total += lm.weights[index] * adv * lm.score(index, 0, len(lm.responses[index]))
    assert np.abs(total - lm.policy_gradient()).max() > 0.01


@given(REWARDS, PRIORS, st.data())
def test_the_baseline_lies_between_what_it_blends_and_not_with_the_own_reward(rewards, prior, data) -> None:
    index = data.draw(st.integers(0, len(rewards) - 1))
    others = rewards[:index] + rewards[index + 1 :]
    changed = [*rewards[:index], data.draw(st.floats(-2, 2)), *rewards[index + 1 :]]
    base = leave_one_out(rewards, prior)[index]
    assert leave_one_out(changed, prior)[index] == pytest.approx(base, abs=1e-9)
    assert min([prior.mean, *others]) - 1e-9 <= base <= max([prior.mean, *others]) + 1e-9
    assert base == pytest.approx((prior.count * prior.mean + sum(others)) / (prior.count + len(others)), abs=1e-9)


@given(REWARDS, st.integers(0, 40), st.floats(0.5, 100))
def test_what_is_known_fades_towards_the_other_prompts(rewards, age, half_life) -> None:
    history = PromptHistory(half_life, strength=2.0)
    history.add("this", rewards, 5)
    history.add("other", [1.0] * 1000, 5)
    fresh, aged = history.prior("this", 5), history.prior("this", 5 + age)
    assert aged.count - 2 == pytest.approx((fresh.count - 2) * 0.5 ** (age / half_life))
    everybody = (sum(rewards) + 1000) / (len(rewards) + 1000)
    assert history.prior("new", 5 + age).mean == pytest.approx(everybody) and history.prior("new", 5).count == 2
    low, high = sorted([everybody, float(np.mean(rewards))])
    assert low - 1e-9 <= aged.mean <= high + 1e-9
    assert abs(aged.mean - everybody) <= abs(fresh.mean - everybody) + 1e-9


def test_a_prompt_of_two_epochs_has_the_discounted_mean_of_both() -> None:
    history = PromptHistory(half_life=10, strength=1.0)
    assert history.prior("a", 0) == Prior(NOTHING_KNOWN, 1.0) and history.age("a", 0) is None
    history.add("a", [1.0, 1.0], 0)
    history.add("a", [0.0], 10)
    # At iteration 20: 2 x 1/4 right ones, 1 x 1/2 wrong ones, and the mean of all prompts (the same here) once.
    prior = history.prior("a", 20)
    assert history.age("a", 20) == 10 and prior.count == pytest.approx(2.0) and prior.mean == pytest.approx(0.5)


def test_a_history_goes_on_from_what_was_stored() -> None:
    history, again = PromptHistory(10, 1.0), PromptHistory(10, 1.0)
    for iteration, rewards in ((0, [1.0, 0.0]), (3, [1.0])):
        history.add(prompt_key("2 + 2", "4"), rewards, iteration)
    again.restore(json.loads(json.dumps(history.state())))
    for key in (prompt_key("2 + 2", "4"), prompt_key("2 + 2", "5")):
        assert again.prior(key, 7) == history.prior(key, 7) and again.age(key, 7) == history.age(key, 7)


def test_a_prompt_is_known_by_its_content() -> None:
    keys = {prompt_key(*pair) for pair in [("a", "b"), ("a", "c"), ("ab", ""), ("", "ab"), ("a b", None)]}
    assert len(keys) == 5 and prompt_key("a", "b") == "378a547f2b8f65f78fcd3560"


@pytest.mark.parametrize("wrong", [{"history_half_life": 0}, {"history_strength": 0.0}])
def test_a_history_without_strength_or_life_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        build(BASELINES["history"], wrong)
    with pytest.raises(ValueError, match="must be above 0"):
        PromptHistory(*(0 if flag in wrong else 1 for flag in ("history_half_life", "history_strength")))
