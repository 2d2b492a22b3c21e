"""Values of states without Monte Carlo: a ridge regression on what the policy's own forward pass holds of them.

    V(s) = b_i + u_i (beta . [1, h(s)])        b_i: the mean of the other responses to the prompt (and its history)

h(s) (D,) is what the policy's head reads before it gives the next token, so it is known before that token is drawn. u_i
is the spread that the other outcomes leave open: a prompt that is always solved has little to be told. beta is fitted to
the outcomes of *other prompts* of the same iteration (cross-fitting), its strength of shrinkage chosen on other prompts
again. So V(s) is independent of everything that comes after s in its response, and the advantage r - V(s) leaves the
expected gradient as it is, however wrong V may be (tests/core/test_probe.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

FOLDS = 5
#: Shrinkage looked at, as shares of the features' own spread; inf: nothing is learned, V(s) = b_i.
STRENGTHS = (0.01, 0.1, 1.0, 10.0, inf)
#: Of the variance between responses, and as how many of them it counts. Of rewards 0 and 1 it is 1/4 at most.
PRIOR_VARIANCE, PRIOR_STRENGTH = 0.1, 1.0


@dataclass(frozen=True)
class Traced:
    """A response, by the K states where its segments start.

    prompt: its number; state_KD: features; base: b_i; spread: u_i; reward: of the whole.
    """

    prompt: int
    state_KD: np.ndarray
    base: float
    spread: float
    reward: float


def spreads(reward_B: Sequence[float]) -> np.ndarray:
    """u (B,) of each response to a prompt: the deviation among the others, with a prior; nothing of the own response enters.

    The prior is a constant: one that other prompts decide would let the own reward into their regression.
    """
    others = [np.delete(np.asarray(reward_B, dtype=np.float64), index) for index in range(len(reward_B))]
    freedom = max(len(reward_B) - 2, 0)
    own_B = np.array([one.var(ddof=1) if freedom else 0.0 for one in others])
    return np.sqrt((freedom * own_B + PRIOR_STRENGTH * PRIOR_VARIANCE) / (freedom + PRIOR_STRENGTH))


@dataclass(frozen=True)
class Fit:
    """value_K of each response, and what the fits were: their shares of the residual variance on prompts left out."""

    value_K: list[np.ndarray]
    explained: float  # 1: all of (r - b)^2, 0: nothing, < 0: worse than b
    learned: float  # share of the folds in which something was learned at all


def cross_fitted(traced: Sequence[Traced], folds: int = FOLDS) -> Fit:
    """Values of all states, each from a fit on the prompts of other folds. Prompts are dealt by their number.

    With fewer than three folds there is nothing to choose the shrinkage by: V(s) = b_i. Values stay within the rewards that
    the other folds saw.
    """
    numbers = sorted({one.prompt for one in traced})
    folds = min(folds, len(numbers))
    fold_of = {number: index % folds for index, number in enumerate(numbers)} if folds else {}
    parts = [[one for one in traced if fold_of[one.prompt] == fold] for fold in range(folds)]
    sums = [_Sums.of(part) for part in parts]
    values: dict[int, np.ndarray] = {}
    left, before, learned = 0.0, 0.0, 0
    for fold, part in enumerate(parts):
        beta = _chosen([one for index, one in enumerate(sums) if index != fold]) if folds > 2 else None
        seen = [one.reward for index, other in enumerate(parts) if index != fold for one in other]
        low, high = (min(seen), max(seen)) if seen else (-inf, inf)
        learned += beta is not None
        for one in part:
            value_K = np.full(len(one.state_KD), one.base)
            if beta is not None:
                value_K = np.clip(value_K + _design(one) @ beta, low, high)
            values[id(one)] = value_K
            left += float(np.mean((one.reward - value_K) ** 2)) if len(value_K) else 0.0
            before += (one.reward - one.base) ** 2 if len(value_K) else 0.0
    return Fit([values[id(one)] for one in traced], 1 - left / before if before else 0.0, learned / max(folds, 1))


def advantages(value_K: np.ndarray, reward: float, trace: float) -> np.ndarray:
    """A (K,) of the segments that start with these values, generalized advantage estimation without discount.

        delta_k = V_{k+1} - V_k, V_K = r,      A_k = sum_l trace^l delta_{k+l}

    trace 1: r - V_k, unbiased, V as a baseline alone; 0: what a segment changed by V's own account, as biased as V is.
    https://arxiv.org/abs/1506.02438
    """
    delta_K = np.diff(np.append(value_K, reward))
    adv_K, rest = np.zeros(len(delta_K)), 0.0
    for k in range(len(delta_K) - 1, -1, -1):
        rest = delta_K[k] + trace * rest
        adv_K[k] = rest
    return adv_K


def _design(one: Traced) -> np.ndarray:
    """Rows (K, 1 + D) of the regression."""
    return one.spread * np.concatenate([np.ones((len(one.state_KD), 1)), one.state_KD], axis=1)


@dataclass(frozen=True)
class _Sums:
    """Normal equations of weighted least squares: each response weighs 1, however many states it has."""

    xx: np.ndarray
    xy: np.ndarray
    yy: float

    @classmethod
    def of(cls, part: Sequence[Traced]) -> "_Sums | None":
        rows = [one for one in part if len(one.state_KD)]
        if not rows:
            return None
        x_N = [_design(one) / np.sqrt(len(one.state_KD)) for one in rows]
        y_N = [np.full(len(x), one.reward - one.base) / np.sqrt(len(x)) for one, x in zip(rows, x_N, strict=True)]
        x, y = np.concatenate(x_N), np.concatenate(y_N)
        return cls(x.T @ x, x.T @ y, float(y @ y))

    def error(self, beta: np.ndarray) -> float:
        return float(self.yy - 2 * beta @ self.xy + beta @ self.xx @ beta)


def _added(sums: Sequence[_Sums]) -> _Sums:
    return _Sums(sum(one.xx for one in sums), sum(one.xy for one in sums), sum(one.yy for one in sums))  # type: ignore[arg-type]


def _solved(sums: _Sums, strength: float) -> np.ndarray:
    """beta, each feature shrunk in units of its own spread; 0 for infinite strength."""
    if strength == inf:
        return np.zeros(len(sums.xy))
    scale = np.sqrt(np.diag(sums.xx)) + 1e-12
    scaled = sums.xx / np.outer(scale, scale) + strength * np.eye(len(scale))
    return np.linalg.solve(scaled, sums.xy / scale) / scale


def _chosen(sums: Sequence[_Sums | None]) -> np.ndarray | None:
    """beta of these folds at the strength that does best when each is left out in turn; None where that is to learn nothing."""
    known = [one for one in sums if one is not None]
    if len(known) < 2:
        return None

    def left_out(strength: float) -> float:
        return sum(
            one.error(_solved(_added([other for other in known if other is not one]), strength)) for one in known
        )

    best = min(STRENGTHS, key=left_out)
    return None if best == inf else _solved(_added(known), best)
