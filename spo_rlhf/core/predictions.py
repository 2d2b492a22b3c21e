"""The noise of a prompt's gradient, times its tokens, that `diagnosis.Moments` predict for groups, chains and trees.

Noise is the expected squared length of the gradient of one prompt in the logits: the squares of all its samples' own
gradients (exact, tests/core/test_diagnosis.py), and what samples of the same prompt have in common, which is exact for groups
and, for chains and trees, taken as that of as many responses. ``history`` outcomes of the prompt are known beforehand and cost
nothing; 0: none. Lower is better; all of it is linear in the energies, so only ratios mean something.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from spo_rlhf.core.diagnosis import Moments
from spo_rlhf.core.tree_baselines import Shrunk


@dataclass(frozen=True)
class Design(ABC):
    """A way to spend tokens on a prompt."""

    history: int = 0

    @abstractmethod
    def noise(self, m: Moments) -> np.ndarray:
        """Noise of a prompt's gradient, of the shape of `m.tokens`."""

    @abstractmethod
    def tokens(self, m: Moments) -> np.ndarray:
        """Generated tokens of a prompt."""

    def price(self, m: Moments) -> np.ndarray:
        """Noise times tokens."""
        return self.noise(m) * self.tokens(m)


AnyDesign = TypeVar("AnyDesign", bound=Design)


@dataclass(frozen=True)
class Group(Design):
    """RLOO: whole responses against the mean of the others and the history."""

    responses: int = 8

    def __post_init__(self) -> None:
        if self.responses + self.history < 2:
            raise ValueError("one response needs a history")

    def noise(self, m: Moments) -> np.ndarray:
        known = self.history + self.responses - 1
        own = m.group + m.group_noise / known
        return (own + (self.responses - 1) * (1 + 1 / known**2) * m.overlap) / self.responses

    def tokens(self, m: Moments) -> np.ndarray:
        return self.responses * m.tokens


@dataclass(frozen=True)
class Chain(Design):
    """A boundary at cut number `cut`, its value from so many rollouts; V(s_0) as in a group."""

    responses: int = 4
    rollouts: int = 1
    cut: int = 0

    def noise(self, m: Moments) -> np.ndarray:
        known, c = self.history + self.responses - 1, self.cut
        before = m.before_value_C[..., c] + m.before_noise_C[..., c] / self.rollouts + m.before_start_C[..., c] / known
        after = m.after_own_C[..., c] + m.after_noise_C[..., c] / self.rollouts
        return (before + after + (self.responses - 1) * m.overlap) / self.responses

    def tokens(self, m: Moments) -> np.ndarray:
        return self.responses * (m.tokens + self.rollouts * (m.tokens - m.before_C[..., self.cut]))


@dataclass(frozen=True)
class Tree(Design):
    """Two levels, divided at cut number `cut`, against `Shrunk` baselines, the levels weighing alike."""

    branching: tuple[int, int] = (4, 2)
    cut: int = 0

    def factors(self, m: Moments) -> tuple[float, float, float]:
        """Share settled at the cut, and `Shrunk`'s factors for it, by all prompts together (row 0)."""
        settled = settled_at(m)[..., self.cut]
        share = float(settled.reshape(-1)[0])
        shrunk = Shrunk(branching=self.branching, settled=(share,))
        first, second = shrunk.factors(self.history or None)
        return share, float(first), float(second)

    def noise(self, m: Moments) -> np.ndarray:
        (wide, deep), c = self.branching, self.cut
        _, first, second = self.factors(m)
        value = m.before_value_C[..., c] + m.before_noise_C[..., c] / deep
        value = value + self._start(first, m.before_start_C[..., c], m.before_others_C[..., c])
        start = m.after_value_C[..., c] + self._start(first, m.after_start_C[..., c], m.after_others_C[..., c])
        own = m.after_own_C[..., c] + second**2 * m.after_noise_C[..., c] / (deep - 1)
        own = own + (1 - second) ** 2 * start + 2 * (1 - second) * m.after_cross_C[..., c]
        return value / wide + own / (wide * deep) + (1 - 1 / wide) * m.overlap

    def _start(self, factor: float, start: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Variance of what the first level is compared with: its siblings' values, shrunk towards the history's mean."""
        wide, deep = self.branching
        of_siblings = factor**2 * (start - others * (1 - 1 / deep)) / (wide - 1) if wide > 1 else np.zeros_like(start)
        return of_siblings + (1 - factor) ** 2 * start / self.history if self.history else of_siblings

    def tokens(self, m: Moments) -> np.ndarray:
        wide, deep = self.branching
        before = m.before_C[..., self.cut]
        return wide * (before + deep * (m.tokens - before))


def settled_at(m: Moments) -> np.ndarray:
    """Share (.., C) of the outcome's variance that is settled at each cut, within 0..1 and rising."""
    spread = np.where(m.spread > 0, m.spread, 1.0)[..., None]
    return np.maximum.accumulate(np.clip(1 - m.unsettled_C / spread, 0.0, 1.0), axis=-1)


def designs(cuts: int, history: int) -> Iterator[Design]:
    """All that is looked at, without a history or with one."""
    for responses in (1, 2, 4, 8, 16):
        if responses + history > 1:
            yield Group(history=history, responses=responses)
    for cut in range(cuts):
        for responses in (1, 2, 4, 8):
            if responses + history > 1:
                yield from (Chain(history=history, responses=responses, rollouts=n, cut=cut) for n in (1, 2, 4))
        for wide in (1, 2, 3, 4, 6, 8):
            if wide + history > 1:
                yield from (Tree(history=history, branching=(wide, deep), cut=cut) for deep in (2, 3, 4))


@dataclass(frozen=True)
class Interval:
    """An estimate and the middle 95 % of its values over resampled prompts."""

    value: float
    low: float
    high: float

    def parts(self) -> dict[str, float]:
        """By what stands behind its name."""
        return {"": self.value, "_low": self.low, "_high": self.high}


def interval(value_D: np.ndarray) -> Interval:
    """Of values whose first is that of all prompts, as `diagnosis.resampled` orders them."""
    low, high = np.nanquantile(value_D[1:], (0.025, 0.975)) if len(value_D) > 1 else (np.nan, np.nan)
    return Interval(float(value_D[0]), float(low), float(high))


def cheapest(among: Sequence[AnyDesign], m: Moments) -> AnyDesign:
    """The design of the lowest price by all prompts together."""
    return min(among, key=lambda design: float(design.price(m).reshape(-1)[0]))
