"""A tabular language model behind the Engine protocol: true values are known, faults can be injected. For tests and studies."""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from spo_rlhf.rollout.protocol import Completion, Grade


class ToyLanguageModel:
    """Token 0 ends a response; the other tokens' probabilities depend on the last two tokens. `reward` grades whole responses.

    Args:
        vocabulary: number of tokens, token 0 included.
        max_tokens: longest response; a response that reaches it without token 0 is truncated and has reward 0.
        reward: token ids of a finished response -> reward.
        seed: of the table.
    """

    def __init__(self, vocabulary: int, max_tokens: int, reward: Callable[[Sequence[int]], float], seed: int = 0):
        rng = np.random.default_rng(seed)
        logits = 1.5 * rng.standard_normal((vocabulary, vocabulary, vocabulary))
        self.table = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        self.vocabulary, self.max_tokens, self.reward = vocabulary, max_tokens, reward

    def probabilities(self, token_ids: Sequence[int]) -> np.ndarray:
        """(V,) of the next token after a response prefix."""
        before, last = (0, 0, *token_ids)[-2:]
        return self.table[before, last]

    def value(self, prefix: Sequence[int] = ()) -> float:
        """Exact expected reward of continuing `prefix`, by enumeration."""
        return sum(probability * self.final_reward(response) for response, probability in self.responses(prefix))

    def final_reward(self, response: Sequence[int]) -> float:
        return self.reward(response) if response[-1] == 0 else 0.0

    def responses(self, prefix: Sequence[int] = ()) -> Iterator[tuple[tuple[int, ...], float]]:
        """All responses that begin with `prefix`, with their probability given it."""
        prefix = tuple(prefix)
        if prefix and (prefix[-1] == 0 or len(prefix) == self.max_tokens):
            yield prefix, 1.0
            return
        for token, probability in enumerate(self.probabilities(prefix)):
            for response, rest in self.responses((*prefix, token)):
                yield response, probability * rest


class ToyEngine:
    """Samples from a ToyLanguageModel. A prompt has `prompt_length` tokens, which the model ignores.

    `requests` records (prefix, n, seed) of every request in the order of arrival. `delay(prefix)` seconds pass before a request is
    answered; `fault(prefix)` may raise. `by_state`: with the log-probs of the most likely tokens; `squared`: and the squares.
    """

    def __init__(
        self,
        model: ToyLanguageModel,
        prompt_length: int,
        delay: Callable[[tuple[int, ...]], float] = lambda prefix: 0.0,
        fault: Callable[[tuple[int, ...]], None] = lambda prefix: None,
        by_state: bool = False,
        squared: bool = False,
    ):
        self.model, self.prompt_length, self.delay, self.fault = model, prompt_length, delay, fault
        self.by_state, self.squared = by_state or squared, squared
        self.requests: list[tuple[tuple[int, ...], int, int]] = []
        self.in_flight = 0

    async def sample(
        self, state: Sequence[int], *, n: int, max_tokens: int, seed: int, logprobs: bool
    ) -> list[Completion]:
        prefix = tuple(state[self.prompt_length :])
        self.requests.append((prefix, n, seed))
        self.in_flight += 1
        try:
            await asyncio.sleep(self.delay(prefix))
            self.fault(prefix)
            return [self._continue(prefix, max_tokens, seed + i, logprobs) for i in range(n)]
        finally:
            self.in_flight -= 1

    def _continue(self, prefix: tuple[int, ...], max_tokens: int, seed: int, logprobs: bool) -> Completion:
        rng = random.Random(seed)
        token_ids: list[int] = []
        logprob_T: list[float] = []
        top_T: list[float] = []
        square_T: list[float] = []
        while len(token_ids) < max_tokens and (not token_ids or token_ids[-1] != 0):
            probability = self.model.probabilities((*prefix, *token_ids))
            [token] = rng.choices(range(self.model.vocabulary), weights=probability.tolist())
            token_ids.append(token)
            logprob_T.append(float(np.log(probability[token])))
            top_T.append(float(np.log(probability.max())))
            square_T.append(float((probability**2).sum()))
        truncated = token_ids[-1] != 0
        if not logprobs:
            return Completion(token_ids, None, truncated)
        top, squares = top_T if self.by_state else None, square_T if self.squared else None
        return Completion(token_ids, logprob_T, truncated, top, squares=squares)


class ToyGrader:
    """The model's own reward."""

    def __init__(self, model: ToyLanguageModel):
        self.model = model

    async def grade(self, response_ids: Sequence[int]) -> Grade:
        reward = self.model.reward(response_ids)
        return Grade(reward=reward, score=reward)
