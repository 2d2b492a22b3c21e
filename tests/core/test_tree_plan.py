"""Planned shapes: what trees say of the outcomes, what follows from it, and that it leaves the expected gradient exact."""

import json
import re
from dataclasses import replace
from itertools import product
from math import log
from pathlib import Path

import numpy as np
import pytest
from enumerable import ToyLM
from scipy.optimize import isotonic_regression
from test_tree_unbiased import children_of_root, exact_level_gradients, expected_level_sums

from spo_rlhf.core.options import OptionError
from spo_rlhf.core.predictions import Group, Tree, designs, settled_at
from spo_rlhf.core.tree import TokenTree, TreeShape
from spo_rlhf.core.tree_baselines import Shrunk, level_weights
from spo_rlhf.core.tree_plan import BINS, PlannedShape, Planner, Profile, falling, independent, plan
from spo_rlhf.core.values import Prior

START = TreeShape((2, 2), (1,))


def grown(lm: ToyLM, nodes, shape: TreeShape) -> TokenTree:
    """The tree of an enumerated pair of first-level nodes."""
    tree, [cut] = TokenTree([9], shape=shape), shape.segment_tokens
    for _, index, leaves in nodes:
        response, prob_T = lm.responses[index], lm.probs_T[index]
        node = tree.add(0, response[:cut], np.log(prob_T[:cut]).tolist())
        if not leaves:
            tree.reward_N[node] = lm.rewards[index]
        for leaf in leaves:
            child = tree.add(node, lm.responses[leaf][cut:], np.log(lm.probs_T[leaf][cut:]).tolist())
            tree.reward_N[child] = lm.rewards[leaf]
    return tree


def trees(lm: ToyLM, shape: TreeShape):
    """Every tree of this shape with its probability."""
    wide, deep = shape.branching
    for nodes in product(children_of_root(lm, deep, shape.segment_tokens[0]), repeat=wide):
        yield np.prod([probability for probability, _, _ in nodes]), grown(lm, nodes, shape)


def simulated(settled_at_cut: dict[int, float], energy_T: list[float], trees: int = 400, seed: int = 0) -> Profile:
    """Trees 4-2 of responses of len(energy_T) tokens; of an outcome of variance 1, a share is settled at each cut."""
    rng, profile = np.random.default_rng(seed), Profile()
    prob_T = [1 - np.sqrt(one) for one in energy_T]
    for number in range(trees):
        cut = sorted(settled_at_cut)[number % len(settled_at_cut)]
        tree = TokenTree([1], shape=TreeShape((4, 2), (cut,)))
        for _ in range(4):
            value = rng.normal(scale=np.sqrt(settled_at_cut[cut]))
            node = tree.add(0, [3] * cut, np.log(prob_T[:cut]).tolist())
            for _ in range(2):
                leaf = tree.add(node, [3] * (len(prob_T) - cut), np.log(prob_T[cut:]).tolist())
                tree.reward_N[leaf] = value + rng.normal(scale=np.sqrt(1 - settled_at_cut[cut]))
        profile.learn(tree, None, 0.0)
    return profile


@pytest.fixture(scope="module")
def lm() -> ToyLM:
    return ToyLM(0, max_tokens=3)


