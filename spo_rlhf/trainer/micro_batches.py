"""Which rank gets which sample, and the micro-batches of an optimizer step, formed from what is to be computed of it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from spo_rlhf import upstream
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.packing import distinct_tokens, plan
from spo_rlhf.trainer.packed import input_rows
from spo_rlhf.trainer.trained import has_gradient


def single_rows(batches: Sequence[upstream.Experience]) -> list[upstream.Experience]:
    """The rows of batches, each without padding, as OpenRLHF's replay buffer holds them."""
    return upstream.remove_padding_in_sequences(
        [row for batch in batches for row in upstream.split_experience_batch(batch)]
    )


def filler(rows: Sequence[upstream.Experience]) -> upstream.Experience:
    """A row without a trained token, for a rank that has to compute something: the shortest, its actions hidden."""
    shortest = min(rows, key=lambda row: len(row.sequences))
    return replace(shortest, action_mask=torch.zeros_like(shortest.action_mask))


class MicroBatches:
    """The micro-batches of one optimizer step anew: of the rows that have a gradient, where the others are left out.

    At most ``size`` rows each, those of similar lengths together; or, with ``pack_tokens``, rows that share
    prefixes, as many as make so many tokens packed. Every rank makes the same number, with fillers where it has fewer, since ZeRO's
    collectives meet in each; none where no rank has a row.
    """

    def __init__(
        self, spo: SpoConfig, *, leaves_out: bool, size: int, packing_samples: bool, pack_tokens: int | None = None
    ):
        self.spo, self.leaves_out, self.size = spo, leaves_out, size
        self.packing_samples, self.pack_tokens = packing_samples, pack_tokens
        self.distinct_tokens = 0

    def __call__(self, batches: list[upstream.Experience], strategy: Any) -> list[upstream.Experience]:
        rows = single_rows(batches)
        kept = [row for row in rows if not self.leaves_out or has_gradient(row, self.spo).any()]
        parts = self._parts(kept)
        count = int(strategy.all_reduce(float(len(parts)), op="max"))
        if self.pack_tokens is None and len(kept) == len(rows):
            return batches
        parts += [[filler(rows)] for _ in range(count - len(parts))]
        return [upstream.make_experience_batch(part, self.packing_samples) for part in parts]

    def take_distinct(self) -> float:
        """With `pack_tokens`: distinct tokens since the last call, those of a step packed all together."""
        tokens, self.distinct_tokens = self.distinct_tokens, 0
        return float(tokens)

    def _parts(self, rows: list[upstream.Experience]) -> list[list[upstream.Experience]]:
        if self.pack_tokens is not None:
            inputs = input_rows(rows)
            self.distinct_tokens += distinct_tokens(inputs)
            return [[rows[number] for number in group] for group in plan(inputs, self.pack_tokens)]
        return equal_parts(sorted(rows, key=lambda row: -len(row.sequences)), math.ceil(len(rows) / self.size))


def equal_parts(rows: Sequence[Any], count: int) -> list[list[Any]]:
    """`count` contiguous parts whose sizes differ by at most 1; none of nothing."""
    bounds = [len(rows) * part // max(count, 1) for part in range(count + 1)]
    return [list(rows[start:end]) for start, end in zip(bounds, bounds[1:], strict=False)]


def dealt(
    samples: Sequence[upstream.Experience], gradient: Sequence[bool], ranks: int, *, together: bool = False
) -> list[upstream.Experience]:
    """The samples in an order in which `ranks` equal parts hold as many with a gradient as any other, within 1.

    Unchanged for one rank, and where there are no equal parts. `together`: samples that share a prefix go to one rank.
    """
    if ranks == 1 or len(samples) % ranks:
        return list(samples)
    active = [sample for sample, has in zip(samples, gradient, strict=True) if has]
    idle = [sample for sample, has in zip(samples, gradient, strict=True) if not has]
    if together:
        active.sort(key=lambda sample: sample.sequences.flatten().tolist())
        parts = equal_parts(active, ranks)
    else:
        parts = [active[rank::ranks] for rank in range(ranks)]
    for part in parts:
        missing = len(samples) // ranks - len(part)
        part += idle[:missing]
        del idle[:missing]
    return [sample for part in parts for sample in part]
