"""Ratio units: the tokens that share one importance ratio (``spo_rlhf.core.ratio`` forms it).

Unit ids (T,) number the units of one response from 1; 0 is left to positions that belong to no response (prompt,
padding). They are computed where token texts are known and travel with the sample.
"""

from collections.abc import Sequence

from spo_rlhf.core.partition import subsentence_boundaries

RATIO_LEVELS = ("token", "segment", "subsentence", "sequence")


def needs_ids(level: str) -> bool:
    """False for the levels that follow from the layout alone: each token is a unit, or each sample."""
    return level in ("segment", "subsentence")


def unit_ids(level: str, boundary_K: Sequence[int], text_T: Sequence[str] | None) -> list[int]:
    """Unit ids (T,) of one sample, for a level that needs them.

    ``boundary_K`` (K + 1,): [0, .., T] of the partition, for ``segment`` (a node of a tree is one segment: [0, T]);
    ``text_T`` (T,): what each token adds to the text, for ``subsentence``. A response is complete when its ratio is
    formed, so its subsentences end at the mark itself, after a number as well.
    Raises ValueError where what the level needs is missing.
    """
    if level == "subsentence":
        boundary_K = subsentence_boundaries(text_T, late=False)
    elif len(boundary_K) < 2:
        raise ValueError(f"ratio level {level!r} needs the boundaries of the segments")
    return [unit for unit, (b, end) in enumerate(zip(boundary_K, boundary_K[1:]), start=1) for _ in range(b, end)]
