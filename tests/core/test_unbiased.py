"""The expected SPO-chain gradient against the exact policy gradient, on a language model small enough to enumerate.

Mask off, ratio 1, and the plain sum over tokens (normalizer 1): responses differ in length, so a sum divided by the
number of tokens of the batch would be a ratio of two random numbers, which no estimator keeps unbiased.
"""

from itertools import product

import numpy as np
import pytest
import torch

from spo_rlhf.core.advantages import chain, to_tokens
from spo_rlhf.core.loss import Clip, spo_loss
from spo_rlhf.core.partition import PROB_THRESHOLD, PartitionConfig, boundaries, inner_states
from spo_rlhf.core.values import leave_one_out, monte_carlo

TEXT, NEWLINE, EOS = range(3)
TOKEN_TEXTS = ("x", "\n", "")
MAX_TOKENS = 4


class ToyLM:
    """Softmax over {text, newline, EOS} with free float64 logits for every prefix; random terminal rewards.

    ``forced``: share of the prefixes with one possible token. ``confident``: share of them with one likely token.
    """

    def __init__(self, seed: int, forced: float = 0.0, confident: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        self.states = [prefix for n in range(MAX_TOKENS) for prefix in product((TEXT, NEWLINE), repeat=n)]
        self.row = {state: row for row, state in enumerate(self.states)}
        logits = rng.normal(scale=0.4, size=(len(self.states), 3))
        for row in range(len(self.states)):
            logits[row, rng.integers(3)] += 4.0 * (rng.random() < confident)
            if rng.random() < forced:
                logits[row, np.arange(3) != rng.integers(2)] = -1e9
        self.logits = torch.tensor(logits, requires_grad=True)
        self.prob = self.logits.detach().softmax(-1).numpy()

        self.responses = [(*s, t) for s in self.states for t in range(3) if t == EOS or len(s) == MAX_TOKENS - 1]
        self.rewards = rng.normal(size=len(self.responses))
        self.probs_T = [[self.prob[self.row[y[:t]], y[t]] for t in range(len(y))] for y in self.responses]
        self.weights = np.array([np.prod(prob_T) for prob_T in self.probs_T])
        assert self.weights.sum() == pytest.approx(1)

    def value(self, state: tuple[int, ...]) -> float:
        """V(state): the expectation of a Monte Carlo estimate of one rollout (that of R rollouts is the same)."""
        total = reached = 0.0
        for response, weight, reward in zip(self.responses, self.weights, self.rewards):
            if response[: len(state)] == state:
                total += weight * monte_carlo([reward]).mean
                reached += weight
        return total / reached

    def partition(self, config: PartitionConfig, index: int) -> list[int]:
        return boundaries(config, self.probs_T[index], [TOKEN_TEXTS[token] for token in self.responses[index]])

    def possible(self) -> list[int]:
        return [index for index, weight in enumerate(self.weights) if weight > 0]

    def policy_gradient(self) -> np.ndarray:
        """Exact gradient of the expected reward."""
        logp = self.logits.log_softmax(-1)
        rows = [[self.row[y[:t]] for t in range(len(y))] for y in self.responses]
        logp_N = torch.stack([logp[row_T, list(y)].sum() for row_T, y in zip(rows, self.responses)])
        return torch.autograd.grad(logp_N.exp() @ torch.tensor(self.rewards), self.logits)[0].numpy()

    def score(self, index: int, start: int, end: int) -> np.ndarray:
        """G: gradient of the log-probability of tokens start..end-1 of a response, in closed form."""
        score, response = np.zeros_like(self.prob), self.responses[index]
        for t in range(start, end):
            row = self.row[response[:t]]
            score[row] -= self.prob[row]
            score[row, response[t]] += 1
        return score


def expected_spo_gradient(lm: ToyLM, config: PartitionConfig) -> np.ndarray:
    """Expectation of minus the gradient of the SPO loss, over all groups of two responses, by autograd.

    At ratio 1 the objective is linear in the advantage, so the probability of a group is multiplied into it.
    """
    boundaries_N = {index: lm.partition(config, index) for index in lm.possible()}
    inner_value_N = {
        index: [lm.value(lm.responses[index][:b]) for b in inner_states(boundary_K)]
        for index, boundary_K in boundaries_N.items()
    }
    rows, tokens, adv_T, mask = [], [], [], []
    for pair in product(lm.possible(), repeat=2):
        start_value = leave_one_out(lm.rewards[list(pair)])
        for index, value_0 in zip(pair, start_value):
            response, value_K = lm.responses[index], [value_0, *inner_value_N[index]]
            adv = to_tokens(chain(value_K, lm.rewards[index]), boundaries_N[index])
            padding = MAX_TOKENS - len(response)
            rows.append([lm.row[response[:t]] for t in range(len(response))] + [0] * padding)
            tokens.append([*response] + [0] * padding)
            adv_T.append([*adv * lm.weights[list(pair)].prod() / 2] + [0.0] * padding)
            mask.append([True] * len(response) + [False] * padding)
    logp = lm.logits.log_softmax(-1)[torch.tensor(rows), torch.tensor(tokens)]
    adv_T = torch.tensor(adv_T, dtype=torch.float64)
    terms = spo_loss(logp, logp.detach(), adv_T, torch.tensor(mask), clip=Clip(), normalizer=1)
    return -torch.autograd.grad(terms.loss, lm.logits)[0].numpy()


def cutpoint_bias(lm: ToyLM, config: PartitionConfig) -> np.ndarray:
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


CUTPOINT_1 = PartitionConfig("cutpoint", interval=1)
CUTPOINT_2 = PartitionConfig("cutpoint", interval=2)
PAST_DECIDES = [
    PartitionConfig("fixed", segment_length=1),
    PartitionConfig("fixed", segment_length=2),
    PartitionConfig("fixed", segment_length=3),
    PartitionConfig("newline"),
]


@pytest.mark.parametrize("config", PAST_DECIDES, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_gradient_is_exact_where_the_past_decides_the_boundaries(seed: int, config: PartitionConfig) -> None:
    lm = ToyLM(seed, confident=0.5)
    exact = lm.policy_gradient()
    assert np.abs(exact).max() > 0.01
    np.testing.assert_allclose(expected_spo_gradient(lm, config), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [CUTPOINT_1, CUTPOINT_2], ids=str)
def test_cutpoint_gradient_is_exact_without_confident_tokens(config: PartitionConfig) -> None:
    lm = ToyLM(seed=2)
    assert lm.prob.max() < PROB_THRESHOLD
    np.testing.assert_allclose(expected_spo_gradient(lm, config), lm.policy_gradient(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [CUTPOINT_1, CUTPOINT_2], ids=str)
def test_cutpoint_gradient_is_exact_with_forced_tokens(config: PartitionConfig) -> None:
    lm = ToyLM(seed=0, forced=0.5)
    partitions_T4 = {tuple(lm.partition(config, i)) for i in lm.possible() if len(lm.responses[i]) == 4}
    assert len(partitions_T4) > 1, "the boundaries must depend on the response, or this is the fixed partition"
    assert np.abs(lm.policy_gradient()).max() > 0.01
    np.testing.assert_allclose(expected_spo_gradient(lm, config), lm.policy_gradient(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [CUTPOINT_1, CUTPOINT_2], ids=str)
def test_cutpoint_bias_with_confident_tokens_is_the_stated_one(config: PartitionConfig) -> None:
    lm = ToyLM(seed=4, confident=0.5)
    bias = expected_spo_gradient(lm, config) - lm.policy_gradient()
    assert np.abs(bias).max() > 1e-3, "not a case to tell apart from an exact gradient"
    np.testing.assert_allclose(bias, cutpoint_bias(lm, config), rtol=0, atol=1e-9)
