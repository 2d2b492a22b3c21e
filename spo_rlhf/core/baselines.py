"""What a response is compared with at its prompt: `--spo.baseline`. To add one, write its record and enter it.

A baseline may bring what was known of the prompt before it was sampled, as a `Prior`; the method blends it with the other
responses to the prompt (`core.values.leave_one_out`), or with the other children of the root (`core.tree`). What it must
not do is look at the responses of the iteration itself: the policy gradient would be biased.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from spo_rlhf.core.history import PromptHistory
from spo_rlhf.core.options import check, option
from spo_rlhf.core.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Baseline(ABC):
    """What is known of a prompt before it is sampled; its fields are its options."""

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    def memory(self) -> PromptHistory | None:
        """An empty memory of a run's prompts, or None where nothing is remembered."""


def history_half_life() -> Any:
    """The option, for every part that remembers prompts."""
    return option(
        64.0,
        flag="history_half_life",
        above=0,
        at_most=1e9,
        metavar="N",
        help="iterations after which an outcome of a prompt counts half",
    )


def history_strength() -> Any:
    """The option, for every part that remembers prompts."""
    return option(
        1.0,
        flag="history_strength",
        above=0,
        at_most=1e9,
        metavar="K",
        help="outcomes that the pass rate of all prompts together counts as",
    )


@dataclass(frozen=True, kw_only=True)
class GroupBaseline(Baseline):
    """The other responses to the prompt alone."""

    def memory(self) -> PromptHistory | None:
        return None


@dataclass(frozen=True, kw_only=True)
class History(Baseline):
    """The other responses, blended with the prompt's pass rate in earlier iterations; one response a prompt is enough."""

    half_life: float = history_half_life()
    strength: float = history_strength()

    def memory(self) -> PromptHistory | None:
        return PromptHistory(self.half_life, self.strength)


BASELINES: Registry[type[Baseline]] = Registry("baseline", {"group": GroupBaseline, "history": History})
