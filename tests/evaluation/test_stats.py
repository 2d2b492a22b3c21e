"""The report's statistics against scipy, statsmodels, closed forms and enumeration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import stats

scipy_stats = pytest.importorskip("scipy.stats")


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n, data):
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    right = [True] * correct + [False] * (n - correct)
    subsets = list(itertools.combinations(right, k))
    assert stats.pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="pass@4 of 3 samples"):
        stats.pass_at_k(3, 1, 4)


def test_bootstrap_interval_agrees_with_scipy():
    values = np.random.default_rng(1).choice([0, 0.25, 0.5, 1], 200)
    low, high = stats.bootstrap_interval(values)
    reference = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(2)
    )
    assert (low, high) == pytest.approx(tuple(reference.confidence_interval), abs=0.005)


def test_bootstrap_interval_covers_the_truth_about_95_percent_of_the_time():
    rng = np.random.default_rng(3)
    covered = 0
    for run in range(150):
        low, high = stats.bootstrap_interval(rng.random(60) < 0.4, seed=run)
        covered += low <= 0.4 <= high
    assert 0.88 <= covered / 150 <= 0.99


def test_bootstrap_interval_is_the_same_each_time_and_nan_for_one_problem():
    assert stats.bootstrap_interval([0, 1, 1, 0.5]) == stats.bootstrap_interval([0, 1, 1, 0.5])
    assert all(math.isnan(bound) for bound in stats.bootstrap_interval([1]))


@given(st.integers(1, 200), st.data())
def test_binomial_interval_is_wilsons(n, data):
    correct = data.draw(st.integers(0, n))
    expected = scipy_stats.binomtest(correct, n).proportion_ci(0.95, "wilson")
    assert stats.binomial_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_statsmodels_exact_test(b, c):
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    expected = contingency.mcnemar([[5, b], [c, 5]], exact=True).pvalue if b + c else 1.0
    assert stats.mcnemar(b, c) == pytest.approx(expected)


def test_paired_difference_is_narrower_than_two_separate_intervals():
    rng = np.random.default_rng(4)
    first = rng.random(100)
    second = np.clip(first + 0.05 + 0.01 * rng.standard_normal(100), 0, 2)
    mean, low, high = stats.paired_difference(first, second)
    assert mean == pytest.approx(0.05, abs=0.005) and 0.04 < low < high < 0.06


def test_majority_counts_answers_not_samples():
    assert stats.majority_score(["5", "5", "6", None], [True, True, False, False]) == 1.0
    assert stats.majority_score(["5", "6", "6"], [True, False, False]) == 0.0
    assert stats.majority_score(["5", "6"], [True, False]) == 0.5
    assert stats.majority_score([None, None], [False, False]) == 0.0