@pytest.mark.parametrize("cut", [1, 2])
def test_the_expectation_of_what_a_tree_says_is_the_truth(lm: ToyLM, cut: int) -> None:
    """Mean length, variance of an outcome, and what of it is open at the cut, over every tree there is."""
    shape, tokens, spread, open_at_cut, energy = TreeShape((2, 2), (cut,)), 0.0, 0.0, 0.0, 0.0
    for weight, tree in trees(lm, shape):
        one = Profile()
        one.learn(tree, None, 0.0)
        tokens += weight * one.mean_tokens
        spread += weight * one.spread
        open_at_cut += weight * one.unsettled_B.sum()
        energy += weight * one.energy_B[:cut].sum()
        assert one.cut_B.tolist() == [float(at == cut - 1) for at in range(BINS)]
    mean = lm.weights @ lm.rewards
    assert tokens == pytest.approx(lm.weights @ [len(one) for one in lm.responses])
    assert spread == pytest.approx(lm.weights @ (lm.rewards - mean) ** 2)
    values = {one[:cut]: lm.value(one[:cut]) for one in lm.responses}
    after = [values[one[:cut]] for one in lm.responses]
    assert open_at_cut == pytest.approx(lm.weights @ (lm.rewards - after) ** 2)
    squares = [sum((1 - prob) ** 2 for prob in prob_T[:cut]) for prob_T in lm.probs_T]
    assert energy == pytest.approx(lm.weights @ squares)


@pytest.mark.parametrize("prior", [None, Prior(mean=-1.3, count=4.5)], ids=str)
def test_a_shape_planned_from_earlier_trees_leaves_the_expected_gradient_exact(prior: Prior | None) -> None:
    """Every tree of a first step, what it makes the planner choose, and every tree of the second step with that."""
    lm, chance = ToyLM(10, forced=0.45, max_tokens=3), dict[TreeShape, float]()
    for weight, tree in trees(lm, START):
        planner = Planner(PlannedShape(every=1, spend=0.6, explore=0), START, seed=0)
        planner.learn(tree, None, 0.0)
        planner.end(0)
        shape = planner.shape_of(1, 0)
        settled = None if shape.settled is None else (round(shape.settled[0], 1),)  # fewer to enumerate
        shape = replace(shape, settled=settled)
        chance[shape] = chance.get(shape, 0.0) + weight
    assert len({(shape.branching, shape.segment_tokens) for shape in chance}) == 4
    assert sum(chance.values()) == pytest.approx(1)
    total = np.zeros_like(lm.prob)
    for shape, weight in chance.items():
        [cut], places = shape.segment_tokens, np.cumprod(shape.branching)
        kind = Shrunk(branching=shape.branching, settled=shape.settled)
        sums = expected_level_sums(lm, kind, shape.branching, prior, cut)
        for expected, exact, count in zip(sums, exact_level_gradients(lm, cut), places):
            np.testing.assert_allclose(expected / count, exact, rtol=0, atol=1e-9)
        # A mean over nodes with level weights has the same expectation for every shape.
        total += weight * sum(one * level for one, level in zip(level_weights(shape.branching), sums)) / places.sum()
    np.testing.assert_allclose(total, lm.policy_gradient() / 2, rtol=0, atol=1e-9)


def test_trees_whose_outcome_is_settled_late_are_cut_late() -> None:
    """Four times as many trees as it takes, a steep profile: cut behind it, with a price near that of exact moments."""
    late = simulated({10: 0.02, 20: 0.05, 30: 0.05}, [0.04] * 40)
    made = plan(late, TreeShape((4, 2), (20,)), TreeShape((4, 2), (20,)), spend=0.25)
    assert made is not None and made.shape.segment_tokens[0] >= 30 and made.shape.branching[1] > 2
    assert made.over_before < 0.9
    early = simulated({10: 0.9, 20: 0.95, 30: 0.95}, [0.04] * 40)
    made = plan(early, TreeShape((4, 2), (20,)), TreeShape((4, 2), (20,)), spend=0.25)
    assert made is not None and made.shape.segment_tokens[0] <= 15 and made.over_before < 0.9


