"""The statistics of a table of scores. Pure numpy; formulas and sources in the docstrings."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

BOOTSTRAP_RESAMPLES = 10_000
BOOTSTRAP_CHUNK = 500
CONFIDENCE = 0.95


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021).

    Raises:
        ValueError: not 1 <= k <= n, or not 0 <= correct <= n.
    """
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass@{k} of {n} samples with {correct} correct")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def bootstrap_interval(values_P: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean, resampling the P problems; (nan, nan) of a single one."""
    values_P = np.asarray(values_P, dtype=float)
    if len(values_P) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = [
        values_P[
            rng.integers(0, len(values_P), (min(BOOTSTRAP_CHUNK, BOOTSTRAP_RESAMPLES - start), len(values_P)))
        ].mean(axis=1)
        for start in range(0, BOOTSTRAP_RESAMPLES, BOOTSTRAP_CHUNK)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def binomial_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion, for published scores known by the number of problems only."""
    z = 1.959963984540054  # the normal quantile at 0.975
    p = correct / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


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
    """Mean of second - first over the same P problems, and its 95 % bootstrap interval over problems."""
    difference_P = np.asarray(second_P, dtype=float) - np.asarray(first_P, dtype=float)
    return (float(difference_P.mean()), *bootstrap_interval(difference_P))
