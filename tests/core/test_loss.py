"""The policy loss against a float64 reference written from the formula, token by token."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spo_rlhf.core.loss import Clip, clipped_objective, masked_sum, policy_mask, spo_loss
from spo_rlhf.core.metrics import k3
from spo_rlhf.core.partition import PROB_THRESHOLD, below_threshold, cutpoint_boundaries

SHAPE = (3, 7)
# Neighbouring float32 numbers on both sides of the threshold: probabilities, and log-probabilities (which lie closer).
PROBS_NEAR_THRESHOLD = np.float32(PROB_THRESHOLD) + np.arange(-4, 5, dtype=np.float32) * np.float32(2**-24)
LOGPS_NEAR_THRESHOLD = np.float32(math.log(PROB_THRESHOLD)) + np.arange(-9, 10, dtype=np.float32) * np.float32(2**-27)


def reference_loss(logp, old_logp, ref_logp, adv, mask, kl_mask, clip, normalizer, kl_coef, scale) -> float:
    """The formula, one token at a time, in python floats."""
    total = 0.0
    for index in np.ndindex(*logp.shape):
        if mask[index]:
            ratio, a = math.exp(logp[index] - old_logp[index]), adv[index]
            surrogate = min(ratio * a, min(max(ratio, 1 - clip.low), 1 + clip.high) * a)
            if clip.dual is not None and a < 0:
                surrogate = max(surrogate, clip.dual * a)
            total -= surrogate
        if kl_mask[index]:
            diff = ref_logp[index] - logp[index]
            total += kl_coef * (math.exp(diff) - diff - 1)
    return scale / normalizer * total


def random_batch(seed: int) -> dict[str, np.ndarray]:
    """Ratios far enough from 1 that every branch of the clip is taken."""
    rng = np.random.default_rng(seed)
    old_logp = -rng.exponential(size=SHAPE)
    kl_mask = rng.random(SHAPE) < 0.8
    return {
        "logp": old_logp + rng.normal(scale=0.8, size=SHAPE),
        "old_logp": old_logp,
        "ref_logp": old_logp + rng.normal(scale=0.5, size=SHAPE),
        "adv": rng.normal(size=SHAPE),
        "mask": kl_mask & (rng.random(SHAPE) < 0.6),
        "kl_mask": kl_mask,
    }


def loss_of(batch: dict[str, np.ndarray], logp: torch.Tensor, **kwargs):
    old_logp, ref_logp, adv, mask, kl_mask = (
        torch.tensor(batch[key]) for key in ("old_logp", "ref_logp", "adv", "mask", "kl_mask")
    )
    return spo_loss(logp, old_logp, adv, mask, kl_T=k3(logp, ref_logp), kl_mask=kl_mask, **kwargs)


@pytest.mark.parametrize("clip", [Clip(), Clip(low=0.1, high=0.3), Clip(dual=1.5)], ids=str)
@pytest.mark.parametrize("normalizer", [5.0, 0.25])  # below 1: one masked token in four accumulated micro-batches
def test_loss_and_gradient_match_the_formula(normalizer: float, clip: Clip) -> None:
    batch = random_batch(seed=0)
    options = {"clip": clip, "normalizer": normalizer, "kl_coef": 0.3, "scale": 2.0}
    logp = torch.tensor(batch["logp"], requires_grad=True)
    terms = loss_of(batch, logp, **options)
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(reference_loss(**batch, **options), rel=1e-12)
    assert 0 < terms.mean("ppo_clip_ratio") < 1

    step = 1e-6
    for index in np.ndindex(*SHAPE):
        up, down = batch["logp"].copy(), batch["logp"].copy()
        up[index] += step
        down[index] -= step
        slope = (
            reference_loss(**{**batch, "logp": up}, **options) - reference_loss(**{**batch, "logp": down}, **options)
        ) / (2 * step)
        assert logp.grad[index].item() == pytest.approx(slope, rel=1e-7, abs=1e-7)


def test_terms_are_the_parts_of_the_loss() -> None:
    batch = random_batch(7)
    mask, kl_mask = batch["mask"], batch["kl_mask"]
    logp = torch.tensor(batch["logp"])
    terms = loss_of(batch, logp, clip=Clip(), normalizer=4.0, kl_coef=0.3, scale=2.0, action_mask=torch.tensor(kl_mask))
    assert terms.loss.item() == pytest.approx(2.0 * (terms.policy.item() + 0.3 * terms.kl.item()))
    assert terms.masked_tokens.item() == mask.sum()
    assert terms.mask_density.item() == pytest.approx(mask.sum() / kl_mask.sum())
    diff = (batch["logp"] - batch["old_logp"])[mask]
    assert terms.mean("ppo_kl").item() == pytest.approx((np.exp(diff) - diff - 1).mean())
    ratio, adv = np.exp(diff), batch["adv"][mask]
    clipped = ((ratio > 1.2) & (adv > 0)) | ((ratio < 0.8) & (adv < 0))
    assert terms.mean("ppo_clip_ratio").item() == pytest.approx(clipped.mean())


def test_gradient_at_ratio_1_is_minus_the_advantage_over_z() -> None:
    batch = random_batch(1)
    logp = torch.tensor(batch["old_logp"], requires_grad=True)
    adv, mask = torch.tensor(batch["adv"]), torch.tensor(batch["mask"])
    spo_loss(logp, logp.detach(), adv, mask, clip=Clip(), normalizer=mask.sum()).loss.backward()
    np.testing.assert_allclose(logp.grad, -batch["adv"] * batch["mask"] / batch["mask"].sum(), rtol=1e-12)


@pytest.mark.parametrize(
    ("ratio", "adv", "dual", "loss", "clipped"),
    [
        (1.5, 1.0, None, -1.2, True),
        (1.5, -1.0, None, 1.5, False),
        (0.5, 1.0, None, -0.5, False),
        (0.5, -1.0, None, 0.8, True),
        (1.1, 1.0, None, -1.1, False),
        (5.0, -1.0, 3.0, 3.0, True),
        (5.0, -1.0, None, 5.0, False),
        (5.0, 1.0, 3.0, -1.2, True),
        (3.0, -1.0, 3.0, 3.0, False),  # at a bound itself nothing is cut off
        (1.25, 1.0, None, -1.2, True),
    ],
)
def test_clip_cases(ratio, adv, dual, loss, clipped) -> None:
    loss_T, clipped_T = clipped_objective(torch.tensor([ratio]), torch.tensor([adv]), Clip(dual=dual))
    assert loss_T.item() == pytest.approx(loss)
    assert clipped_T.item() == clipped


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_extreme_log_ratios_stay_finite(extreme: float) -> None:
    logp = torch.full((1, 2), extreme, requires_grad=True)
    zeros = torch.zeros(1, 2)
    for kl_T in (k3(logp, zeros), k3(zeros, logp)):
        terms = spo_loss(
            logp,
            zeros,
            torch.tensor([[1.0, -1.0]]),
            torch.ones(1, 2),
            clip=Clip(),
            normalizer=2,
            kl_T=kl_T,
            kl_mask=torch.ones(1, 2),
            kl_coef=0.1,
        )
        (grad,) = torch.autograd.grad(terms.loss, logp)
        of_loss = {name: value for name, value in vars(terms).items() if name not in ("units", "metrics")}
        assert all(
            torch.isfinite(value) for part in (of_loss, terms.metrics, vars(terms.units)) for value in part.values()
        )
        assert torch.isfinite(grad).all()


def test_half_precision_is_computed_in_float32() -> None:
    batch = random_batch(2)
    logp, old_logp, adv = (torch.tensor(batch[key], dtype=torch.bfloat16) for key in ("logp", "old_logp", "adv"))
    mask = torch.tensor(batch["mask"])
    half = spo_loss(logp, old_logp, adv, mask, clip=Clip(), normalizer=mask.sum(), kl_T=k3(logp, adv), kl_mask=mask)
    full = spo_loss(
        logp.float(),
        old_logp.float(),
        adv.float(),
        mask,
        clip=Clip(),
        normalizer=mask.sum(),
        kl_T=k3(logp.float(), adv.float()),
        kl_mask=mask,
    )
    assert half.loss.dtype == torch.float32
    assert vars(half) == vars(full)


def test_values_outside_the_mask_do_not_matter() -> None:
    value_T = torch.tensor([1.0, math.nan, math.inf, 2.0], requires_grad=True)
    total = masked_sum(value_T, torch.tensor([True, False, False, True]))
    total.backward()
    assert total.item() == 3.0
    assert value_T.grad.tolist() == [1.0, 0.0, 0.0, 1.0]


def test_k3_is_precise_for_small_differences() -> None:
    diff = 1e-3
    assert k3(torch.zeros(()), torch.tensor(diff)).item() == pytest.approx(diff**2 / 2 + diff**3 / 6, rel=1e-3)


def test_kl_needs_to_know_its_tokens() -> None:
    with pytest.raises(ValueError, match="kl_mask"):
        spo_loss(*torch.zeros(4, 1, 1), clip=Clip(), normalizer=1, kl_T=torch.zeros(1))


@pytest.mark.parametrize("parameters", [{"low": -0.1}, {"low": 1.1}, {"high": -1.0}, {"dual": 1.0}], ids=str)
def test_bad_clip_is_refused(parameters: dict) -> None:
    with pytest.raises(ValueError, match="clip"):
        Clip(**parameters)


elements = st.one_of(st.floats(-20, 0, width=32), st.sampled_from(LOGPS_NEAR_THRESHOLD.tolist()))


@given(hnp.arrays(np.float32, st.integers(1, 30), elements=elements))
@example(LOGPS_NEAR_THRESHOLD)
def test_loss_mask_and_cutpoints_agree(logp_T) -> None:
    prob_T = np.exp(logp_T.astype(np.float64))
    mask_T = policy_mask(torch.tensor(logp_T)[None], torch.ones(1, len(logp_T)), PROB_THRESHOLD)[0].numpy()
    assert (mask_T == below_threshold(prob_T, PROB_THRESHOLD)).all()
    # With an interval of 1 every cutpoint but the first, whose segment starts at 0, is a boundary.
    assert cutpoint_boundaries(prob_T, PROB_THRESHOLD, 1) == [0, *np.flatnonzero(mask_T)[1:], len(logp_T)]


def test_one_definition_for_numpy_and_torch() -> None:
    for prob_T in (PROBS_NEAR_THRESHOLD, PROBS_NEAR_THRESHOLD.astype(np.float64), np.array([0.9, 0.89, 0.91])):
        of_torch = below_threshold(torch.tensor(prob_T), PROB_THRESHOLD)
        assert of_torch.tolist() == below_threshold(prob_T, PROB_THRESHOLD).tolist()
        assert 0 < of_torch.sum() < len(prob_T)


def test_policy_mask_holds_action_tokens_only() -> None:
    logp = torch.log(torch.tensor([[0.5, 0.5, 0.95, 0.2]]))
    action_mask = torch.tensor([[0, 1, 1, 1]])
    assert policy_mask(logp, action_mask, PROB_THRESHOLD).tolist() == [[False, True, False, True]]


def test_a_clip_range_may_be_as_wide_and_as_narrow_as_there_is() -> None:
    assert (Clip(low=0, high=0).low, Clip(low=1).low, Clip(dual=1.01).dual) == (0, 1, 1.01)


def test_one_token_and_none() -> None:
    """What is divided by their number is right for one and 0 without any."""
    logp = torch.tensor([[-1.0, -2.0]], dtype=torch.float64)
    for count in (1, 0):
        mask = torch.tensor([[count == 1, False]])
        terms = spo_loss(
            logp, logp - 0.5, torch.tensor([[2.0, 9.0]]), mask, clip=Clip(), normalizer=1, action_mask=mask
        )
        assert terms.mean("policy_loss").item() == pytest.approx(-2.4 * count)
        assert terms.mask_density.item() == terms.masked_tokens.item() == count


def test_the_kl_term_needs_a_coefficient_and_its_mask_alone_adds_none() -> None:
    logp, ones = torch.tensor([[-1.0, -2.0]]), torch.ones(1, 2)
    without, unweighted, mask_alone, with_kl = (
        spo_loss(logp, logp - 0.1, ones, ones, clip=Clip(), normalizer=2, **options).loss.item()
        for options in (
            {},
            {"kl_T": ones, "kl_mask": ones},
            {"kl_mask": ones},
            dict(kl_T=ones, kl_mask=ones, kl_coef=2.0),
        )
    )
    assert without == unweighted == mask_alone and with_kl == pytest.approx(without + 2)
