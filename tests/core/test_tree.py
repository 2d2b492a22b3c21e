"""The token tree: recorded cases, and what holds for every tree."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.core import tree
from spo_rlhf.core.tree import NO_PARENT, TokenTree, TreeShape
from spo_rlhf.core.tree_baselines import Shrunk
from spo_rlhf.core.values import Prior, leave_one_out

CASES = [json.loads(line) for line in (Path(__file__).parents[1] / "vectors" / "tree.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=range(1, len(CASES) + 1))
def test_tree_vector(case: dict) -> None:
    nodes, expected = case["input"]["nodes"], case["expected"]
    parent_N = [NO_PARENT if node["parent"] is None else node["parent"] for node in nodes]
    value_N = tree.values(parent_N, [node.get("reward", np.nan) for node in nodes])
    adv_N = tree.advantages(parent_N, value_N, case["input"]["advantage"])
    assert value_N.tolist() == pytest.approx([expected["values"][str(n)] for n in range(len(nodes))], abs=1e-12)
    assert adv_N[1:].tolist() == pytest.approx([expected["advantages"][str(n)] for n in range(1, len(nodes))], abs=1e-9)
    assert tree.trained(adv_N) == expected["trained"]


@st.composite
def token_trees(draw) -> TokenTree:
    """Any tree: each further node below any earlier one, leaves with rewards."""
    grown = TokenTree(prompt_ids=[7, 8, 9])
    for size in draw(st.lists(st.integers(1, 3), min_size=1, max_size=20)):
        parent = draw(st.integers(0, len(grown) - 1))
        tokens = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
        grown.add(parent, tokens, [-0.5] * size)
    for leaf in grown.leaves():
        grown.reward_N[leaf] = draw(st.sampled_from([0.0, 1.0, 1 / 3]))
    return grown


# Of those that compare siblings among themselves; `shrunk` looks further up.
AMONG_SIBLINGS = sorted(set(tree.ADVANTAGES) - {"shrunk"})


@given(token_trees(), st.sampled_from(AMONG_SIBLINGS))
def test_siblings_cancel(grown: TokenTree, kind: str) -> None:
    value_N = tree.values(grown.parent_N, grown.reward_N)
    adv_N = tree.advantages(grown.parent_N, value_N, kind)
    assert adv_N[0] == 0
    for nodes in filter(None, tree.children(grown.parent_N)):
        assert sum(adv_N[nodes]) == pytest.approx(0, abs=1e-7)
        if np.ptp(value_N[nodes]) < 1e-9:
            assert not adv_N[nodes].any()


@given(token_trees())
def test_advantages_of_a_path_sum_to_the_reward_minus_the_value_of_the_prompt(grown: TokenTree) -> None:
    value_N = tree.values(grown.parent_N, grown.reward_N)
    adv_N = tree.advantages(grown.parent_N, value_N, "mean")
    for leaf in grown.leaves():
        assert sum(adv_N[grown.path(leaf)]) == pytest.approx(grown.reward_N[leaf] - value_N[0])


@given(token_trees())
def test_every_token_has_one_owner_and_responses_are_their_paths(grown: TokenTree) -> None:
    owner_S = np.repeat(np.arange(len(grown)), np.diff(grown.start_N))
    assert len(owner_S) == len(grown.token_S) == len(grown.logprob_S)
    for node in range(1, len(grown)):
        assert grown.tokens(node) == [token for token, owner in zip(grown.token_S, owner_S) if owner == node]
        parent = grown.parent_N[node]
        assert grown.prefix(node) == grown.prefix(parent) + grown.tokens(parent) if parent else not grown.prefix(node)
    responses = [grown.prefix(leaf) + grown.tokens(leaf) for leaf in grown.leaves()]
    assert grown.tokens_saved() == sum(map(len, responses)) - len(grown.token_S) >= 0


def test_duplicate_siblings_are_counted_but_not_cousins() -> None:
    grown = TokenTree(prompt_ids=[1])
    for parent, tokens in ((0, [5]), (0, [5]), (0, [6]), (1, [6]), (2, [6]), (1, [6])):
        grown.add(parent, tokens, [-1.0] * len(tokens))
    assert grown.duplicate_siblings() == 2


def test_an_only_child_has_no_advantage() -> None:
    for kind in tree.ADVANTAGES:
        assert tree.advantages([NO_PARENT, 0, 1, 1], [0.5, 0.5, 1.0, 0.0], kind)[1] == 0


@pytest.mark.parametrize(
    ("parent_N", "reward_N", "message"),
    [
        ([0], [1.0], "node 0 has a parent"),
        ([NO_PARENT, 1], [np.nan, 1.0], "parents stand before"),
        ([NO_PARENT, NO_PARENT], [1.0, 1.0], "parents stand before"),
        ([NO_PARENT, 0], [1.0, 1.0], "children and a reward"),
        ([NO_PARENT, 0], [np.nan, np.nan], "without a finite reward"),
    ],
)
def test_what_is_no_tree_is_refused(parent_N, reward_N, message) -> None:
    with pytest.raises(ValueError, match=message):
        tree.values(parent_N, reward_N)


def test_a_node_needs_a_known_parent_and_tokens() -> None:
    grown = TokenTree(prompt_ids=[1])
    for parent, tokens, logprobs in ((1, [2], [-1.0]), (-1, [2], [-1.0]), (0, [], []), (0, [2], [])):
        with pytest.raises(ValueError, match=r"^node 1"):
            grown.add(parent, tokens, logprobs)
    with pytest.raises(ValueError, match="mean, loo, std, shrunk"):
        tree.advantages([NO_PARENT, 0], [1.0, 1.0], "median")


def test_what_is_added_comes_back() -> None:
    grown = TokenTree(prompt_ids=[1])
    assert NO_PARENT == -1 and grown.parent_N == [-1] and grown.truncated_N == [False] and grown.leaves() == []
    assert grown.add(0, [5, 6], [-0.5, -0.25]) == 1 and grown.add(1, [7], [-2.0]) == 2
    assert (grown.tokens(1), grown.logprobs(1)) == ([5, 6], [-0.5, -0.25])
    assert (grown.tokens(2), grown.logprobs(2)) == ([7], [-2.0])
    assert grown.truncated_N == [False, False, False] and np.isnan(grown.reward_N).all()
    assert grown.path(0) == [] and grown.prefix(0) == [] and grown.path(2) == [1, 2] and grown.leaves() == [2]


@pytest.mark.parametrize("kind", ["mean", "loo", "std"])
def test_an_advantage_below_the_rounding_is_none(kind: str) -> None:
    parents = [NO_PARENT, 0, 0]
    assert tree.advantages(parents, [0.0, 0.0, tree.ZERO_ADVANTAGE], kind).tolist() == [0, 0, 0]
    assert tree.advantages(parents, [0.0, 0.0, 1e-3], kind)[1:].all()
    assert not tree.advantages([NO_PARENT, 0], [0.5, 0.5], kind).any(), "an only child"


def test_an_advantage_as_small_as_rounding_is_none_whatever_the_spread() -> None:
    assert tree.advantages([NO_PARENT, 0, 0], [0.0, 0.0, 2 * tree.ZERO_ADVANTAGE], "mean").tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("branching", "segment_tokens", "limits"),
    [
        ((6, 6, 6), (600,), [600, 600, None]),
        ((2, 1, 3), (4, 5), [4, 5, None]),
        ((1, 2), (1,), [1, None]),
        ((2,), (), [None]),
        ((2,), (9,), [None]),
        ((2,), (9, 9), [None]),  # nothing of it is used
    ],
)
def test_every_level_but_the_last_has_a_longest_segment(branching, segment_tokens, limits) -> None:
    shape = TreeShape(branching, segment_tokens)
    assert [shape.limit(level) for level in range(len(branching))] == limits


@pytest.mark.parametrize(
    ("branching", "segment_tokens", "message"),
    [
        ((), (30,), "branching needs"),
        ((2, 0), (30,), "branching needs"),
        ((1, 1), (30,), "at least 2 in one"),
        ((1,), (30,), "at least 2 in one"),
        ((2, 2), (0,), "segment lengths are at least 1"),
        ((2,), (0,), "segment lengths are at least 1"),
        ((2, 2, 2), (5, 0), "segment lengths are at least 1"),
        ((2, 2), (5, 5), "and one, or 1: one for each of the 2 levels"),
        ((2, 2), (), "and one, or 1"),
        ((2, 2, 2, 2), (5, 5), "and one, or 3"),
        ((2, 2, 2), (5, 5, 5), "and one, or 2"),
    ],
)
def test_a_shape_that_is_none_is_refused(branching, segment_tokens, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TreeShape(branching, segment_tokens)


def test_shrinking_weighs_siblings_and_parent_by_what_each_is_off() -> None:
    # Half is settled by level 2. V of a child of the prompt: 1/2 + (1/2) / 2 = 3/4 around it, 1/4 with four of them less one.
    assert Shrunk(branching=(4, 2)).factors(None) == pytest.approx([1.0, (1 / 4 + 1 / 2) / (1 / 4 + 1 / 2 + 1 / 2)])
    # One response known as 9 outcomes, no sibling: off by 1/9, then half of the outcome more.
    assert Shrunk(branching=(1, 2)).factors(9.0) == pytest.approx([0.0, (1 / 9 + 1 / 2) / (1 / 9 + 1)])
    # A flat tree is the blend of leave_one_out: three others against 5 outcomes.
    assert Shrunk(branching=(4,)).factors(5.0) == pytest.approx([3 / 8])
    # Nothing is left to settle behind level 2: its siblings are all the same, and know it exactly.
    assert Shrunk(branching=(4, 2), settled=(1.0,)).factors(None) == pytest.approx([1.0, 1.0])


def test_a_flat_shrunk_tree_is_the_group_with_its_history() -> None:
    prior, reward_B = Prior(0.2, 5.0), [1.0, 0.0, 0.0, 1.0]
    parent_N, value_N = [NO_PARENT, 0, 0, 0, 0], [0.5, *reward_B]
    expected = np.array(reward_B) - leave_one_out(reward_B, prior)
    for kind in (Shrunk(branching=(4,)), "loo"):
        assert tree.advantages(parent_N, value_N, kind, prior)[1:] == pytest.approx(expected)


def test_a_shrunk_advantage_is_against_siblings_and_the_parents_baseline() -> None:
    """Prompt -> A (0.5: a right and a wrong leaf), B right, C wrong."""
    parent_N = [NO_PARENT, 0, 0, 0, 1, 1]
    value_N = tree.values(parent_N, [np.nan, np.nan, 1.0, 0.0, 1.0, 0.0])
    shrunk = Shrunk(branching=(3, 2))
    g = shrunk.factors(None)[1]
    adv_N = tree.advantages(parent_N, value_N, shrunk)
    base_A = (1.0 + 0.0) / 2
    assert adv_N == pytest.approx([0, 0.5 - base_A, 1 - 0.25, 0 - 0.75, 1 - (1 - g) * base_A, -(g + (1 - g) * base_A)])


def test_siblings_that_agree_still_differ_from_what_was_known() -> None:
    adv_N = tree.advantages([NO_PARENT, 0, 0], [1.0, 1.0, 1.0], Shrunk(branching=(2,)), Prior(0.5, 1.0))
    assert adv_N[0] == 0 and (adv_N[1:] > 0).all()
    assert not tree.advantages([NO_PARENT, 0, 0], [1.0, 1.0, 1.0], Shrunk(branching=(2,))).any()


@pytest.mark.parametrize("settled", [(0.5, 0.2), (0.5,), (-0.1, 0.5), (0.5, 1.1)])
def test_settled_shares_rise_one_for_each_level_but_the_first(settled) -> None:
    with pytest.raises(ValueError, match="needs 2 numbers"):
        Shrunk(branching=(2, 2, 2), settled=settled)


def test_what_a_tree_advantage_cannot_use_is_refused() -> None:
    with pytest.raises(ValueError, match="only loo, shrunk"):
        tree.advantages([NO_PARENT, 0, 0], [0.5, 1.0, 0.0], "mean", Prior(0.5, 1.0))
    with pytest.raises(ValueError, match="2 levels, but branching has 1"):
        tree.advantages([NO_PARENT, 0, 0, 1], [0.5, 1.0, 0.0, 1.0], Shrunk(branching=(2,)))
