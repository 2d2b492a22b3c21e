"""Every shared prefix once: rows of tokens as one sequence, and which rows to put together.

Samples of one tree (or continuations of one response, or responses to one prompt) begin alike. Sorted by their tokens
they form a tree of prefixes in depth-first order, in which a row adds to the row before it what is not a prefix of
both. Written down in that order each token stands once, at P places in all:

    position    of a token: the number of tokens before it in its row
    end         of a token: the first place behind everything that continues it

A token sees itself and the tokens before it in its row, and nothing else. In depth-first order that is an interval,
so the test needs two numbers: place k is seen from place q if and only if k <= q < end[k].

What predicts a token is the token before it in its row: of the first token of a node, the last token of the node's
parent, which several children share. ``place`` says where each row's tokens stand, so log-probs are picked per row and
everything after them, masks, weights and ratios, stays as it is for rows that are computed one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Packed:
    """Rows as one sequence of P tokens."""

    token_P: np.ndarray
    position_P: np.ndarray  # in a row that the token belongs to
    end_P: np.ndarray
    place: list[np.ndarray]  # of each row: where its tokens stand, in their order

    def __len__(self) -> int:
        return len(self.token_P)


def sees(end_P: Any, query: Any, key: Any) -> Any:
    """Whether place `query` attends to place `key`; arrays of numpy or torch, so also FlexAttention's mask."""
    return (key <= query) & (query < end_P[key])


def dense_mask(end_P: np.ndarray) -> np.ndarray:
    """Attention (P, P), bool: row q sees column k."""
    place_P = np.arange(len(end_P))
    return sees(end_P, place_P[:, None], place_P[None, :])


def pack(rows: Sequence[Row]) -> Packed:
    """Rows of tokens (>= 0) -> one sequence; rows may be equal, empty, or the beginning of others."""
    order, shared_B = _sorted(rows)
    length = sum(len(rows[number]) - shared for number, shared in zip(order, shared_B, strict=True))
    token_P, position_P, end_P = (np.zeros(length, dtype=np.int64) for _ in range(3))
    place: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * len(rows)
    path, start = np.zeros(0, dtype=np.int64), 0  # places of the row before, all of whose tokens are still open
    for number, shared in zip(order, shared_B, strict=True):
        stop = start + len(rows[number]) - shared
        end_P[path[shared:]] = start
        token_P[start:stop] = rows[number][shared:]
        position_P[start:stop] = np.arange(shared, len(rows[number]))
        path = np.concatenate([path[:shared], np.arange(start, stop)])
        place[number], start = path, stop
    end_P[path] = length
    return Packed(token_P, position_P, end_P, place)


def pack_apart(rows: Sequence[Row], pair_cost: float) -> tuple[list[Packed], list[int]]:
    """Rows in as many sequences as cost least (``cost``), and of each row the number of its sequence.

    The place of row b is that of its sequence: ``packs[which[b]].place[b]``; it is empty in the others.
    """
    limit = max(sum(map(len, rows)), 1)
    which, packs = [0] * len(rows), []
    for number, group in enumerate(plan(rows, limit, pair_cost)):
        inside = set(group)
        packs.append(pack([row if index in inside else row[:0] for index, row in enumerate(rows)]))
        for index in group:
            which[index] = number
    return packs, which


def distinct_tokens(rows: Sequence[Row]) -> int:
    """Length of the rows packed together."""
    order, shared_B = _sorted(rows)
    return sum(len(rows[number]) - shared for number, shared in zip(order, shared_B, strict=True))


def cost(tokens: int, pair_cost: float) -> float:
    """What a sequence costs, in tokens: each token, and ``pair_cost`` for each pair of tokens that a dense mask computes."""
    return tokens * (1 + pair_cost * tokens)


def plan(rows: Sequence[Row], limit: int, pair_cost: float = 0.0) -> list[list[int]]:
    """Groups of rows, each of at most ``limit`` packed tokens, that cost as little as possible.

    In depth-first order a group is a stretch of rows, and a cut between two rows repeats their shared prefix: a tree too
    large is cut between subtrees, high up. Of all such cuts these are the cheapest (dynamic programming), and of equally
    cheap ones the fewest. Without ``pair_cost`` (``cost``) they repeat as few tokens as possible; with it trees are cut
    that would fit, where pairs of tokens without a common path cost more than a prefix once more.
    A row that is longer than the limit is a group of its own. Raises ValueError for a limit below 1.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}: a packed sequence has at least one token")
    order, shared_B = _sorted(rows)
    length_B = [len(rows[number]) for number in order]
    # cheapest[i]: cost and groups of the first i rows, and where the last group starts
    cheapest: list[tuple[float, int, int]] = [(0, 0, 0)]
    for last in range(len(order)):
        options, inner = [], 0  # inner: what the rows behind the first of the group add to it
        for first in range(last, -1, -1):
            tokens = length_B[first] + inner
            if tokens > limit and first < last:
                break
            before, groups, _ = cheapest[first]
            options.append((before + cost(tokens, pair_cost), groups + 1, first))
            inner += length_B[first] - shared_B[first]
        cheapest.append(min(options))
    groups, stop = [], len(order)
    while stop:
        start = cheapest[stop][2]
        groups.append(sorted(order[start:stop]))
        stop = start
    return groups[::-1]


def _sorted(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """Numbers of the rows in depth-first order, and the tokens that each shares with the one before it."""
    arrays = [np.asarray(row, dtype=">u4") for row in rows]  # as bytes they sort like their tokens
    keys = [array.tobytes() for array in arrays]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    shared_B = [0] * min(len(rows), 1)
    for one, other in zip(order, order[1:], strict=False):
        size = min(len(arrays[one]), len(arrays[other]))
        differs = arrays[one][:size] != arrays[other][:size]
        shared_B.append(int(differs.argmax()) if differs.any() else size)
    return order, shared_B
