"""The expected SPO-chain gradient against the exact policy gradient, on a language model small enough to enumerate.

Mask off, ratio 1, and the plain sum over tokens (normalizer 1): responses differ in length, so a sum divided by the
number of tokens of the batch would be a ratio of two random numbers, which no estimator keeps unbiased.
"""

from itertools import product

import numpy as np
import pytest
import torch
from enumerable import ToyLM

from spo_rlhf.core.advantages import among_siblings, chain, to_tokens
from spo_rlhf.core.loss import Clip, spo_loss
from spo_rlhf.core.partition import (
    PROB_THRESHOLD,
    Cutpoint,
    EqualSegments,
    Fixed,
    Newline,
    Partition,
    Places,
    Subsentence,
    inner_states,
)
from spo_rlhf.core.values import Prior, leave_one_out


def expected_spo_gradient(
    lm: ToyLM, config: Partition, responses: int = 2, prior: Prior | None = None, by_state: bool = False
) -> np.ndarray:
    """Expectation of minus the gradient of the SPO loss, over all groups of so many responses, by autograd.

    `by_state`: the partition sees the probabilities of the most likely tokens.

    At ratio 1 the objective is linear in the advantage, so the probability of a group is multiplied into it.
    """
    boundaries_N = {index: lm.partition(config, index, by_state) for index in lm.possible()}
    inner_value_N = {
        index: [lm.value(lm.responses[index][:b]) for b in inner_states(boundary_K)]
        for index, boundary_K in boundaries_N.items()
    }
    rows, tokens, adv_T, mask = [], [], [], []
    for pair in product(lm.possible(), repeat=responses):
        start_value = leave_one_out(lm.rewards[list(pair)], prior)
        for index, value_0 in zip(pair, start_value):
            response, value_K = lm.responses[index], [value_0, *inner_value_N[index]]
            adv = to_tokens(chain(value_K, lm.rewards[index]), boundaries_N[index])
            padding = lm.max_tokens - len(response)
            rows.append([lm.row[response[:t]] for t in range(len(response))] + [0] * padding)
            tokens.append([*response] + [0] * padding)
            adv_T.append([*adv * lm.weights[list(pair)].prod() / responses] + [0.0] * padding)
            mask.append([True] * len(response) + [False] * padding)
    logp = lm.logits.log_softmax(-1)[torch.tensor(rows), torch.tensor(tokens)]
    adv_T = torch.tensor(adv_T, dtype=torch.float64)
    terms = spo_loss(logp, logp.detach(), adv_T, torch.tensor(mask), clip=Clip(), normalizer=1)
    return -torch.autograd.grad(terms.loss, lm.logits)[0].numpy()


def expected_continuation_gradient(lm: ToyLM, state: tuple[int, ...], siblings: int) -> np.ndarray:
    """The same for the continuations of one state, over all families of siblings; the loss covers their own tokens alone."""
    rows, tokens, adv_T, mask = [], [], [], []
    probability = lm.completions(state)
    for family in product(probability, repeat=siblings):
        weight = np.prod([probability[index] for index in family])
        for index, adv in zip(family, among_siblings(lm.rewards[list(family)])):
            response = lm.responses[index]
            padding = lm.max_tokens - len(response)
            own = [t >= len(state) for t in range(len(response))]
            rows.append([lm.row[response[:t]] for t in range(len(response))] + [0] * padding)
            tokens.append([*response] + [0] * padding)
            adv_T.append([adv * weight] * len(response) + [0.0] * padding)
            mask.append(own + [False] * padding)
    logp = lm.logits.log_softmax(-1)[torch.tensor(rows), torch.tensor(tokens)]
    adv_T = torch.tensor(adv_T, dtype=torch.float64)
    terms = spo_loss(logp, logp.detach(), adv_T, torch.tensor(mask), clip=Clip(), normalizer=1)
    return -torch.autograd.grad(terms.loss, lm.logits)[0].numpy()


def cutpoint_bias(lm: ToyLM, config: Partition) -> np.ndarray:
    """The bias that the docstring of ``spo_rlhf.core.partition`` states, from the closed-form scores."""
    bias = np.zeros_like(lm.prob)
    for index in lm.possible():
        response, boundary_K = lm.responses[index], lm.partition(config, index)
        segment_score_K = [lm.score(index, start, end) for start, end in zip(boundary_K, boundary_K[1:])]
        for k, b in enumerate(boundary_K[:-1]):
            state = response[:b]
            term = -segment_score_K[k] * lm.value(state)
            if k > 0:
                term += segment_score_K[k - 1] * (lm.value(state) - _value_if_improbable(lm, state, config.threshold))
            bias += lm.weights[index] * term
    return bias


def _value_if_improbable(lm: ToyLM, state: tuple[int, ...], threshold: float) -> float:
    """W: the expected reward from ``state`` if its next token is one below the threshold."""
    prob = lm.prob[lm.row[state]]
    low = [token for token in range(3) if 0 < prob[token] < threshold]
    return sum(prob[token] * lm.value((*state, token)) for token in low) / prob[low].sum()


SUBSENTENCE = Subsentence()
# In all of them a token may be the end of a piece or not, by what the next one is: "3" "." "3", "3" "," "3".
AMBIGUOUS_TEXTS = [("3", ".", ""), ("3", ",\n", ""), ("x3", ", .", "")]
CUTPOINT_1 = Cutpoint(interval=1)
CUTPOINT_2 = Cutpoint(interval=2)
PAST_DECIDES = [
    Fixed(segment_length=1),
    Fixed(segment_length=2),
    Fixed(segment_length=3),
    Places(places=(1, 3)),
    Newline(),
]


