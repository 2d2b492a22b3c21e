"""What kept rollouts tell of the credit in a run: spread of the advantages, groups that agree, and whether values hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import sqrt

import numpy as np

from spo_rlhf.rollouts.schema import Row

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Inner boundaries whose estimates lie together: how many, their mean, and what the responses then got, ± error."""

    count: int
    value: float
    reward: float
    stderr: float


@dataclass(frozen=True)
class Calibration:
    """Monte Carlo values of inner boundaries against the rewards of the responses that they lie in.

    The outcome of a response is no part of its own estimates, so the two have one mean; `gap` is the difference and `stderr` its
    error, from the spread between prompts. `slope` is that of the reward over the value. It is below 1 by the noise of
    the estimates alone: `noise_slope` is what that noise explains, the share of their variance that is not error.
    """

    bins: list[Bin]
    states: int
    responses: int
    gap: float
    stderr: float
    slope: float | None
    noise_slope: float | None


@dataclass
class Credit:
    """Of the rollouts that were kept, by step where it says so; empty lists and None where there were none."""

    rows: int = 0
    steps: list[int] = field(default_factory=list)
    variance: list[float] = field(default_factory=list)  # of the advantages under the loss, by step
    agreeing: list[float] = field(default_factory=list)  # share of prompts whose outcomes are all equal, by step
    calibration: Calibration | None = None


def credit_of(rows: Iterable[Row]) -> Credit:
    """All of it, from rows in the order of their steps."""
    made, states = Credit(), []
    for step, of_step in groupby(rows, key=lambda row: row["step"]):
        kept = list(of_step)
        made.rows += len(kept)
        made.steps.append(step)
        under = [adv for row in kept for adv, bit in zip(row["advantages"], row["mask"]) if bit]
        made.variance.append(float(np.var(under)) if under else 0.0)
        made.agreeing.append(agreement(kept))
        states += inner_states(kept)
    made.calibration = calibration(states)
    return made


def agreement(rows: Sequence[Row]) -> float:
    """Share of prompts of which all responses, or leaves, have one reward."""
    rewards: dict[int, set[float]] = {}
    for row in rows:
        if row["reward"] is not None:
            rewards.setdefault(row["slot"], set()).add(row["reward"])
    return sum(len(one) == 1 for one in rewards.values()) / len(rewards) if rewards else 0.0


# (prompt of a step, response, estimate, its standard error, reward of the response)
State = tuple[str, str, float, float, float]


def inner_states(rows: Sequence[Row]) -> list[State]:
    """The inner boundaries of responses that have values. A node of a tree has none: its values are means of the very outcomes."""
    return [
        (
            f"{row['step']} {row['slot']}",
            f"{row['step']} {row['slot']} {row['sample']}",
            row["values"][k],
            row["value_stderrs"][k],
            row["reward"],
        )
        for row in rows
        if row["reward"] is not None and row["values"]
        for k in range(1, len(row["values"]) - 1)
    ]


def calibration(states: Sequence[State]) -> Calibration | None:
    """None where there are too few states to say anything."""
    if len(states) < 2:
        return None
    prompts, responses = [state[0] for state in states], {state[1] for state in states}
    value_N, error_N, reward_N = (np.array([state[at] for state in states], dtype=float) for at in (2, 3, 4))
    low, high = min(value_N.min(), 0.0), max(value_N.max(), 1.0)
    place_N = np.minimum(((value_N - low) / (high - low) * BINS).astype(int), BINS - 1)
    bins = [
        Bin(int(here.sum()), float(value_N[here].mean()), float(reward_N[here].mean()), _error(reward_N[here]))
        for here in (place_N == place for place in range(BINS))
        if here.any()
    ]
    variance = float(value_N.var())
    slope = float(np.cov(value_N, reward_N, bias=True)[0, 1] / variance) if variance > 0 else None
    noise_slope = max(0.0, 1 - float((error_N**2).mean()) / variance) if variance > 0 else None
    gap_N = value_N - reward_N
    return Calibration(
        bins, len(states), len(responses), float(gap_N.mean()), _clustered(gap_N, prompts), slope, noise_slope
    )


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / sqrt(len(values))) if len(values) > 1 else 0.0


def _clustered(gap_N: np.ndarray, prompts: Sequence[str]) -> float:
    """Standard error of the mean of numbers that belong together by prompt (linearization of a ratio mean)."""
    names = sorted(set(prompts))
    if len(names) < 2:
        return float("inf")
    index = np.unique(prompts, return_inverse=True)[1]
    sums = np.bincount(index, gap_N - gap_N.mean(), minlength=len(names))
    return float(np.sqrt(len(names) / (len(names) - 1) * (sums**2).sum()) / len(gap_N))
