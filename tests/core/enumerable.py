"""A language model small enough to enumerate: every response, its probability and reward, the exact policy gradient."""

from itertools import product

import numpy as np
import pytest
import torch

from spo_rlhf.core.partition import Partition
from spo_rlhf.core.values import monte_carlo

TEXT, NEWLINE, EOS = range(3)
TOKEN_TEXTS = ("x", "\n", "")


class ToyLM:
    """Softmax over {text, newline, EOS} with free float64 logits for every prefix; random terminal rewards.

    ``forced``: share of the prefixes with one possible token. ``confident``: share of them with one likely token.
    ``endless``: no response ends before the limit, so all have one length. ``texts``: those of the three tokens.
    """

    def __init__(
        self,
        seed: int,
        forced: float = 0.0,
        confident: float = 0.0,
        max_tokens: int = 4,
        endless: bool = False,
        texts: tuple[str, str, str] = TOKEN_TEXTS,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.max_tokens, self.texts = max_tokens, texts
        self.states = [prefix for n in range(max_tokens) for prefix in product((TEXT, NEWLINE), repeat=n)]
        self.row = {state: row for row, state in enumerate(self.states)}
        logits = rng.normal(scale=0.4, size=(len(self.states), 3))
        for row in range(len(self.states)):
            logits[row, rng.integers(3)] += 4.0 * (rng.random() < confident)
            if rng.random() < forced:
                logits[row, np.arange(3) != rng.integers(2)] = -1e9
        if endless:
            logits[:, EOS] = -1e9
        self.logits = torch.tensor(logits, requires_grad=True)
        self.prob = self.logits.detach().softmax(-1).numpy()

        self.responses = [(*s, t) for s in self.states for t in range(3) if t == EOS or len(s) == max_tokens - 1]
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

    def partition(self, config: Partition, index: int, by_state: bool = False) -> list[int]:
        """Boundaries of a response, by the probabilities of its tokens or of the most likely ones."""
        prob_T = self.top_T(index) if by_state else self.probs_T[index]
        return config.boundaries(prob_T, [self.texts[token] for token in self.responses[index]])

    def top_T(self, index: int) -> np.ndarray:
        """(T,) probability of the most likely token at each place of a response."""
        response = self.responses[index]
        return np.array([self.prob[self.row[response[:t]]].max() for t in range(len(response))])

    def possible(self) -> list[int]:
        return [index for index, weight in enumerate(self.weights) if weight > 0]

    def policy_gradient(self) -> np.ndarray:
        """Exact gradient of the expected reward."""
        logp = self.logits.log_softmax(-1)
        rows = [[self.row[y[:t]] for t in range(len(y))] for y in self.responses]
        logp_N = torch.stack([logp[row_T, list(y)].sum() for row_T, y in zip(rows, self.responses)])
        return torch.autograd.grad(logp_N.exp() @ torch.tensor(self.rewards), self.logits)[0].numpy()

    def completions(self, state: tuple[int, ...]) -> dict[int, float]:
        """Responses that go on from ``state`` -> their probability given the state."""
        reached = {i: self.weights[i] for i in self.possible() if self.responses[i][: len(state)] == state}
        total = sum(reached.values())
        return {index: weight / total for index, weight in reached.items()}

    def value_gradient(self, state: tuple[int, ...]) -> np.ndarray:
        """Exact gradient of V(state), the state held fixed."""
        logp = self.logits.log_softmax(-1)
        value = torch.zeros((), dtype=torch.float64)
        for index in self.completions(state):
            y = self.responses[index]
            rows = [self.row[y[:t]] for t in range(len(state), len(y))]
            value = value + logp[rows, list(y[len(state) :])].sum().exp() * self.rewards[index]
        return torch.autograd.grad(value, self.logits)[0].numpy()

    def score(self, index: int, start: int, end: int) -> np.ndarray:
        """G: gradient of the log-probability of tokens start..end-1 of a response, in closed form."""
        score, response = np.zeros_like(self.prob), self.responses[index]
        for t in range(start, end):
            row = self.row[response[:t]]
            score[row] -= self.prob[row]
            score[row, response[t]] += 1
        return score
