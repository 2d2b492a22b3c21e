"""The tree that ordinary responses to a prompt make by what they share, and token advantages read off it. No extra token.

With S(s) the responses that pass through the state s, r their rewards,

    A_i(t) = mean of r over S(s_{t+1}), response i included  -  b_i(s_t),        the reward itself at the end,
    b_i(s) = (sum of r over S(s) without i + k b_i(s')) / (|S(s)| - 1 + k),      s' the last state with more others in it.

b_i(s_0) is the mean of the other responses, blended with what was known of the prompt. Who else passes through s_t is decided
by s_t and the others, and given s_{t+1} all that pass through it go on alike and independently: so the expected gradient is
the policy gradient for any k (tests/core/test_shared_prefixes.py). Where nothing is shared it is RLOO. The tree is that of
TEMPO (tree-estimated means of prefixes); leaving the own response out of b is what makes it exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spo_rlhf.core.values import Floats, Prior, leave_one_out


@dataclass(frozen=True)
class PrefixCredit:
    """Segments [0, .., T] (K + 1,) of a response, what each is compared with (K,), and its advantage (K,)."""

    boundaries: list[int]
    base_K: list[float]
    adv_K: list[float]


def shared_lengths(token_ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Tokens that each two responses share from the start (N, N); a response shares all of its own with itself."""
    count = len(token_ids)
    shared_NN = np.zeros((count, count), dtype=np.int64)
    for i in range(count):
        shared_NN[i, i] = len(token_ids[i])
        for j in range(i):
            pairs = enumerate(zip(token_ids[i], token_ids[j]))
            differ = next((t for t, (mine, other) in pairs if mine != other), min(len(token_ids[i]), len(token_ids[j])))
            shared_NN[i, j] = shared_NN[j, i] = differ
    return shared_NN


def credit(
    token_ids: Sequence[Sequence[int]], reward_N: Floats, strength: float = 1.0, prior: Prior | None = None
) -> list[PrefixCredit]:
    """Of each response to one prompt. ``strength``: k, 0 or more: outcomes that the baseline of the longer state counts as.

    Raises ValueError for an empty response, and as `leave_one_out` does.
    """
    if any(not len(tokens) for tokens in token_ids):
        raise ValueError("a response is empty")
    reward_N = np.asarray(reward_N, dtype=np.float64)
    start_N, shared_NN = leave_one_out(reward_N, prior), shared_lengths(token_ids)
    return [
        _of_one(i, len(tokens), reward_N, shared_NN[i], float(start_N[i]), strength)
        for i, tokens in enumerate(token_ids)
    ]


def _of_one(
    own: int, length: int, reward_N: np.ndarray, shared_N: np.ndarray, base: float, strength: float
) -> PrefixCredit:
    others = np.arange(len(reward_N)) != own

    def through(tokens: int) -> np.ndarray:
        """Rewards of the others that pass through the state behind so many tokens."""
        return reward_N[others & (shared_N >= tokens)]

    def value(tokens: int) -> float:
        """Of that state, the own outcome included; at the end the reward."""
        return float(reward_N[own]) if tokens == length else float(np.append(through(tokens), reward_N[own]).mean())

    made, passing = PrefixCredit([0], [], []), int(others.sum())
    # Advantages change where a token parts the others: at it, and behind it. The last token has the reward behind it.
    parts = {int(tokens) for tokens in shared_N[others]}
    starts = sorted({0, length - 1, *(at for tokens in parts for at in (tokens, tokens + 1) if at < length)})
    for start, end in zip(starts, [*starts[1:], length]):
        here = through(start)
        if len(here) < passing:
            passing = len(here)
            if len(here):
                base = float((here.sum() + strength * base) / (len(here) + strength))
        made.base_K.append(base)
        made.adv_K.append(value(start + 1) - base)
        made.boundaries.append(end)
    return made
