"""Values: Monte Carlo means with their error, and the leave-one-out baseline."""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.core.values import ValueEstimate, leave_one_out, monte_carlo

rewards = st.floats(-10, 10)


@given(st.lists(rewards, min_size=2, max_size=40))
def test_monte_carlo_is_mean_and_unbiased_standard_error(reward_R) -> None:
    estimate = monte_carlo(reward_R)
    assert estimate.mean == pytest.approx(statistics.fmean(reward_R), abs=1e-9)
    assert estimate.stderr == pytest.approx(statistics.stdev(reward_R) / len(reward_R) ** 0.5, abs=1e-9)
    assert estimate.count == len(reward_R)


def test_one_rollout_has_no_spread() -> None:
    assert monte_carlo([0.25]) == ValueEstimate(mean=0.25, stderr=0.0, count=1)


@given(st.lists(rewards, min_size=2, max_size=12))
def test_leave_one_out_is_the_mean_of_the_others(reward_B) -> None:
    for index, value in enumerate(leave_one_out(reward_B)):
        others = reward_B[:index] + reward_B[index + 1 :]
        assert value == pytest.approx(statistics.fmean(others), abs=1e-9)


@given(st.lists(rewards, min_size=2, max_size=12), st.data())
def test_leave_one_out_does_not_depend_on_the_own_reward(reward_B, data) -> None:
    index = data.draw(st.integers(0, len(reward_B) - 1))
    changed = [*reward_B]
    changed[index] = data.draw(rewards)
    assert leave_one_out(changed)[index] == pytest.approx(leave_one_out(reward_B)[index], abs=1e-9)


@pytest.mark.parametrize(("function", "given"), [(monte_carlo, []), (leave_one_out, [1.0]), (leave_one_out, [])])
def test_too_few_rewards_are_refused(function, given) -> None:
    with pytest.raises(ValueError, match="at least"):
        function(given)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("function", [monte_carlo, leave_one_out])
def test_rewards_that_are_not_finite_are_refused(function, bad) -> None:
    with pytest.raises(ValueError, match="finite"):
        function([0.0, bad])
