"""Monte Carlo estimates of state values from the rewards of whole responses."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

Floats = Sequence[float] | np.ndarray  # one dimension


@dataclass(frozen=True)
class ValueEstimate:
    """V(s): mean reward of ``count`` rollouts from s, and the standard error of that mean (0 for one rollout)."""

    mean: float
    stderr: float
    count: int


def monte_carlo(reward_R: Floats) -> ValueEstimate:
    """Value of a state from the rewards (R,) of independent rollouts started in it.

    Raises ValueError without rollouts or for a reward that is not finite.
    """
    reward_R = _finite(reward_R)
    if reward_R.size == 0:
        raise ValueError("no rollout rewards: a Monte Carlo value needs at least one rollout")
    count = reward_R.size
    stderr = reward_R.std(ddof=1) / sqrt(count) if count > 1 else 0.0
    return ValueEstimate(mean=float(reward_R.mean()), stderr=float(stderr), count=count)


def leave_one_out(reward_B: Floats) -> np.ndarray:
    """V(s_0) for each of B responses to one prompt: the mean reward (B,) of the other B - 1.

    Independent of the response it is subtracted from, hence an unbiased baseline that costs no extra rollout.
    Raises ValueError for fewer than two responses or for a reward that is not finite.
    """
    reward_B = _finite(reward_B)
    if reward_B.size < 2:
        raise ValueError(f"leave-one-out needs at least 2 responses to a prompt, not {reward_B.size}")
    return (reward_B.sum() - reward_B) / (reward_B.size - 1)


def others(reward_B: Floats) -> list[ValueEstimate]:
    """`leave_one_out` (B,) with the standard errors of these means and the B - 1 rewards behind each.

    Raises ValueError as `leave_one_out` does.
    """
    mean_B = leave_one_out(reward_B)
    rest_B = [monte_carlo(np.delete(np.asarray(reward_B), index)) for index in range(len(mean_B))]
    return [ValueEstimate(float(mean), one.stderr, one.count) for mean, one in zip(mean_B, rest_B, strict=True)]


def _finite(reward: Floats) -> np.ndarray:
    reward = np.asarray(reward, dtype=np.float64)
    if not np.isfinite(reward).all():
        raise ValueError("a reward is not a finite number: check the reward function")
    return reward
