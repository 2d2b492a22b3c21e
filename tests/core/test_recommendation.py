"""What is recommended, on moments that are known: where outcomes are settled decides, and doubt keeps to RLOO."""

from dataclasses import replace

import numpy as np
import pytest
from test_diagnosis import ToyLM, as_moments, population, response

from spo_rlhf.core.diagnosis import Moments, moments
from spo_rlhf.core.predictions import Chain, Group, Tree
from spo_rlhf.core.recommendation import Diagnosis, describe, diagnose

CUTS, TOKENS = (20, 100, 180), 200


def prompts(settled: tuple[float, ...], advantage: float, count: int = 40, spread: float = 0.0, fatal: float = 1.0):
    """Energy even along a response and independent of the outcome, which is settled at the cuts as given.

    fatal: so many times as much of it where the value jumps.
    """
    x, a = np.array(CUTS) / TOKENS, np.array(settled)
    base = {name: np.asarray(value) for name, value in vars(as_moments(population(ToyLM(0, 2), 1))).items()}
    variance = 0.25
    known = {
        "tokens": TOKENS, "before_C": np.array(CUTS), "energy": 1.0, "energy_C": x, "spread": variance, "decided": 0.1,
        "unsettled_C": variance * (1 - a), "group": variance, "group_noise": variance, "overlap": 0.0,
        "exact_value": variance / 2, "exact_advantage": variance * advantage,
        "before_value_C": fatal * x * variance * a, "before_noise_C": x * variance * (1 - a), "before_start_C": x * variance,
        "before_others_C": x * variance * (1 - a), "after_own_C": fatal * (1 - x) * variance * (1 - a),
        "after_noise_C": (1 - x) * variance * (1 - a), "after_value_C": (1 - x) * variance * a,
        "after_start_C": (1 - x) * variance, "after_others_C": (1 - x) * variance * (1 - a), "after_cross_C": 0 * x,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    made = Moments(**{**base, **{name: np.asarray(value, float) for name, value in known.items()}})
    return [replace(made, group=made.group * (1 + spread * rng.normal())) for _ in range(count)]


def diagnosed(*arguments, history: int = 8, **more) -> Diagnosis:
    return diagnose(prompts(*arguments, **more), CUTS, history, draws=200, seed=0)


EARLY, EVEN = (0.95, 0.97, 1.0), (0.1, 0.5, 0.9)


def test_what_is_settled_early_wants_a_tree_that_branches_behind_it():
    found = diagnosed(EARLY, 0.05)
    best = found.choices[found.recommended]
    assert best.what.startswith("tree") and best.what.endswith("cut at token 20") and best.history == 8
    assert best.over_group.value < 0.7 and best.what in found.verdict
    assert "--spo.tree_segment_tokens 20" in best.options and "--spo.tree_settled 0.95" in best.options


def test_what_is_settled_late_wants_a_branch_there():
    found = diagnosed((0.0, 0.02, 0.05), 0.05)
    best = found.choices[found.recommended]
    assert best.what.startswith("tree") and "token 180" in best.what and best.over_group.value < 0.8


def test_where_a_free_exact_advantage_wins_little_rloo_is_best_and_it_says_why():
    found = diagnosed(EVEN, 0.8, fatal=1.5)
    assert found.choices[found.recommended].what.startswith("RLOO")
    assert "no credit assignment that pays for its samples" in found.verdict and "with a history" in found.verdict
    assert found.oracle["advantage"].value == pytest.approx(0.8)


def test_a_gain_within_its_interval_is_none():
    noisy = diagnosed(EARLY, 0.05, spread=8.0)
    assert noisy.choices[noisy.recommended].what.startswith("RLOO")


def test_without_a_history_nothing_that_needs_one():
    found = diagnosed(EARLY, 0.05, history=0)
    assert {choice.history for choice in found.choices} == {0} and len(found.choices) == 3
    assert all("history" not in choice.options for choice in found.choices)


def test_profiles_are_those_of_the_moments():
    found = diagnosed(EARLY, 0.05)
    assert [one.value for one in found.energy_before] == pytest.approx([0.1, 0.5, 0.9])
    assert [one.value for one in found.settled_before] == pytest.approx(EARLY)
    assert found.decided.value == pytest.approx(0.1) and found.cuts == list(CUTS)


def test_options_are_those_of_the_command():
    [one] = prompts(EVEN, 0.5, count=1)
    m = replace(one, **{name: np.asarray(value)[None] for name, value in vars(one).items()})
    assert describe(Group(responses=4), m, CUTS)[1].endswith("--rollout.n_samples_per_prompt 4")
    what, options = describe(Chain(history=8, responses=2, rollouts=1, cut=2), m, CUTS)
    assert what == "chain, 2 responses, 1 rollout at token 180" and "--spo.places 180" in options
    assert "--spo.tree_settled 0.50" in describe(Tree(branching=(4, 2), cut=1), m, CUTS)[1]


def test_calibration_is_the_slope_on_the_mean_of_the_others():
    """Prompts that are always right or always wrong: the others tell all. One prompt alike for all: nothing."""
    lm = ToyLM(0, 2)
    right, wrong = (replace(response(lm, 3), reward=r, at_cuts=[]) for r in (1.0, 0.0))
    split = [moments([one] * 3, ()) for one in (right, wrong)] * 10
    mixed = [moments([right, wrong, right, wrong], ())] * 20
    found = diagnose([*split, *mixed], (), 8, 50, 0)
    assert 0 < found.calibration.value < 1
    assert diagnose([*split * 20, *mixed[:1]], (), 8, 50, 0).calibration.value > 0.95


def test_nothing_to_learn_from_is_said():
    still = [replace(one, spread=np.asarray(0.0)) for one in prompts(EVEN, 0.5, count=8)]
    with pytest.raises(ValueError, match="there is no gradient"):
        diagnose(still, CUTS, 8, 10, 0)
