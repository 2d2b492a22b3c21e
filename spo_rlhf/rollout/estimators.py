"""Which states of a response get a Monte Carlo value: `--spo.estimator`. To add one, write its record and enter it.

An estimator is handed the boundaries of the partition and a function that asks for values, and returns the boundaries
that stay and the values of the inner ones. What it must not do is let the tokens *behind* a state decide whether that
state gets a boundary: the policy gradient would be biased (`core.partition` derives by how much).
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
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


@dataclass(frozen=True, kw_only=True)
class MonteCarlo(Estimator):
    """Continuations at every inner boundary, all asked at once."""

    async def estimate(self, boundary_K: Sequence[int], value: AskValue) -> tuple[list[int], list[ValueEstimate]]:
        return list(boundary_K), await gather(value(position) for position in inner_states(boundary_K))


ESTIMATORS: Registry[type[Estimator]] = Registry("estimator", {"monte_carlo": MonteCarlo})
