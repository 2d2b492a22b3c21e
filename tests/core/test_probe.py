"""Values from hidden states: independent of what comes behind a state, so the expected gradient is exact; and worth something."""

from itertools import product

import numpy as np
import pytest
from enumerable import NEWLINE, ToyLM
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.core import gold
from spo_rlhf.core.probe import PRIOR_VARIANCE, STRENGTHS, Traced, advantages, cross_fitted, spreads
from spo_rlhf.core.values import leave_one_out

DIMENSIONS = 4


def traced_of(states_PB, reward_PB) -> list[Traced]:
    """All responses of all prompts, in order."""
    return [
        Traced(prompt, np.asarray(state_KD), base, spread, reward)
        for prompt, reward_B in enumerate(reward_PB)
        for state_KD, base, spread, reward in zip(
            states_PB[prompt], leave_one_out(reward_B), spreads(reward_B), reward_B, strict=True
        )
    ]


def world(rng, prompts: int, responses: int, informative: bool = True):
    """States whose features tell the chance of a reward, or do not."""
    states_PB, reward_PB = [], []
    direction = rng.normal(size=DIMENSIONS)
    for _ in range(prompts):
        states, rewards = [], []
        for _ in range(responses):
            state_KD = rng.normal(size=(rng.integers(1, 5), DIMENSIONS))
            chance = (
                1 / (1 + np.exp(-2 * state_KD.mean(0) @ direction * np.sqrt(len(state_KD)))) if informative else 0.5
            )
            states.append(state_KD)
            rewards.append(float(rng.random() < chance))
        states_PB.append(states)
        reward_PB.append(rewards)
    return states_PB, reward_PB


def test_the_expected_gradient_is_the_policy_gradient_whatever_the_others_say():
    """All pairs of responses to one prompt; the other prompts are fixed, at three draws of them."""
    lm, rng, learned = ToyLM(3, max_tokens=2), np.random.default_rng(0), 0
    feature_SD = rng.normal(size=(len(lm.states), DIMENSIONS))

    def states(index: int) -> np.ndarray:
        response = lm.responses[index]
        return feature_SD[[lm.row[response[:t]] for t in range(len(response))]]

    for _ in range(3):
        other = rng.choice(lm.possible(), size=(11, 2))
        total = np.zeros_like(lm.prob)
        for pair in product(lm.possible(), repeat=2):
            groups = [list(pair), *other.tolist()]
            traced = traced_of(
                [[states(i) for i in group] for group in groups], [lm.rewards[group] for group in groups]
            )
            fit = cross_fitted(traced)
            learned += fit.learned > 0
            for index, one, value_K in zip(pair, traced, fit.value_K):
                for t, adv in enumerate(advantages(value_K, one.reward, 1.0)):
                    total += lm.weights[list(pair)].prod() / 2 * adv * lm.score(index, t, t + 1)
        assert total == pytest.approx(lm.policy_gradient(), abs=1e-12)
    assert learned, "or it would be RLOO"


def expected_with_gold(lm: ToyLM, groups_of, trace: float) -> tuple[np.ndarray, bool]:
    """Expected gradient over all pairs of responses to one prompt, whose states have the right answer's probability."""

    def states(index: int) -> np.ndarray:
        # The right answer is a newline at once: log-probs of one token, by the model itself, behind each prefix.
        response = lm.responses[index]
        rows = [lm.row[response[:t]] for t in range(len(response))]
        return gold.features([[float(np.log(lm.prob[row, NEWLINE]))] for row in rows])

    total, learned = np.zeros_like(lm.prob), False
    for pair in product(lm.possible(), repeat=2):
        groups = [list(pair), *groups_of]
        traced = traced_of([[states(i) for i in group] for group in groups], [lm.rewards[group] for group in groups])
        fit = cross_fitted(traced)
        learned |= fit.learned > 0
        for index, one, value_K in zip(pair, traced, fit.value_K):
            for t, adv in enumerate(advantages(value_K, one.reward, trace)):
                total += lm.weights[list(pair)].prod() / 2 * adv * lm.score(index, t, t + 1)
    return total, learned


def test_values_from_the_right_answers_probability_are_exact_as_a_baseline_and_biased_as_the_value_of_a_segment():
    lm, rng = ToyLM(3, max_tokens=2), np.random.default_rng(0)
    lm.rewards = np.array([float(NEWLINE in response) for response in lm.responses])
    others = rng.choice(lm.possible(), size=(11, 2)).tolist()
    exact, learned = expected_with_gold(lm, others, trace=1.0)
    assert learned, "or it would be RLOO"
    assert exact == pytest.approx(lm.policy_gradient(), abs=1e-12)
    biased, _ = expected_with_gold(lm, others, trace=0.0)
    assert np.abs(biased - lm.policy_gradient()).max() > 0.01


