"""Advantages: telescoping over segments, spreading to tokens, scaling over the batch."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spo_rlhf.core.advantages import NORMALIZERS, Normalizer, among_siblings, chain, normalize, to_tokens
from spo_rlhf.core.options import OptionError, option
from spo_rlhf.core.partition import Cutpoint

values = st.floats(-10, 10)
advantages = st.lists(st.tuples(values, st.booleans()), min_size=1, max_size=40)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 6), values, st.data())
def test_segment_advantages_of_a_response_sum_to_reward_minus_start_value(prob_T, interval, reward, data) -> None:
    boundary_K = Cutpoint(interval=interval).boundaries(prob_T)
    num_segments = len(boundary_K) - 1
    value_K = data.draw(st.lists(values, min_size=num_segments, max_size=num_segments))
    adv_T = to_tokens(chain(value_K, reward), boundary_K)
    assert adv_T.shape == (len(prob_T),)
    assert adv_T[boundary_K[:-1]].sum() == pytest.approx(reward - value_K[0], abs=1e-9)
    for start, end in zip(boundary_K, boundary_K[1:]):
        assert (adv_T[start:end] == adv_T[start]).all()


def test_chain_takes_the_reward_as_the_last_value() -> None:
    assert chain([0.25, 0.75], 0.5).tolist() == [0.5, -0.25]


def test_mismatched_segments_are_refused() -> None:
    with pytest.raises(ValueError, match="2 advantages for 1 segments"):
        to_tokens([1.0, 2.0], [0, 3])
    with pytest.raises(ValueError, match="no values"):
        chain([], 1.0)


@given(advantages)
def test_normalized_masked_tokens_have_mean_0_and_std_1(rows) -> None:
    adv_N, mask_N = (np.array(column) for column in zip(*rows))
    assume(mask_N.any() and np.ptp(adv_N[mask_N]) > 1e-3)
    normalized = normalize(adv_N, mask_N)
    assert normalized[mask_N].mean() == pytest.approx(0, abs=1e-6)
    assert normalized[mask_N].std() == pytest.approx(1, abs=1e-4)
    # The same map outside the mask: differences between any two tokens shrink alike.
    slope = 1 / (adv_N[mask_N].std() + 1e-8)
    np.testing.assert_allclose(normalized - normalized[0], (adv_N - adv_N[0]) * slope, atol=1e-6)


@given(advantages)
def test_normalize_is_finite_and_leaves_its_input_alone(rows) -> None:
    adv_N, mask_N = (np.array(column) for column in zip(*rows))
    before = adv_N.copy()
    assert np.isfinite(normalize(adv_N, mask_N)).all()
    assert (adv_N == before).all()


def test_equal_masked_tokens_are_only_centred() -> None:
    # 0.1 three times has a mean that is not exactly 0.1, so its computed standard deviation is not exactly 0.
    normalized = normalize([0.1, 0.1, 0.1, 0.6], [True, True, True, False])
    np.testing.assert_allclose(normalized, [0, 0, 0, 0.5], atol=1e-12)


def test_nothing_masked_is_returned_as_it_is() -> None:
    assert normalize([1.0, 3.0], [False, False]).tolist() == [1.0, 3.0]
    assert normalize([], []).tolist() == []


def test_a_sibling_is_compared_with_the_mean_of_the_others() -> None:
    assert among_siblings([1.0, 0.0, 0.5]).tolist() == [0.75, -0.75, 0.0]


@pytest.mark.parametrize(("name", "expected"), [("none", [0.0, 4.0, 9.0]), ("batch", [-1.0, 1.0, 3.5])])
def test_a_norm_says_whether_it_moves_zero(name: str, expected: list[float]) -> None:
    norm = NORMALIZERS[name]()
    normalized = norm([0.0, 4.0, 9.0], [True, True, False])
    np.testing.assert_allclose(normalized, expected, atol=1e-7)
    assert norm.moves_zero == (normalized[0] != 0)


def test_a_norm_refuses_options_out_of_their_bounds() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Floored(Normalizer):
        floor: float = option(1.0, above=0, help="of the scale")

        def __call__(self, adv_N, mask_N):
            return np.asarray(adv_N) / self.floor

    assert Floored(floor=2.0)([1.0], [True]).tolist() == [0.5] and not Floored.moves_zero
    with pytest.raises(OptionError, match="floor is 0"):
        Floored(floor=0)
