"""Which states of a response get a Monte Carlo value: `--spo.estimator`. To add one, write its record and enter it.

An estimator is handed the boundaries of the partition and a function that asks for values, and returns the boundaries
that stay and the values of the inner ones. What it must not do is let the tokens *behind* a state decide whether that
state gets a boundary: the policy gradient would be biased (`core.partition` derives by how much).
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from spo_rlhf.core.options import check
from spo_rlhf.core.partition import inner_states
from spo_rlhf.core.registry import Registry
from spo_rlhf.core.values import ValueEstimate
from spo_rlhf.rollout.prompt import gather


class AskValue(Protocol):
    """Value of the state behind the first `position` response tokens, from `rollouts` continuations.

    Without `rollouts` as many as --spo.mc_rollouts says. To ask again for as many gives the same answer.
    """

    def __call__(self, position: int, rollouts: int | None = None) -> Awaitable[ValueEstimate]: ...


@dataclass(frozen=True, kw_only=True)
class Estimator(ABC):
    """Values of the inner states of a response; its fields are its options."""

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    async def estimate(self, boundary_K: Sequence[int], value: AskValue) -> tuple[list[int], list[ValueEstimate]]:
        """Boundaries [0, .., T] (K + 1,), a subset of `boundary_K`, and the values (K - 1,) of the inner ones."""

    async def estimate_among(
        self, boundary_K: Sequence[int], value: AskValue, others: Callable[[], Awaitable[list[float]]]
    ) -> tuple[list[int], list[ValueEstimate]]:
        """The same, for those who look at the prompt's other responses: `others` waits for their rewards (n - 1,)."""
        return await self.estimate(boundary_K, value)


@dataclass(frozen=True, kw_only=True)
class MonteCarlo(Estimator):
    """Continuations at every inner boundary, all asked at once."""

    async def estimate(self, boundary_K: Sequence[int], value: AskValue) -> tuple[list[int], list[ValueEstimate]]:
        return list(boundary_K), await gather(value(position) for position in inner_states(boundary_K))


@dataclass(frozen=True, kw_only=True)
class Disputed(MonteCarlo):
    """Continuations only where the other responses to the prompt disagree; else the response is one segment.

    A prompt whose responses agree is nearly decided, and values within its responses tell little. Whether it is, the
    others say without the response itself, so that its own tokens decide nothing and the gradient stays exact. With
    the own reward in the question it would not (tests/core/test_budget.py). Fewer than two others cannot disagree:
    all boundaries are valued then.
    """

    async def estimate_among(
        self, boundary_K: Sequence[int], value: AskValue, others: Callable[[], Awaitable[list[float]]]
    ) -> tuple[list[int], list[ValueEstimate]]:
        reward_B = await others()
        if len(reward_B) > 1 and min(reward_B) == max(reward_B):
            boundary_K = [boundary_K[0], boundary_K[-1]]
        return await self.estimate(boundary_K, value)


ESTIMATORS: Registry[type[Estimator]] = Registry("estimator", {"monte_carlo": MonteCarlo, "disputed": Disputed})