@pytest.mark.parametrize("config", PAST_DECIDES, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_gradient_is_exact_where_the_past_decides_the_boundaries(seed: int, config: Partition) -> None:
    lm = ToyLM(seed, confident=0.5)
    exact = lm.policy_gradient()
    assert np.abs(exact).max() > 0.01
    np.testing.assert_allclose(expected_spo_gradient(lm, config), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("responses", [1, 2])
def test_gradient_is_exact_where_something_was_known_of_the_prompt(responses: int) -> None:
    lm, config = ToyLM(1, confident=0.5), Fixed(segment_length=2)
    gradient = expected_spo_gradient(lm, config, responses, Prior(mean=-0.7, count=3.5))
    np.testing.assert_allclose(gradient, lm.policy_gradient(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [CUTPOINT_1, CUTPOINT_2], ids=str)
def test_cutpoint_gradient_is_exact_without_confident_tokens(config: Partition) -> None:
    lm = ToyLM(seed=2)
    assert lm.prob.max() < PROB_THRESHOLD
    np.testing.assert_allclose(expected_spo_gradient(lm, config), lm.policy_gradient(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [CUTPOINT_1, CUTPOINT_2], ids=str)
def test_cutpoint_gradient_is_exact_with_forced_tokens(config: Partition) -> None:
    lm = ToyLM(seed=0, forced=0.5)
    partitions_T4 = {tuple(lm.partition(config, i)) for i in lm.possible() if len(lm.responses[i]) == 4}
    assert len(partitions_T4) > 1, "the boundaries must depend on the response, or this is the fixed partition"
    assert np.abs(lm.policy_gradient()).max() > 0.01
    np.testing.assert_allclose(expected_spo_gradient(lm, config), lm.policy_gradient(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [CUTPOINT_1, CUTPOINT_2], ids=str)
def test_cutpoint_bias_with_confident_tokens_is_the_stated_one(config: Partition) -> None:
    lm = ToyLM(seed=4, confident=0.5)
    bias = expected_spo_gradient(lm, config) - lm.policy_gradient()
    assert np.abs(bias).max() > 1e-3, "not a case to tell apart from an exact gradient"
    np.testing.assert_allclose(bias, cutpoint_bias(lm, config), rtol=0, atol=1e-9)


@pytest.mark.parametrize("config", [CUTPOINT_1, CUTPOINT_2], ids=str)
@pytest.mark.parametrize("seed", [4, 7])
def test_cutpoint_gradient_is_exact_where_the_state_decides(seed: int, config: Partition) -> None:
    lm = ToyLM(seed, confident=0.5)
    assert len({tuple(lm.partition(config, i, True)) for i in lm.possible() if len(lm.responses[i]) == 4}) > 1
    gradient = expected_spo_gradient(lm, config, by_state=True)
    np.testing.assert_allclose(gradient, lm.policy_gradient(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("texts", AMBIGUOUS_TEXTS, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_subsentence_gradient_is_exact_with_marks_that_may_stand_in_numbers(seed: int, texts) -> None:
    lm = ToyLM(seed, confident=0.5, texts=texts)
    assert len({tuple(lm.partition(SUBSENTENCE, i)) for i in lm.possible() if len(lm.responses[i]) == 4}) > 1
    assert np.abs(lm.policy_gradient()).max() > 0.01
    np.testing.assert_allclose(expected_spo_gradient(lm, SUBSENTENCE), lm.policy_gradient(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("siblings", [2, 3])
def test_continuations_of_a_state_give_the_gradient_of_its_value(siblings: int) -> None:
    lm = ToyLM(seed=5, confident=0.3, max_tokens=3)
    for state in [(), (0,), (1, 0)]:
        expected = expected_continuation_gradient(lm, state, siblings)
        exact = lm.value_gradient(state)
        assert np.abs(exact).max() > 0.01
        np.testing.assert_allclose(expected, siblings * exact, rtol=0, atol=1e-9)


def test_chain_and_continuations_together_give_the_gradients_of_all_visited_states() -> None:
    """Expectation over whole rollouts: grad V(s_0) and, for every inner state of a response, R times grad V(s_b)."""
    lm, config, siblings = ToyLM(seed=6, max_tokens=3), Fixed(segment_length=1), 2
    total, expected = expected_spo_gradient(lm, config), lm.policy_gradient()
    for index in lm.possible():
        for b in inner_states(lm.partition(config, index)):
            state = lm.responses[index][:b]
            total = total + lm.weights[index] * expected_continuation_gradient(lm, state, siblings)
            expected = expected + lm.weights[index] * siblings * lm.value_gradient(state)
    assert np.abs(total - lm.policy_gradient()).max() > 0.01, "the continuations add something"
    np.testing.assert_allclose(total, expected, rtol=0, atol=1e-6)


def test_gradient_of_a_number_of_segments_is_exact_for_responses_of_one_length_only() -> None:
    config = EqualSegments(segment_count=2)
    one_length = ToyLM(seed=1, confident=0.5, endless=True)
    assert np.abs(one_length.policy_gradient()).max() > 0.01
    np.testing.assert_allclose(expected_spo_gradient(one_length, config), one_length.policy_gradient(), atol=1e-6)

    many_lengths = ToyLM(seed=1, confident=0.5)
    exact = many_lengths.policy_gradient()
    bias = np.linalg.norm(expected_spo_gradient(many_lengths, config) - exact) / np.linalg.norm(exact)
    assert 0.01 < bias < 1, "the docstring of the partition states that it is biased"
