"""Packed rows: layout and mask against brute force, and the plan against every other plan."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spo_rlhf.core import packing
from spo_rlhf.core.packing import dense_mask, distinct_tokens, pack, plan, sees

# Two tokens, so that rows share prefixes, are equal, and are prefixes of each other.
ROWS = st.lists(st.lists(st.integers(0, 1), max_size=7), min_size=1, max_size=8)


def prefixes(rows) -> set[tuple[int, ...]]:
    return {tuple(row[: i + 1]) for row in rows for i in range(len(row))}


@settings(max_examples=300, deadline=None)
@given(ROWS)
def test_every_prefix_stands_once_and_sees_its_own_prefixes_alone(rows):
    packed = pack(rows)
    assert len(packed) == len(prefixes(rows)) == distinct_tokens(rows)
    prefix_at = {}
    for row, place in zip(rows, packed.place, strict=True):
        assert packed.token_P[place].tolist() == row and packed.position_P[place].tolist() == list(range(len(row)))
        for depth, where in enumerate(place):
            assert prefix_at.setdefault(int(where), tuple(row[: depth + 1])) == tuple(row[: depth + 1])
    mask = dense_mask(packed.end_P)
    for query, key in itertools.product(range(len(packed)), repeat=2):
        begins = prefix_at[query][: len(prefix_at[key])] == prefix_at[key]
        assert mask[query, key] == begins == bool(sees(packed.end_P, query, key))


def test_the_first_token_of_a_node_is_predicted_by_its_parents_last():
    """Prompt 5 6, nodes 7 8 and 9 below it, and 1 below 7 8."""
    packed = pack([[5, 6, 7, 8], [5, 6, 9], [5, 6, 7, 8, 1]])
    assert packed.token_P.tolist() == [5, 6, 7, 8, 1, 9] and packed.position_P.tolist() == [0, 1, 2, 3, 4, 2]
    assert packed.end_P.tolist() == [6, 6, 5, 5, 5, 6]
    assert [place.tolist() for place in packed.place] == [[0, 1, 2, 3], [0, 1, 5], [0, 1, 2, 3, 4]]
    assert packed.place[0][1] == packed.place[1][1] == 1, "place 1 predicts 7 and 9"


def cost(rows, groups, pair_cost=0.0) -> float:
    return sum(packing.cost(distinct_tokens([rows[number] for number in group]), pair_cost) for group in groups)


def allowed(rows, groups, limit) -> bool:
    return all(len(group) == 1 or distinct_tokens([rows[n] for n in group]) <= limit for group in groups)


def stretches(order):
    """All ways to cut a sequence into stretches."""
    for cuts in itertools.product([False, True], repeat=len(order) - 1):
        groups = [[order[0]]]
        for number, cut in zip(order[1:], cuts, strict=True):
            if cut:
                groups.append([])
            groups[-1].append(number)
        yield groups


def partitions(items):
    """All partitions of a list into sets."""
    if not items:
        yield []
        return
    first, *rest = items
    for groups in partitions(rest):
        yield [[first], *groups]
        for i in range(len(groups)):
            yield [*groups[:i], [first, *groups[i]], *groups[i + 1 :]]


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(1, 14), st.sampled_from([0.0, 0.125, 1.0]))  # binary fractions: sums are exact
def test_the_plan_is_the_cheapest_of_all_cuts_between_neighbours(rows, limit, pair_cost):
    groups = plan(rows, limit, pair_cost)
    assert sorted(sum(groups, [])) == list(range(len(rows))) and allowed(rows, groups, limit)
    depth_first = sorted(range(len(rows)), key=rows.__getitem__)
    options = [one for one in stretches(depth_first) if allowed(rows, one, limit)]
    cheapest = min((cost(rows, one, pair_cost), len(one)) for one in options)
    assert (cost(rows, groups, pair_cost), len(groups)) == cheapest


def test_the_plan_is_near_the_cheapest_of_all_partitions():
    """Rows of a tree need not be neighbours to stand together, so the plan can be beaten; over many trees by little."""
    generator, planned, best = np.random.default_rng(0), 0, 0
    for _ in range(60):
        rows = [generator.integers(0, 2, generator.integers(1, 7)).tolist() for _ in range(7)]
        limit = int(generator.integers(6, 14))
        planned += cost(rows, plan(rows, limit))
        best += min(cost(rows, one) for one in partitions(list(range(7))) if allowed(rows, one, limit))
    assert best <= planned <= 1.05 * best


def test_a_tree_too_large_is_cut_between_subtrees():
    """A prompt of 4 tokens with two subtrees of 3 nodes each: the cut repeats the prompt and nothing more."""
    rows = [[1, 1, 1, 1, top, *rest] for top in (2, 3) for rest in ([], [4, 4], [5, 5])]
    assert plan(rows, 100) == [[0, 1, 2, 3, 4, 5]] and plan(rows, 9) == [[0, 1, 2], [3, 4, 5]]
    assert cost(rows, plan(rows, 9)) == distinct_tokens(rows) + 4
    assert plan(rows, 1) == [[number] for number in range(6)], "a row over the limit stands alone"


def test_where_pairs_cost_more_than_a_prefix_a_tree_that_fits_is_cut():
    rows = [[1, *[top] * 9] for top in (2, 3, 4)]
    assert plan(rows, 100) == [[0, 1, 2]] and plan(rows, 100, pair_cost=0.1) == [[0], [1], [2]]


@given(ROWS, st.sampled_from([0.0, 0.125, 1.0]))
def test_rows_packed_apart_are_where_they_are_said_to_be(rows, pair_cost):
    packs, which = packing.pack_apart(rows, pair_cost)
    for number, row in enumerate(rows):
        assert packs[which[number]].token_P[packs[which[number]].place[number]].tolist() == row
    assert [len(one) for one in packs] == [
        distinct_tokens([row for row, place in zip(rows, which, strict=True) if place == one])
        for one in range(len(packs))
    ]
    if pair_cost == 0:
        assert len(packs) == 1


def test_nothing_to_pack_and_no_place_to_pack_it_into():
    assert len(pack([])) == 0 and plan([], 5) == [] and distinct_tokens([]) == 0
    with pytest.raises(ValueError, match="limit is 0"):
        plan([[1]], 0)