def test_a_plan_is_the_cheapest_design_that_the_predictions_know() -> None:
    profile = simulated({10: 0.3, 20: 0.4, 30: 0.8}, [0.2] * 10 + [0.01] * 30)
    first = TreeShape((4, 2), (20,))
    made = plan(profile, first, first, spend=0.3)
    assert made is not None
    cut_C = [5, 10, 15, 20, 25, 30, 35]
    m = profile.moments(cut_C)
    start = Tree(branching=(4, 2), cut=3)
    fitting = [
        one
        for one in designs(len(cut_C), 0)
        if isinstance(one, Tree) and one.branching[0] > 1 and abs(one.tokens(m) / start.tokens(m) - 1) <= 0.3
    ]
    assert made.over_first == pytest.approx(min(float(one.price(m)) for one in fitting) / float(start.price(m)))
    [chosen] = [
        one
        for one in fitting
        if (one.branching, (cut_C[one.cut],)) == (made.shape.branching, made.shape.segment_tokens)
    ]
    assert made.shape.settled == (pytest.approx(settled_at(m)[chosen.cut]),)


def test_what_a_profile_says_of_a_cut_is_what_trees_cut_there_say() -> None:
    profile = simulated({10: 0.2, 20: 0.5, 30: 0.9}, [0.1] * 20 + [0.3] * 20, trees=3000)
    m = profile.moments([10, 20, 30])
    np.testing.assert_allclose(settled_at(m), [0.2, 0.5, 0.9], atol=0.05)
    np.testing.assert_allclose(m.energy_C / m.energy, [1 / 8, 1 / 4, 5 / 8], rtol=1e-9)
    assert (float(m.tokens), m.before_C.tolist()) == (40, [10, 20, 30]) and float(m.spread) == pytest.approx(
        1, abs=0.05
    )
    # Nobody was cut at 38: what is assumed, evenly over the tokens, but not less than what is settled before.
    assert settled_at(profile.moments([30, 38]))[1] == pytest.approx(0.95, abs=0.01)


def test_a_change_that_saves_little_is_not_made_and_one_beyond_the_spending_neither() -> None:
    evenly = simulated({20: 0.5}, [0.04] * 40)
    first = TreeShape((4, 2), (20,))
    made = plan(evenly, first, first, spend=0.0)
    assert made is not None and made.shape.branching == (4, 2) and made.over_first == made.over_before == 1
    far = plan(evenly, first, TreeShape((8, 4), (5,)), spend=0.1)  # the present shape no longer fits
    assert far is not None and far.shape.branching != (8, 4)


def test_without_outcomes_that_differ_nothing_is_planned() -> None:
    assert plan(Profile(), START, START, 1.0) is None
    tree = TokenTree([1], shape=START)
    for _ in range(2):
        node = tree.add(0, [1], [log(0.5)])
        for _ in range(2):
            tree.reward_N[tree.add(node, [2], [log(0.5)])] = 1.0
    planner = Planner(PlannedShape(every=1, explore=1), START, seed=0)
    planner.learn(tree, None, 0.0)
    assert planner.end(0) is None and planner.shape_of(1, 0) == START
    assert planner.metrics()["plan/over_first"] == 1 and "plan/settled_half" not in planner.metrics()


def test_tokens_that_are_not_trained_have_no_energy_and_long_responses_make_wide_bins() -> None:
    tree = TokenTree([1], shape=TreeShape((2, 2), (100,)))
    for number in range(2):
        node = tree.add(0, [1] * 100, [log(0.5)] * 100)
        for _ in range(2):
            tree.reward_N[tree.add(node, [2] * 100, [log(0.95)] * 100)] = float(number)
    profile = Profile()
    profile.learn(tree, 0.9, known=3.0)
    assert profile.width == 4 and profile.mean_tokens == 200 and profile.history == 3
    m = profile.moments([50, 100])
    assert (m.energy_C.tolist(), float(m.energy)) == ([12.5, 25], 25) and m.before_C.tolist() == [50, 100]
    # Two trees of one variance: 1/2 between the nodes, nothing behind the cut, against what is assumed.
    # One tree says that nothing is open at 100; it is assumed that half of it is, at 50 three quarters.
    assert float(m.spread) == 0.5 and m.unsettled_C[0] / 0.5 == pytest.approx(0.75) and 0 < m.unsettled_C[1] / 0.5 < 0.2


