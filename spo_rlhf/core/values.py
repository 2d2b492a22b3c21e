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


@dataclass(frozen=True)
class Prior:
    """What earlier responses say of a prompt: as much as ``count`` > 0 outcomes, of mean ``mean``, would."""

    mean: float
    count: float


def leave_one_out(reward_B: Floats, prior: Prior | None = None) -> np.ndarray:
    """V(s_0) for each of B responses to one prompt: the mean reward (B,) of the other B - 1, blended with what was known.

        b_i = (count * mean + sum_{j != i} r_j) / (count + B - 1)

    Independent of the response it is subtracted from, hence an unbiased baseline that costs no extra rollout, as long as
    the prior comes from earlier responses alone. For rewards 0 and 1 it is the mean of a Beta posterior.
    Raises ValueError for fewer than two responses without a prior, none with one, or a reward that is not finite.
    """
    reward_B = _finite(reward_B)
    mean, count = (0.0, 0.0) if prior is None else (prior.mean, prior.count)
    if reward_B.size < (2 if count <= 0 else 1):
        raise ValueError(f"leave-one-out needs at least 2 responses to a prompt, 1 with a prior, not {reward_B.size}")
    return (count * mean + reward_B.sum() - reward_B) / (count + reward_B.size - 1)


def others(reward_B: Floats, prior: Prior | None = None) -> list[ValueEstimate]:
    """`leave_one_out` (B,) with the standard errors of these means and the B - 1 rewards behind each.

    The prior, as a constant, only makes the part of the others smaller. Raises ValueError as `leave_one_out` does.
    """
    mean_B = leave_one_out(reward_B, prior)
    known, made = 0.0 if prior is None else prior.count, list[ValueEstimate]()
    for index, mean in enumerate(mean_B):
        rest = np.delete(np.asarray(reward_B, dtype=np.float64), index)
        stderr = monte_carlo(rest).stderr * rest.size / (known + rest.size) if rest.size else 0.0
        made.append(ValueEstimate(float(mean), stderr, rest.size))
    return made


def _finite(reward: Floats) -> np.ndarray:
    reward = np.asarray(reward, dtype=np.float64)
    if not np.isfinite(reward).all():
        raise ValueError("a reward is not a finite number: check the reward function")
    return reward
