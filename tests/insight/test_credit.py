"""What kept rollouts tell: calibration of values, spread of advantages, groups that agree."""

import kept_toy
import numpy as np
import pytest
from made_up import row, rows

from spo_rlhf.insight.credit import agreement, calibration, credit_of, inner_states


def states(value_of, *, prompts=300, seed=0):
    """A response a prompt, with three inner states: true value v, an estimate by 4 draws, and an outcome of its own."""
    rng = np.random.default_rng(seed)
    made = []
    for prompt in range(prompts):
        true = rng.uniform()
        for _ in range(3):
            draws = rng.random(4) < true
            value, error = draws.mean(), draws.std(ddof=1) / 2
            made.append((str(prompt), str(prompt), float(value_of(value)), float(error), float(rng.random() < true)))
    return made


def test_unbiased_values_have_no_gap_and_the_slope_that_their_noise_explains():
    found = calibration(states(lambda value: value))
    assert abs(found.gap) < 3 * found.stderr < 0.1
    assert found.slope == pytest.approx(found.noise_slope, abs=0.1) and 0.4 < found.slope < 0.8
    assert found.states == 900 and found.responses == 300
    assert sum(one.count for one in found.bins) == 900 and len(found.bins) == 5


def test_values_that_are_too_high_have_a_gap_beyond_its_error():
    found = calibration(states(lambda value: min(1.0, value + 0.2)))
    assert found.gap > 3 * found.stderr and found.gap == pytest.approx(0.15, abs=0.08)


def test_states_of_one_prompt_count_as_one_piece_of_evidence():
    once = states(lambda value: value, prompts=50)
    many = [(prompt, name, value, error, reward) for prompt, name, value, error, reward in once for _ in range(4)]
    assert calibration(many).stderr == pytest.approx(calibration(once).stderr, rel=1e-9)
    assert calibration([("a", "a", 0.5, 0.1, 1.0)] * 5).stderr == float("inf"), "one prompt tells nothing of its spread"
    assert calibration(once[:1]) is None


def test_only_inner_borders_of_responses_are_compared():
    one = row(1, 0, 1, ["a "] * 8, segments=4)
    assert [state[2] for state in inner_states([one])] == one["values"][1:-1]
    assert inner_states([{**one, "reward": None}]) == [] == inner_states(kept_toy.rows("tree"))


def test_spread_and_agreement_are_those_of_a_step():
    kept = rows(steps=2, prompts=3)
    found = credit_of(kept)
    assert found.steps == [1, 2] and found.rows == 24
    second = [one for one in kept if one["step"] == 2]
    under = [adv for one in second for adv, bit in zip(one["advantages"], one["mask"]) if bit]
    assert found.variance[1] == pytest.approx(np.var(under))
    for one in second:
        one["reward"] = 1.0 if one["slot"] < 2 else float(one["sample"] % 2)
    assert agreement(second) == pytest.approx(2 / 3)
    assert credit_of([]).calibration is None
