"""Partition: the contract of the boundaries, and the one definition of hesitation."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.core.options import OptionError, build
from spo_rlhf.core.partition import (
    PARTITIONS,
    PROB_THRESHOLD,
    Cutpoint,
    EqualSegments,
    Fixed,
    Newline,
    Partition,
    Places,
    Subsentence,
    below_threshold,
    cutpoint_boundaries,
    equal_boundaries,
    fixed_boundaries,
    inner_states,
    newline_boundaries,
    subsentence_boundaries,
)

BELOW = float(np.nextafter(PROB_THRESHOLD, 0))
probability = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, PROB_THRESHOLD, BELOW]))
prob_lists = st.lists(probability, min_size=1, max_size=80)
interval = st.integers(1, 7)
texts = st.sampled_from(["x", " ", "\n", "y\n", "\nz", "\n\n", " \n", "", "\r\n", "3", ".", ",", "3.", ".5 "])
text_lists = st.lists(texts, min_size=1, max_size=40)
configs = st.one_of(
    st.builds(Cutpoint, threshold=st.floats(0.01, 1), interval=interval),
    st.builds(Fixed, segment_length=interval),
    st.builds(EqualSegments, segment_count=interval),
    st.builds(Places, places=st.sets(st.integers(1, 40), min_size=1).map(lambda places: tuple(sorted(places)))),
    st.just(Newline()),
    st.just(Subsentence()),
)


def pieces(boundary_K: list[int], values: list) -> list[list]:
    return [values[start:end] for start, end in zip(boundary_K, boundary_K[1:])]


@given(configs, text_lists, st.data())
def test_boundaries_cover_the_response_and_strictly_increase(config, text_T, data) -> None:
    num_tokens = len(text_T)
    prob_T = data.draw(st.lists(probability, min_size=num_tokens, max_size=num_tokens))
    boundary_K = config.boundaries(prob_T, text_T)
    assert boundary_K[0] == 0 and boundary_K[-1] == num_tokens
    assert all(type(b) is int for b in boundary_K)
    assert all(start < end for start, end in zip(boundary_K, boundary_K[1:]))
    assert [0, *inner_states(boundary_K), num_tokens] == boundary_K


@given(prob_lists, st.floats(0.01, 1), interval)
def test_cutpoint_segments_hold_exactly_the_interval(prob_T, threshold, interval) -> None:
    boundary_K = cutpoint_boundaries(prob_T, threshold, interval)
    counts_K = [sum(p < threshold for p in piece) for piece in pieces(boundary_K, prob_T)]
    if not any(p < threshold for p in prob_T):
        assert boundary_K == [0, len(prob_T)]
    else:
        assert counts_K[:-1] == [interval] * (len(counts_K) - 1)
        assert 1 <= counts_K[-1] <= interval
    assert all(prob_T[b] < threshold for b in inner_states(boundary_K))


@given(st.integers(1, 500), st.integers(1, 60))
def test_fixed_segments_have_the_length(num_tokens, length) -> None:
    sizes_K = np.diff(fixed_boundaries(num_tokens, length)).tolist()
    assert sizes_K[:-1] == [length] * (len(sizes_K) - 1)
    assert 1 <= sizes_K[-1] <= length


@given(st.integers(1, 500), st.integers(1, 60))
def test_equal_segments_are_as_many_as_asked_and_differ_by_one_token_at_most(num_tokens, count) -> None:
    sizes_K = np.diff(equal_boundaries(num_tokens, count))
    assert len(sizes_K) == min(num_tokens, count)
    assert sizes_K.sum() == num_tokens and sizes_K.max() - sizes_K.min() <= 1 and sizes_K.min() >= 1


@given(text_lists)
def test_newline_boundaries_end_lines_and_every_closed_segment_has_text(text_T) -> None:
    boundary_K = newline_boundaries(text_T)
    *closed, last = pieces(boundary_K, text_T)
    for piece in closed:
        assert "\n" in piece[-1]
        assert "".join(piece).strip()
        # No earlier line end of the segment closed it, for there was no text yet.
        first_text = next(i for i, text in enumerate(piece) if text.strip())
        assert all("\n" not in text for text in piece[first_text:-1])
    first_text = next((i for i, text in enumerate(last) if text.strip()), len(last))
    assert all("\n" not in text for text in last[first_text:-1])


@pytest.mark.parametrize("partition", [newline_boundaries, subsentence_boundaries])
@given(text_T=text_lists, continuation=text_lists)
def test_boundaries_from_texts_do_not_look_ahead(partition, text_T, continuation) -> None:
    boundary_K = partition(text_T + continuation)
    assert [b for b in boundary_K if b < len(text_T)] == partition(text_T)[:-1]


@pytest.mark.parametrize(
    ("text_T", "expected"),
    [
        (["a", "\n", "b", "\n"], [0, 2, 4]),
        (["a", "\n", "b"], [0, 2, 3]),
        (["\n", "\n", "a", "\n", "b"], [0, 4, 5]),
        (["a\n", "\n", " ", "\n", "b\n", "c"], [0, 1, 5, 6]),
        (["a\n\n", "b"], [0, 1, 2]),
        (["a", "\nb", "c"], [0, 2, 3]),
        (["a\n", "\n"], [0, 1, 2]),
        (["\n", "\n"], [0, 2]),
        (["a"], [0, 1]),
    ],
)
def test_newline_examples(text_T, expected) -> None:
    assert newline_boundaries(text_T) == expected


def test_threshold_is_strict() -> None:
    assert below_threshold([BELOW, PROB_THRESHOLD, 1.0, 0.0], PROB_THRESHOLD).tolist() == [True, False, False, True]


def test_float32_probabilities_are_compared_in_float64() -> None:
    # The float32 next to 0.9 is 0.89999998: below, whatever the type it arrives in.
    prob_T = np.full(3, PROB_THRESHOLD, dtype=np.float32)
    assert below_threshold(prob_T, PROB_THRESHOLD).all()
    assert cutpoint_boundaries(prob_T, PROB_THRESHOLD, 1) == [0, 1, 2, 3]


def test_defaults_are_those_of_the_paper() -> None:
    config = Cutpoint()
    assert (config.threshold, config.interval) == (0.9, 5) and PROB_THRESHOLD == 0.9


EACH = [
    Cutpoint(),
    Fixed(segment_length=2),
    Places(places=(2, 4)),
    EqualSegments(segment_count=2),
    Newline(),
    Subsentence(),
]


def test_every_partition_of_the_table_is_tested_here() -> None:
    assert {type(partition) for partition in EACH} == set(PARTITIONS.values())


@pytest.mark.parametrize("partition", EACH)
def test_empty_response_is_refused(partition: Partition) -> None:
    with pytest.raises(ValueError, match="response"):
        partition.boundaries([], [])


@pytest.mark.parametrize("partition", [partition for partition in EACH if partition.needs_text])
def test_partitions_of_text_need_one_text_per_token(partition: Partition) -> None:
    with pytest.raises(ValueError, match="needs the text"):
        partition.boundaries([0.5])
    with pytest.raises(ValueError, match="2 token texts for 1 prob"):
        partition.boundaries([0.5], ["a", "b"])


@pytest.mark.parametrize("boundary_K", [[0], [0, 2], [1, 3], [0, 2, 2, 3], [0, 3, 2], [0, 4]])
def test_boundaries_that_are_none_are_refused(boundary_K: list[int]) -> None:
    class Broken(Partition):
        def cut(self, prob_T, text_T) -> list[int]:
            return boundary_K

    with pytest.raises(ValueError, match="rise from 0 to 3"):
        Broken().boundaries([0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (Cutpoint, {"threshold": 0}),
        (Cutpoint, {"threshold": 1.1}),
        (Cutpoint, {"threshold": float("nan")}),
        (Cutpoint, {"threshold": "0.9"}),
        (Cutpoint, {"interval": 0}),
        (Cutpoint, {"interval": 2.0}),
        (Cutpoint, {"interval": True}),
        (Fixed, {"segment_length": -1}),
        (Fixed, {"segment_length": 0}),
        (EqualSegments, {"segment_count": 0}),
    ],
    ids=str,
)
def test_bad_parameters_are_refused_in_one_line(kind: type[Partition], parameters: dict) -> None:
    with pytest.raises(ValueError, match=re.escape(str(next(iter(parameters.values()))))) as refusal:
        kind(**parameters)
    assert "\n" not in str(refusal.value)


def test_an_empty_response_has_no_boundaries_whatever_a_partition_says() -> None:
    class Blind(Partition):
        def cut(self, prob_T, text_T) -> list[int]:
            return [0]

    with pytest.raises(ValueError, match=r"gave \[0\]"):
        Blind().boundaries([])


def test_a_probability_of_1_may_be_the_threshold() -> None:
    assert Cutpoint(threshold=1, interval=1).boundaries([0.5, 1.0, 0.99]) == [0, 2, 3]


@pytest.mark.parametrize(
    ("cut", "names"),
    [
        (lambda: cutpoint_boundaries([0.5], 0.9, 0), "the cutpoint interval is 0"),
        (lambda: fixed_boundaries(5, 0), "the segment length is 0"),
        (lambda: equal_boundaries(5, 0), "the number of segments is 0"),
        (lambda: fixed_boundaries(0, 5), "the number of response tokens is 0"),
        (lambda: equal_boundaries(0, 5), "the number of response tokens is 0"),
    ],
)
def test_a_count_of_0_is_refused_by_name(cut, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        cut()


@pytest.mark.parametrize(("kind", "flag"), [(Fixed, "segment_length"), (EqualSegments, "segment_count")])
def test_a_partition_that_needs_a_number_has_no_default_for_it(kind: type[Partition], flag: str) -> None:
    with pytest.raises(OptionError, match=f"{flag} is None: it is needed"):
        build(kind, {})


def test_partitions_that_look_at_text_say_so() -> None:
    assert {name for name, kind in PARTITIONS.items() if kind.needs_text} == {"newline", "subsentence"}
