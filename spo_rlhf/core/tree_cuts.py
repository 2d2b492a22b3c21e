"""Where the segments of a tree end: behind a number of tokens, or where a partition cuts.

With a partition a node is sampled to the end of its response at once and cut afterwards: what lies behind the cut is
its first child, the other children are sampled from there. Nothing is sampled that is not used. Where the tokens before
a cut alone decide it (a stopping time: `fixed`, `newline`, `subsentence`, `cutpoint` with `--spo.hesitation state`),
the first child is drawn as the others are, so every tree advantage is what it is for fixed numbers of tokens
(tests/core/test_tree_cuts.py). `cutpoint` by the sampled token, and `segments`, look ahead: their first child is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spo_rlhf.core.options import choice
from spo_rlhf.core.partition import PARTITIONS, Partition
from spo_rlhf.core.registry import Registry


@dataclass(frozen=True)
class AfterTokens:
    """Behind --spo.tree_segment_tokens tokens."""


@dataclass(frozen=True, kw_only=True)
class AtBoundaries:
    """At the first boundary of a partition behind the node's start; the rest of the response is its first child."""

    partition: Partition = choice("partition", PARTITIONS, "cutpoint", help="how a response is cut into segments")

    def end(self, prob_T: Any, text_T: Sequence[str] | None) -> int | None:
        """Tokens of a node's segment, of the T > 0 from its start to the response's end; None: all of them."""
        first = self.partition.boundaries(prob_T, text_T)[1]
        return first if first < len(prob_T) else None


TREE_CUTS: Registry[Any] = Registry("tree cuts", {"tokens": AfterTokens, "partition": AtBoundaries})