def test_the_features_of_an_answer_are_its_probability_and_how_it_moves():
    made = gold.features([[np.log(0.5), np.log(0.5)], [np.log(0.8), np.log(0.5)]])
    np.testing.assert_allclose(made[0], [0.25, np.log(0.5), 0.0])
    np.testing.assert_allclose(made[1], [0.4, np.log(0.4) / 2, np.log(0.8 / 0.5) / 2])


def test_an_answer_begins_where_its_text_has_other_tokens_than_the_template():
    assert gold.answer_start([1, 2, 3, 4], [1, 2]) == 2
    assert gold.answer_start([1, 2, 30, 4], [1, 2, 3]) == 2, "the last word of the template merges with the answer"
    assert gold.answer_start([1, 2], [1, 2]) == 1, "one token is left to the answer"


@given(st.integers(0, 1000))
def test_nothing_behind_a_state_enters_its_value(seed):
    """The own reward, and the features of later states, may be anything."""
    rng = np.random.default_rng(seed)
    states_PB, reward_PB = world(rng, 6, 3)
    before = cross_fitted(traced_of(states_PB, reward_PB)).value_K[0]
    states_PB[0][0][1:] = rng.normal(size=states_PB[0][0][1:].shape)
    reward_PB[0][0] = 1 - reward_PB[0][0]
    after = cross_fitted(traced_of(states_PB, reward_PB)).value_K[0]
    assert after[0] == before[0]


def test_what_states_tell_is_found_and_noise_is_not():
    rng = np.random.default_rng(1)
    told = [cross_fitted(traced_of(*world(rng, 40, 4))) for _ in range(10)]
    assert min(fit.explained for fit in told) > 0.05 and all(fit.learned == 1 for fit in told)
    noise = [cross_fitted(traced_of(*world(rng, 40, 4, informative=False))) for _ in range(10)]
    assert np.mean([fit.explained for fit in noise]) > -0.05 and np.mean([fit.learned for fit in noise]) < 0.5


def test_values_stay_within_the_rewards_that_were_seen_and_scales_do_not_matter():
    states_PB, reward_PB = world(np.random.default_rng(2), 30, 4)
    fit = cross_fitted(traced_of(states_PB, reward_PB))
    assert all((value_K >= 0).all() and (value_K <= 1).all() for value_K in fit.value_K)
    scaled = [[state * [1.0, 10.0, 0.1, 3.0] for state in states] for states in states_PB]
    for one, other in zip(fit.value_K, cross_fitted(traced_of(scaled, reward_PB)).value_K):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_two_folds_are_too_few_to_learn_and_states_may_be_missing():
    states_PB, reward_PB = world(np.random.default_rng(3), 2, 3)
    traced = traced_of(states_PB, reward_PB)
    for one, value_K in zip(traced, cross_fitted(traced).value_K):
        assert (value_K == one.base).all()
    empty = [Traced(prompt, np.zeros((0, DIMENSIONS)), 0.5, 0.5, 1.0) for prompt in range(4)]
    assert [len(value_K) for value_K in cross_fitted(empty).value_K] == [0] * 4
    assert cross_fitted([]).value_K == []


def test_a_spread_knows_the_others_alone():
    first, second, _ = spreads([1.0, 0.0, 1.0])
    # The others of the first: 0 and 1, variance 1/2; those of the second are alike.
    assert first == pytest.approx(np.sqrt((0.5 + PRIOR_VARIANCE) / 2)) and second == pytest.approx(
        np.sqrt(PRIOR_VARIANCE / 2)
    )
    assert spreads([0.0]).tolist() == spreads([1.0, 0.0]).tolist()[:1] == [np.sqrt(PRIOR_VARIANCE)]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6), st.floats(-1, 1), st.floats(0, 1))
def test_traces_lie_between_differences_and_baselines(values, reward, trace):
    value_K = np.array(values)
    assert advantages(value_K, reward, 1.0) == pytest.approx(reward - value_K)
    assert advantages(value_K, reward, 0.0) == pytest.approx(np.diff([*values, reward]))
    adv_K = advantages(value_K, reward, trace)
    for k in range(len(values) - 1):
        assert adv_K[k] == pytest.approx(values[k + 1] - values[k] + trace * adv_K[k + 1])


def test_strengths_rise_to_nothing_learned():
    assert list(STRENGTHS) == sorted(STRENGTHS) and STRENGTHS[-1] == np.inf
