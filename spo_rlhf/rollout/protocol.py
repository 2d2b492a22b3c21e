"""What a sampler needs of an inference engine. Token ids only; no text, no engine library."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Completion:
    """One sampled continuation of T tokens."""

    token_ids: list[int]  # (T,), with the end-of-sequence token if it was sampled
    logprobs: list[float] | None  # (T,) of the sampled tokens under the behaviour policy, after temperature and top-p
    truncated: bool  # cut by the token limit, not ended by the policy
    top_logprobs: list[float] | None = None  # (T,) of the most likely tokens, where those decide about hesitation
    cached_tokens: int = 0  # prompt tokens that came from the prefix cache
    squares: list[float] | None = None  # (T,) sum of squared probabilities over the likeliest tokens, where asked for
    versions: list[int] | None = None  # (T,) policy updates behind the weights of each token, where they may differ

    @property
    def deciding_logprobs(self) -> list[float] | None:
        """(T,) by which the policy hesitated: of the most likely tokens where they were asked for, else of the sampled ones."""
        return self.logprobs if self.top_logprobs is None else self.top_logprobs


class Engine(Protocol):
    """An inference engine that continues token ids."""

    async def sample(
        self, state: Sequence[int], *, n: int, max_tokens: int, seed: int, logprobs: bool
    ) -> list[Completion]:
        """`n` independent continuations of the token ids `state`, in one request."""
        ...


@dataclass(frozen=True)
class Grade:
    """What a reward function says of one response."""

    reward: float
    score: float  # what dynamic filtering looks at; the reward itself unless the reward function says otherwise
    logs: dict[str, float] = field(default_factory=dict)
    steps: tuple[tuple[int, float], ...] | None = None  # (characters of the response up to its end, value) of each step
    answered: bool = field(default=True, compare=False)  # False: no reward function has said this


TRUNCATED = Grade(reward=0.0, score=0.0, answered=False)  # a response cut by the length limit is not graded


class ResponseGrader(Protocol):
    """Grades responses to the prompt it was made for."""

    async def grade(self, response_ids: Sequence[int]) -> Grade:
        """Grade of the response with these token ids."""
        ...
