"""The objective of the actor against OpenRLHF's own PolicyLoss, its mismatch correction, and its metrics over any split."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from batches import SPO, arguments

from spo_rlhf import upstream
from spo_rlhf.core.units import RATIO_LEVELS
from spo_rlhf.trainer.experience import trained_tokens
from spo_rlhf.trainer.policy_loss import MaskedTotals, SegmentPolicyLoss

ROWS, COLUMNS = 6, 9
CORRECTIONS = [
    dict(level="token", mode="mask", gating="ratio", threshold=[0.8, 1.3]),
    dict(level="token", mode="clip", gating="ratio", threshold=[0.8, 1.3]),
    dict(level="token", mode="mask", gating="binary_kl", threshold=[0, 0.01]),
    dict(level="token", mode="mask", gating="tv", threshold=[0, 0.1]),
    dict(level="seq", mode="mask", gating="ratio", threshold=[0.95, 1.1]),
    dict(level="seq", mode="mask", gating="tv", threshold=[0, 0.09]),
]


def batch(seed: int = 0) -> upstream.Experience:
    """Responses of different lengths; the last has no token under the mask."""
    generator = torch.Generator().manual_seed(seed)
    shape = (ROWS, COLUMNS)
    action_mask = torch.arange(COLUMNS) < torch.randint(5, COLUMNS, (ROWS, 1), generator=generator)
    rollout = torch.where(torch.rand(shape, generator=generator) < 0.6, -0.9, -0.1) * action_mask
    rollout[-1] = -0.1
    old = rollout + 0.2 * torch.randn(shape, generator=generator) * action_mask
    return upstream.Experience(
        sequences=torch.ones(ROWS, COLUMNS + 1),
        action_mask=action_mask,
        rollout_log_probs=rollout,
        action_log_probs=old,
        base_action_log_probs=old + 0.1,
        advantages=torch.randn(shape, generator=generator) * action_mask,
        unit_ids=(1 + (torch.rand(shape, generator=generator) < 0.4).cumsum(-1)).clamp(max=COLUMNS) * action_mask,
        clip_scale=0.5 + torch.rand(shape, generator=generator),
        info={},
    )


def rows_of(experience: upstream.Experience, rows: list[int]) -> upstream.Experience:
    return upstream.Experience(
        info={}, **{k: v[rows] for k, v in vars(experience).items() if isinstance(v, torch.Tensor)}
    )


def options(spo=SPO, correction=None, **actor) -> SimpleNamespace:
    args = arguments(spo, **actor)
    args.algo.kl.use_loss = False
    for name, value in (correction or {}).items():
        setattr(args.algo.advantage, f"is_correction_{name}", value)
    return args


def new_log_probs(experience: upstream.Experience) -> torch.Tensor:
    noise = torch.randn(experience.action_log_probs.shape, generator=torch.Generator().manual_seed(9))
    return (experience.action_log_probs + 0.4 * noise * experience.action_mask).requires_grad_()


def normalizers(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"batch_num_tokens": mask.sum().float(), "global_batch_size": mask.any(-1).sum().float()}


def ours(args, experience, **changes):
    loss_fn = SegmentPolicyLoss(args)
    loss_fn.bind(experience, 0.0)
    logp = new_log_probs(experience)
    mask = trained_tokens(experience, args.spo)
    loss, *_ = loss_fn(
        logp,
        experience.action_log_probs,
        experience.advantages,
        experience.action_mask,
        experience.rollout_log_probs,
        **{**normalizers(mask), **changes},
    )
    loss.backward()
    return loss.item(), logp.grad, loss_fn


def upstreams(experience, **kwargs):
    logp, mask = new_log_probs(experience), trained_tokens(experience, SPO)
    loss, *metrics = upstream.PolicyLoss(**kwargs)(
        logp,
        experience.action_log_probs,
        experience.advantages,
        mask.float(),
        experience.rollout_log_probs,
        **normalizers(mask),
    )
    loss.backward()
    return loss.item(), logp.grad, metrics


def same(one, two) -> None:
    assert one[0] == pytest.approx(two[0], rel=1e-5)
    torch.testing.assert_close(one[1], two[1], rtol=1e-4, atol=1e-7)


PLAIN = replace(batch(), clip_scale=None)


@pytest.mark.parametrize("dual", [None, 1.3])
@pytest.mark.parametrize("eps", [(0.2, 0.2), (0.02, 0.05)])
def test_one_unit_per_response_is_upstreams_gspo(eps, dual):
    args = options(
        replace(SPO, ratio_level="sequence"), eps_clip_low_high=eps, dual_clip=dual, loss_agg_mode="seq-mean-token-mean"
    )
    theirs = upstreams(PLAIN, policy_loss_type="gspo", clip_eps_low=eps[0], clip_eps_high=eps[1], dual_clip=dual)
    same(ours(args, PLAIN), theirs)


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean"])
def test_the_token_level_is_upstreams_ppo(aggregation):
    args = options(eps_clip_low_high=(0.1, 0.3), dual_clip=1.3, loss_agg_mode=aggregation)
    theirs = upstreams(
        PLAIN, clip_eps_low=0.1, clip_eps_high=0.3, dual_clip=1.3, token_level_loss=aggregation == "token-mean"
    )
    same(ours(args, PLAIN), theirs)


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda c: "-".join(map(str, c.values())))
def test_correction_at_token_level_is_upstreams(correction, aggregation):
    # A row without a masked token is left out: OpenRLHF's own metrics are NaN with it.
    experience = rows_of(PLAIN, list(range(ROWS - 1)))
    theirs = upstreams(
        experience,
        token_level_loss=aggregation == "token-mean",
        **{f"is_correction_{k}": v for k, v in correction.items()},
    )
    *loss, loss_fn = ours(options(correction=correction, loss_agg_mode=aggregation), experience)
    same(loss, theirs)
    metrics = loss_fn.totals.take(OneRank)
    _, _, gap, filtered = theirs[2]
    assert 0 < metrics["is_filter_ratio"] < 1 and metrics["is_filter_ratio"] == pytest.approx(filtered.item(), rel=1e-5)
    assert metrics["vllm_kl"] == pytest.approx(gap.item(), rel=1e-4)


@pytest.mark.parametrize("level", RATIO_LEVELS)
def test_correction_weights_multiply_the_objective_of_every_level(level):
    spo, experience = replace(SPO, ratio_level=level), PLAIN
    mask = trained_tokens(experience, spo)
    weight = (experience.action_log_probs - experience.rollout_log_probs).exp().clamp(0.8, 1.3)
    corrected = ours(options(spo, CORRECTIONS[1]), experience)
    assert weight[mask].min() < 0.85 and weight[mask].max() > 1.2
    # The objective is linear in the advantages, whose sign the positive weights keep.
    weighted = ours(options(spo), replace(experience, advantages=experience.advantages * weight))
    same(corrected, weighted)


class OneRank:
    @staticmethod
    def all_reduce(values, op):
        return dict(values)


def ranks(all_totals: list[MaskedTotals]) -> SimpleNamespace:
    """A strategy whose all_reduce combines the totals of these ranks."""

    def all_reduce(values, op):
        combine = {"sum": sum, "max": max}[op]

        def sent(totals: MaskedTotals, key: str) -> float:
            return -totals.values[key] if totals.reduce[key] == "min" else totals.values[key]

        return {key: combine(sent(totals, key) for totals in all_totals) for key in values}

    return SimpleNamespace(all_reduce=all_reduce)


@pytest.mark.parametrize("level", RATIO_LEVELS)
def test_metrics_do_not_depend_on_micro_batches_and_ranks(level):
    args, experience = options(replace(SPO, ratio_level=level), CORRECTIONS[0], eps_clip_low_high=(0.1, 0.1)), batch()
    whole = normalizers(trained_tokens(experience, SPO))
    logp = new_log_probs(experience).detach()

    def totals_of(splits: list[list[int]]) -> MaskedTotals:
        loss_fn = SegmentPolicyLoss(args)
        for rows in splits:
            part = rows_of(experience, rows)
            loss_fn.bind(part, 0.0)
            loss_fn(
                logp[rows], part.action_log_probs, part.advantages, part.action_mask, part.rollout_log_probs, **whole
            )
        return loss_fn.totals

    expected = totals_of([list(range(ROWS))]).take(OneRank)
    assert 0 < expected["ratio/clipped_units"] < 1 and expected["ratio/min"] < 1 < expected["ratio/max"]
    assert 0 < expected["ratio/effective_sample_size"] < 1 and all(map(math.isfinite, expected.values()))
    assert totals_of([[0, 1], [5], [2, 3, 4]]).take(OneRank) == pytest.approx(expected, rel=1e-5)
    # The second rank's only response has no token under the mask.
    by_rank = [totals_of([[0, 1], [2]]), totals_of([[5]]), totals_of([[3], [4]])]
    assert by_rank[0].take(ranks(by_rank)) == pytest.approx(expected, rel=1e-5)


def test_the_effective_sample_size_of_equal_ratios_is_1():
    experience = batch()
    loss_fn = SegmentPolicyLoss(options())
    loss_fn.bind(experience, 0.0)
    old = experience.action_log_probs
    whole = normalizers(trained_tokens(experience, SPO))
    loss_fn(old, old, experience.advantages, experience.action_mask, experience.rollout_log_probs, **whole)
    metrics = loss_fn.totals.take(OneRank)
    assert metrics["ratio/effective_sample_size"] == pytest.approx(1)
    assert metrics["ratio/kept_responses"] == 1
    assert metrics["ratio/clipped_responses"] == 0 == metrics["ratio/clipped_units"]


def test_wider_bounds_clip_less():
    clipped = []
    for scale in (0.5, 1.0, 1.5):
        experience = replace(batch(), clip_scale=torch.full((ROWS, COLUMNS), scale))
        *_, loss_fn = ours(options(), experience)
        clipped.append(loss_fn.totals.take(OneRank)["ppo_clip_ratio"])
    assert clipped[0] > clipped[1] > clipped[2] > 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (options(eps_clip_low_high=(1.5, 0.2)), "clip range"),
        (options(dual_clip=0.5), "dual clip"),
        (options(replace(SPO, entropy_clip=1.0), eps_clip_low_high=(0.6, 0.2)), "above 1"),
        (options(correction=dict(level="seq", mode="clip")), "is_correction_mode=clip"),
    ],
)
def test_what_cannot_be_is_refused(args, says):
    with pytest.raises(ValueError, match=says):
        SegmentPolicyLoss(args)
