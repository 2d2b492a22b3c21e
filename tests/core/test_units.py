"""Unit ids from boundaries and texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.core.partition import Cutpoint, subsentence_boundaries
from spo_rlhf.core.units import RATIO_LEVELS, needs_ids, unit_ids

TEXTS = ["It", " is", " 3", ".", "14", ",", " so"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 5))
def test_units_of_segments_are_the_segments(prob_T, interval) -> None:
    boundary_K = Cutpoint(interval=interval).boundaries(prob_T)
    units_T = unit_ids("segment", boundary_K, None)
    for unit, (start, end) in enumerate(zip(boundary_K, boundary_K[1:]), start=1):
        assert units_T[start:end] == [unit] * (end - start)
    assert len(units_T) == len(prob_T)


def test_units_of_subsentences_end_at_the_mark() -> None:
    assert unit_ids("subsentence", [], TEXTS) == [1, 1, 1, 1, 1, 1, 2]
    text_T = ["=", " 12", ".", " So", " we"]
    assert unit_ids("subsentence", [], text_T) == [1, 1, 1, 2, 2]
    assert subsentence_boundaries(text_T) == [0, 4, 5], "as a partition, one token late"


def test_a_node_of_a_tree_is_one_unit() -> None:
    assert unit_ids("segment", [0, 3], None) == [1, 1, 1]


def test_what_is_missing_is_said() -> None:
    assert [level for level in RATIO_LEVELS if needs_ids(level)] == ["segment", "subsentence"]
    with pytest.raises(ValueError, match="boundaries"):
        unit_ids("segment", [], TEXTS)
    with pytest.raises(ValueError, match="boundaries"):
        unit_ids("segment", [0], TEXTS)
    with pytest.raises(ValueError, match="text of each token"):
        unit_ids("subsentence", [0, 2], None)
