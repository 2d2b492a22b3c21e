"""What the probability mask optimises, by enumeration: that of the sampled token, and that of the state.

With Q(s, y) the value of drawing y in s, d(s) the probability of getting there and b(s) the baseline in s, the expected
gradient of the tokens below the threshold rho is

    sampled token's probability:   sum_s d(s) sum_{y: pi(y|s) < rho} grad pi(y|s) (Q(s, y) - b(s)),
    most likely token's:           sum_{s: max_y pi(y|s) < rho} d(s) sum_y grad pi(y|s) Q(s, y).

The second is the policy gradient's share of the states that hesitate; no baseline enters. The first is the policy
gradient of a problem in which a confident token is worth the baseline of its state, whatever it is worth.
"""

from itertools import product

import numpy as np
import pytest
from enumerable import ToyLM

from spo_rlhf.core.advantages import chain, to_tokens
from spo_rlhf.core.partition import PROB_THRESHOLD, Fixed, below_threshold, inner_states
from spo_rlhf.core.values import Prior, leave_one_out

CONFIDENT = [ToyLM(seed, confident=0.5) for seed in (2, 7)]


def masked_score(lm: ToyLM, index: int, by_state: bool, adv_T) -> np.ndarray:
    """sum_t M_t A_t grad log pi(y_t | s_t) of a response."""
    mask_T = below_threshold(lm.top_T(index) if by_state else lm.probs_T[index], PROB_THRESHOLD)
    return sum((adv_T[t] * lm.score(index, t, t + 1) for t in np.flatnonzero(mask_T)), start=np.zeros_like(lm.prob))


def expected_masked_gradient(lm: ToyLM, by_state: bool, baseline) -> np.ndarray:
    """Of one response against ``baseline(state)``, a function of the prefix."""
    total = np.zeros_like(lm.prob)
    for index in lm.possible():
        response = lm.responses[index]
        adv_T = [lm.rewards[index] - baseline(response[:t]) for t in range(len(response))]
        total += lm.weights[index] * masked_score(lm, index, by_state, adv_T)
    return total


def stated_gradient(lm: ToyLM, worth_if_confident) -> np.ndarray:
    """sum_s d(s) sum_y grad pi(y|s) Q'(s, y), Q' = Q for tokens below rho and ``worth_if_confident(s, Q)`` for the others."""
    total = np.zeros_like(lm.prob)
    for state in lm.states:
        reached = sum(lm.weights[i] for i in lm.possible() if lm.responses[i][: len(state)] == state)
        prob = lm.prob[lm.row[state]]
        for token in range(3):
            if prob[token] == 0 or reached == 0:
                continue
            worth = lm.value((*state, token))
            if prob[token] >= PROB_THRESHOLD:
                worth = worth_if_confident(state, worth)
            total[lm.row[state]] += reached * worth * prob[token] * (np.eye(3)[token] - prob)
    return total


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("lm", CONFIDENT)
def test_with_every_token_worth_what_it_is_the_formula_is_the_policy_gradient(lm: ToyLM) -> None:
    np.testing.assert_allclose(stated_gradient(lm, lambda state, worth: worth), lm.policy_gradient(), atol=1e-9)


@pytest.mark.parametrize("lm", CONFIDENT)
def test_the_sampled_tokens_mask_lets_a_confident_token_be_worth_the_baseline(lm: ToyLM) -> None:
    for baseline in (lambda state: 0.0, lambda state: 0.8, lm.value, lambda state: lm.value(())):
        expected = expected_masked_gradient(lm, False, baseline)
        np.testing.assert_allclose(expected, stated_gradient(lm, lambda s, worth, b=baseline: b(s)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("lm", CONFIDENT)
def test_in_confident_states_its_gradient_is_about_right_against_their_value_alone(lm: ToyLM) -> None:
    """V(s) is off by the share 1 - pi of the improbable tokens; one number for all states by as much as values differ."""
    confident = lm.prob.max(1) >= PROB_THRESHOLD
    exact = lm.policy_gradient()[confident]

    def off(baseline) -> float:
        return distance(expected_masked_gradient(lm, False, baseline)[confident], exact)

    assert off(lm.value) < 1 - PROB_THRESHOLD
    assert off(lambda state: lm.value(())) > 0.5 and off(lambda state: 0.0) > 0.5


@pytest.mark.parametrize("lm", CONFIDENT)
def test_the_states_mask_gives_the_hesitating_states_share_of_the_policy_gradient(lm: ToyLM) -> None:
    """Rows of the exact gradient: the model has parameters of its own for every state."""
    hesitates = lm.prob.max(1) < PROB_THRESHOLD
    exact = lm.policy_gradient() * hesitates[:, None]
    assert np.linalg.norm(lm.policy_gradient() - exact) > 1e-3 and np.abs(exact).max() > 0.01
    for baseline in (lambda state: 0.0, lambda state: 0.8, lm.value, lambda state: lm.value(())):
        np.testing.assert_allclose(expected_masked_gradient(lm, True, baseline), exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("prior", [None, Prior(-2.0, 3.0)], ids=str)
def test_the_states_mask_is_exact_with_groups_and_chains(prior: Prior | None) -> None:
    """Over all pairs of responses, with the baselines and values that are used."""
    lm, config = ToyLM(4, confident=0.5, max_tokens=3), Fixed(segment_length=2)
    exact = lm.policy_gradient() * (lm.prob.max(1) < PROB_THRESHOLD)[:, None]
    group, segments = np.zeros_like(lm.prob), np.zeros_like(lm.prob)
    for pair in product(lm.possible(), repeat=2):
        weight, reward_B = lm.weights[list(pair)].prod() / 2, lm.rewards[list(pair)]
        for index, reward, base in zip(pair, reward_B, leave_one_out(reward_B, prior)):
            length, boundary_K = len(lm.responses[index]), lm.partition(config, index)
            value_K = [base, *(lm.value(lm.responses[index][:b]) for b in inner_states(boundary_K))]
            adv_T = to_tokens(chain(value_K, reward), boundary_K)
            group += weight * masked_score(lm, index, True, [reward - base] * length)
            segments += weight * masked_score(lm, index, True, adv_T)
    np.testing.assert_allclose(group, exact, rtol=0, atol=1e-9)
    np.testing.assert_allclose(segments, exact, rtol=0, atol=1e-9)
