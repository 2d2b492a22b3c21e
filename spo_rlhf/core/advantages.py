"""Segment advantages, and what the tokens get of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spo_rlhf.core.options import check
from spo_rlhf.core.registry import Registry
from spo_rlhf.core.values import Floats, leave_one_out

STD_EPSILON = 1e-8


def chain(value_K: Floats, reward: float) -> np.ndarray:
    """Advantages (K,) of the segments of one response: A_k = V(s_{b_{k+1}}) - V(s_{b_k}), with V(end) := reward.

    ``value_K`` (K,): values at the starts of the segments, V(s_0) first. The advantages sum to reward - V(s_0).
    Raises ValueError without a value.
    """
    if len(value_K) == 0:
        raise ValueError("no values: a response has at least one segment, whose value is V(s_0)")
    return np.diff(np.append(np.asarray(value_K, dtype=np.float64), reward))


def among_siblings(reward_R: Floats) -> np.ndarray:
    """Advantages (R,) of independent continuations of one state: the reward of each minus the mean of the others'.

    With the score of a continuation's own tokens, the sum of the R products has R times grad V(s) as its expectation, the
    state s held fixed: the baseline of each is independent of it. tests/core/test_unbiased.py enumerates this.
    Raises ValueError for fewer than two rewards.
    """
    return np.asarray(reward_R, dtype=np.float64) - leave_one_out(reward_R)


def to_tokens(adv_K: Floats, boundaries: Sequence[int]) -> np.ndarray:
    """Token advantages (T,): every token of segment k carries A_k. ``boundaries`` (K+1,) as of ``partition``.

    Raises ValueError unless there is one advantage per segment.
    """
    if len(adv_K) != len(boundaries) - 1:
        raise ValueError(f"{len(adv_K)} advantages for {len(boundaries) - 1} segments: give one per segment")
    return np.repeat(np.asarray(adv_K, dtype=np.float64), np.diff(boundaries))


def normalize(adv_N: Floats, mask_N: Sequence[bool] | np.ndarray) -> np.ndarray:
    """Advantages (N,) of all tokens of the batch, scaled to mean 0 and standard deviation 1 over its masked tokens.

    One affine map, (A - mean) / (population std + 1e-8), for all tokens; mean and std are those of the tokens with
    mask 1 in the *whole* batch, so hand in all of it, never a micro-batch. Masked tokens that are all equal are only
    centred; without a masked token the advantages come back as they are.
    """
    adv_N = np.array(adv_N, dtype=np.float64)
    masked = adv_N[np.asarray(mask_N, dtype=bool)]
    if masked.size == 0:
        return adv_N
    # Rounding leaves a tiny std where all are equal; dividing by it would blow up the tokens outside the mask.
    scale = 1.0 if masked.min() == masked.max() else masked.std() + STD_EPSILON
    return (adv_N - masked.mean()) / scale


@dataclass(frozen=True, kw_only=True)
class Normalizer(ABC):
    """What is done to the advantages of a whole rollout batch; its fields are its options.

    ``moves_zero``: an advantage of 0 may become another number, so samples without one are not idle.
    """

    moves_zero: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    def __call__(self, adv_N: Floats, mask_N: Sequence[bool] | np.ndarray) -> np.ndarray:
        """Advantages (N,) of all tokens of the batch and which of them are under the loss -> new ones (N,)."""


@dataclass(frozen=True, kw_only=True)
class Unchanged(Normalizer):
    """They stay as they are."""

    def __call__(self, adv_N: Floats, mask_N: Sequence[bool] | np.ndarray) -> np.ndarray:
        return np.array(adv_N, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Whiten(Normalizer):
    """Mean 0 and standard deviation 1 over the tokens under the loss."""

    moves_zero = True

    def __call__(self, adv_N: Floats, mask_N: Sequence[bool] | np.ndarray) -> np.ndarray:
        return normalize(adv_N, mask_N)


NORMALIZERS: Registry[type[Normalizer]] = Registry("advantage norm", {"none": Unchanged, "batch": Whiten})