def test_some_trees_are_cut_elsewhere_by_seed_iteration_and_place_alone() -> None:
    planner = Planner(PlannedShape(every=2, explore=0.25), TreeShape((4, 2), (20,)), seed=3)
    planner.profile = simulated({20: 0.5}, [0.04] * 40)
    shapes = [planner.shape_of(5, slot) for slot in range(400)]
    elsewhere = [shape for shape in shapes if shape != planner.now]
    assert 60 < len(elsewhere) < 140 and {shape.branching for shape in shapes} == {(4, 2)}
    assert {shape.segment_tokens[0] for shape in elsewhere} == {5, 10, 15, 20, 25, 30, 35}
    assert (
        shapes
        == [planner.shape_of(5, slot) for slot in range(400)]
        != [planner.shape_of(6, slot) for slot in range(400)]
    )


def test_a_planner_goes_on_from_a_checkpoint_to_the_bit() -> None:
    """Through JSON, as it is written, at a plan and between two."""
    options, first = PlannedShape(every=2, explore=0.5), TreeShape((4, 2), (20,))
    whole, broken = (Planner(options, first, seed=1) for _ in range(2))
    for planner in (whole, broken):
        planner.profile = simulated({10: 0.1, 20: 0.2, 30: 0.3}, [0.3] * 4 + [0.04] * 36)
    for iteration in range(4):
        again = Planner(options, first, seed=1)
        again.restore(json.loads(json.dumps(broken.state())))
        broken = again
        made = [planner.end(iteration) for planner in (whole, broken)]
        assert made[0] == made[1] and (made[0] is None) == (iteration % 2 == 0)
        assert whole.state() == broken.state() and whole.metrics() == broken.metrics()
        assert [whole.shape_of(9, slot) for slot in range(50)] == [broken.shape_of(9, slot) for slot in range(50)]
    assert whole.now.settled is not None


def test_a_share_beyond_its_bounds_is_refused() -> None:
    with pytest.raises(OptionError, match="explore is 1.5: must be at least 0 and at most 1"):
        PlannedShape(explore=1.5)


def test_what_must_not_rise_is_what_isotonic_regression_makes_of_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        value_N, weight_N = rng.random(30), rng.random(30) + 0.01
        expected = isotonic_regression(value_N, weights=weight_N, increasing=False).x
        np.testing.assert_allclose(falling(value_N, weight_N), expected, rtol=0, atol=1e-12)


RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "credit-diagnose"


@pytest.mark.parametrize(
    ("task", "within"), [("quickstart", True), ("plan_first_6", True), ("check_last_6", False), ("check_last", False)]
)
def test_how_far_means_alone_are_from_what_a_diagnosis_predicts(task: str, within: bool) -> None:
    """The trees that spo-diagnose chose, by the profiles that it measured: inside its interval, or, settled late, above it."""
    found = json.loads((RESULTS / f"{task}.json").read_text())
    cut_C = np.array(found["cuts"])
    energy_C, settled_C = (
        np.array([one["value"] for one in found[name]]) for name in ("energy_before", "settled_before")
    )
    tokens, energy = found["tokens"]["value"], found["energy"]["value"]
    m = independent(tokens, np.minimum(cut_C, tokens), energy, energy * energy_C, 1.0, 1 - settled_C)
    trees = [one for one in found["choices"] if one["what"].startswith("tree")]
    assert len(trees) == 2
    for one in trees:
        wide, deep, cut = map(int, re.match(r"tree (\d+)-(\d+), shrunk, cut at token (\d+)", one["what"]).groups())
        design = Tree(history=one["history"], branching=(wide, deep), cut=found["cuts"].index(cut))
        price = float(design.price(m) / Group(responses=8).price(m))
        assert one["price"]["low"] <= price <= one["price"]["high"] if within else price > one["price"]["value"] + 0.1
