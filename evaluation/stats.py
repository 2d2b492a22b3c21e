"""The statistics of a table of scores. Formulas and sources in the docstrings."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from spo_rlhf.core.intervals import Z, wilson_interval

CONFIDENCE = 0.95


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021).

    Raises:
        ValueError: not 1 <= k <= n, or not 0 <= correct <= n.
    """
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass@{k} of {n} samples with {correct} correct")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def mean_interval(values_P: Sequence[float] | np.ndarray, samples: int) -> tuple[float, float]:
    """95 % interval of the expected pass@1, from the P problems' shares of right samples. Never of width 0.

    Wilson's score interval of the mean m with an effective number of samples N / D (Korn and Graubard 1998; compared
    with others by Dean and Pagano 2015), where D is the design effect: how much wider the samples of one problem, which
    are alike, leave the mean than so many independent ones. D is between 1 (all differ) and k = N / P (all samples of
    a problem agree); it is estimated from the variance between the problems, which has P - 1 degrees of freedom. Where
    few problems differ from the rest that estimate is worth little: D goes to k with a weight of exp(-E / 2),
    E = (sum r)^2 / sum r^2 being the effective number of such problems, r their right or wrong samples, whichever are
    rarer. All right or all wrong counts as one sample a problem. With one sample a problem this is Wilson's interval.

    Args:
        samples: N, of all problems together, at least P.

    Returns:
        (low, high); (nan, nan) without problems.
    """
    values_P = np.asarray(values_P, dtype=float)
    n = len(values_P)
    if n == 0:
        return math.nan, math.nan
    mean, k = float(values_P.mean()), samples / n
    if not 0 < mean < 1 or n == 1:
        return wilson_interval(mean, n)
    rare_P = values_P if mean <= 0.5 else 1 - values_P
    events = float(rare_P.sum() ** 2 / (rare_P**2).sum())
    spread = (float(stdtrit(n - 1, 1 - (1 - CONFIDENCE) / 2)) / Z) ** 2  # of an estimated variance, Student's
    design = min(max(float(values_P.var(ddof=1)) * k / (mean * (1 - mean)) * spread, 1.0), k)
    design += (k - design) * math.exp(-events / 2)
    return wilson_interval(mean, samples / design)


def majority_score(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Score of one problem's most frequent answer. Samples without an answer do not vote; a tie is split evenly."""
    votes: dict[str, int] = defaultdict(int)
    right: dict[str, bool] = {}
    for answer, is_correct in zip(answers, correct, strict=True):
        if answer is not None:
            votes[answer] += 1
            right[answer] = is_correct
    if not votes:
        return 0.0
    most = max(votes.values())
    leaders = [answer for answer, count in votes.items() if count == most]
    return sum(right[answer] for answer in leaders) / len(leaders)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test (binomial, p = 1/2), from the problems that only one model solves."""
    n = only_first + only_second
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(min(only_first, only_second) + 1)) / 2**n
    return min(1.0, 2 * tail)


def paired_difference(first_P: Sequence[float], second_P: Sequence[float]) -> tuple[float, float, float]:
    """Mean of second - first over the same P problems, and its 95 % interval over problems. Never of width 0.

    The interval of Bonett and Price (2012): Wald's with two more problems, one for each of the models, here of the size
    c at which problems differ: c = sum d^2 / sum |d|, with a weight of exp(-E / 2) for 1 instead where few do (E = (sum |d|)^2
    / sum d^2). With one sample a problem c is 1, and this is their interval itself.

    Returns:
        (difference, low, high); nan without problems.
    """
    d_P = np.asarray(second_P, dtype=float) - np.asarray(first_P, dtype=float)
    n = len(d_P)
    if n == 0:
        return math.nan, math.nan, math.nan
    total, squares = float(np.abs(d_P).sum()), float((d_P**2).sum())
    events, size = (total**2 / squares, squares / total) if squares else (0.0, 1.0)
    size += (1 - size) * math.exp(-events / 2)
    centre = float(d_P.sum()) / (n + 2)
    spread = Z * math.sqrt(((squares + 2 * size**2) / (n + 2) - centre**2) / (n + 2))
    return float(d_P.mean()), max(-1.0, centre - spread), min(1.0, centre + spread)
