"""Which prompts of the data are sampled: `--spo.prompts`. To add a choice, write its record and enter it.

A prompt that is kept with a known probability q > 0, decided before it is sampled, counts 1/q in the loss. The sum over the
prompts considered then has the expectation of the sum over all of them, whatever the q; and since considering ends with
the N-th kept prompt, a stopping time, the sum of a batch of N is E[number considered] times the mean (Wald).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import sqrt

from spo_rlhf.core.baselines import history_half_life, history_strength
from spo_rlhf.core.history import PromptHistory
from spo_rlhf.core.options import check, option
from spo_rlhf.core.registry import Registry
from spo_rlhf.core.values import Prior


@dataclass(frozen=True, kw_only=True)
class PromptChoice(ABC):
    """With which probability a prompt is sampled; its fields are its options."""

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    def keep_probability(self, prior: Prior) -> float:
        """q, above 0 and at most 1, from what is known of the prompt."""

    @abstractmethod
    def memory(self) -> PromptHistory | None:
        """An empty memory of a run's prompts; None where each is sampled anyway."""


@dataclass(frozen=True, kw_only=True)
class AllPrompts(PromptChoice):
    """Every prompt, in the order of the data."""

    def keep_probability(self, prior: Prior) -> float:
        return 1.0

    def memory(self) -> PromptHistory | None:
        return None


@dataclass(frozen=True, kw_only=True)
class SkipDecided(PromptChoice):
    """Those that are nearly always or never solved are sampled less often, by their history, and count as much more.

    q = clip(2 sqrt(p (1 - p)), floor, 1): in proportion to the spread of the outcome, the choice of least variance.
    """

    floor: float = option(
        0.25,
        flag="skip_floor",
        above=0,
        at_most=1,
        metavar="Q",
        help="least probability with which a prompt is sampled",
    )
    half_life: float = history_half_life()
    strength: float = history_strength()

    def keep_probability(self, prior: Prior) -> float:
        pass_rate = min(max(prior.mean, 0.0), 1.0)
        return min(max(2 * sqrt(pass_rate * (1 - pass_rate)), self.floor), 1.0)

    def memory(self) -> PromptHistory | None:
        return PromptHistory(self.half_life, self.strength)


PROMPT_CHOICES: Registry[type[PromptChoice]] = Registry("choice of prompts", {"all": AllPrompts, "skip": SkipDecided})
