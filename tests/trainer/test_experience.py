"""From samples to the loss of a micro-batch: layout, mask, whitening, normaliser, objective. OpenRLHF's classes, no engine."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from batches import ADV, PROB, PROMPT, RESPONSE, SPO, arguments, experience

from spo_rlhf.core.advantages import Whiten
from spo_rlhf.core.loss import Clip, clipped_objective
from spo_rlhf.core.metrics import k3
from spo_rlhf.trainer.actor import LossWindows, SegmentReplayBuffer
from spo_rlhf.trainer.experience import (
    SegmentExperienceMaker,
    finish_batch,
    keep_segment_advantages,
    log_gaps,
    logprob_gaps,
    normalize_batch,
    trained_tokens,
)
from spo_rlhf.trainer.policy_loss import SegmentPolicyLoss
from spo_rlhf.trainer.samples import to_columns


def test_response_tokens_stand_where_they_are_predicted():
    columns = to_columns([10.0, 20.0], prompt_length=3, total_length=5)
    # Column j is about token j + 1: the first response token, at position 3, is column 2.
    assert columns.tolist() == [[0.0, 0.0, 10.0, 20.0]]


def test_mask_is_the_engines_probability_below_the_threshold():
    batch = experience(PROB, ADV)
    assert trained_tokens(batch, SPO)[:, PROMPT - 1 :].int().tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]
    assert not trained_tokens(batch, SPO)[:, : PROMPT - 1].any()
    assert torch.equal(trained_tokens(batch, replace(SPO, prob_mask=False)), batch.action_mask)


def test_the_states_mask_asks_the_most_likely_token():
    batch, spo = experience(PROB, ADV), replace(SPO, hesitation="state")
    # A token of 0.4 where another one had 0.55: not below it; one of 0.1 where nothing was likely: below.
    top = [[0.55, 0.51, 0.9, 0.3], [0.9, 0.8, 0.7, 0.6]]
    batch.top_log_probs = experience(top, ADV).rollout_log_probs
    assert trained_tokens(batch, spo)[:, PROMPT - 1 :].int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert torch.equal(trained_tokens(batch, replace(spo, prob_mask=False)), batch.action_mask)


def test_chain_keeps_the_advantages_of_the_samples():
    made = experience(PROB, ADV)
    keep_segment_advantages([made])
    finish_batch([made], SPO)
    assert made.advantages[:, PROMPT - 1 :].tolist() == ADV and torch.equal(made.returns, made.advantages)
    assert made.info["mask_density"].tolist() == [0.5, 0.0] and made.info["zero_advantage"].tolist() == [0.0, 1.0]


def test_whitening_is_over_the_whole_batch_and_the_mask():
    batches = [experience(PROB[:1], ADV[:1]), experience([[0.1] * 4], [[2.0, 0.0, 1.0, 1.0]])]
    masks = [trained_tokens(batch, SPO) for batch in batches]
    normalize_batch(batches, masks, Whiten())
    masked = torch.cat([batch.advantages[mask] for batch, mask in zip(batches, masks)])
    assert masked.mean().item() == pytest.approx(0, abs=1e-6) and masked.std(unbiased=False).item() == pytest.approx(
        1, abs=1e-5
    )
    assert all((batch.advantages[~batch.action_mask] == 0).all() for batch in batches)


def test_a_sample_counts_by_its_weight_after_the_norm():
    plain, weighed = experience(PROB, ADV), experience(PROB, ADV)
    weighed.info["loss_weight"] = torch.tensor([0.5, 2.0])
    spo = replace(SPO, advantage_norm=Whiten())
    for batch in (plain, weighed):
        finish_batch([batch], spo)
    assert torch.allclose(weighed.advantages, plain.advantages * torch.tensor([[0.5], [2.0]]))
    loss, logp, _ = loss_of(SPO, weighed, kl_coef=0.0)
    objective, _ = clipped_objective((logp.detach() - weighed.action_log_probs).exp(), plain.advantages, Clip())
    mask = trained_tokens(weighed, SPO)
    expected = (objective * torch.tensor([[0.5], [2.0]]))[mask].sum() / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gaps_are_differences_on_response_tokens_alone():
    batch = experience(PROB, ADV)
    batch.action_log_probs = batch.rollout_log_probs.clone()
    batch.action_log_probs[1, PROMPT] += 0.25
    batch.action_log_probs[0, 0] += 9.0  # a prompt position
    gap_N = logprob_gaps(batch)
    assert len(gap_N) == batch.action_mask.sum() and gap_N.max().item() == pytest.approx(0.25)
    assert (gap_N > 1e-9).sum() == 1


def test_what_a_nucleus_explains_is_no_gap():
    """The engine renormalises over a nucleus of mass in [top_p, 1]; the actor's log-probs are those of all words."""
    batch = experience(PROB, ADV)
    top_p, mass = 0.9, torch.tensor([[0.9, 0.93, 0.97, 1.0]]).log()
    full = torch.zeros_like(batch.rollout_log_probs)
    full[:, PROMPT - 1 :] = batch.rollout_log_probs[:, PROMPT - 1 :] + mass
    batch.action_log_probs = full
    assert logprob_gaps(batch).max().item() == pytest.approx(-math.log(0.9), rel=1e-5)
    assert logprob_gaps(batch, top_p).max().item() < 1e-6
    batch.action_log_probs = full - torch.tensor([[0.0], [0.3]])  # what is left is a mismatch, in both directions
    assert logprob_gaps(batch, top_p)[4:].min().item() == pytest.approx(0.3 + math.log(0.9), rel=1e-5)
    batch.action_log_probs = full + torch.tensor([[0.3], [0.3]])
    assert logprob_gaps(batch, top_p).max().item() == pytest.approx(0.3, rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_log_probs_behind_a_context_come_back_in_the_order_in_which_they_were_asked(ranks):
    """A policy whose log-prob of a token is its number plus a hundredth of how many stand before it; two ranks, padded batches."""
    kept: list[str] = []

    def dispatch(group, together, sequences, action_mask, attention_mask):
        assert len(sequences) % ranks == 0
        assert all(one.shape[0] <= 2 for one in sequences)
        for ids, actions, here in zip(sequences, action_mask, attention_mask):
            assert actions.shape[1] == ids.shape[1] - 1 and (actions <= here[:, 1:]).all()
        return [ids[:, 1:] + torch.arange(ids.shape[1] - 1) / 100 for ids in sequences]

    maker = object.__new__(SegmentExperienceMaker)
    args = arguments()
    args.rollout, args.ds = (
        SimpleNamespace(micro_batch_size=2),
        SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
    )
    args.actor = SimpleNamespace(num_nodes=1, num_gpus_per_node=ranks)
    args.train = SimpleNamespace(colocate_all=False, colocate_actor_ref=False)
    args.spo = SPO
    maker.args, maker.tokenizer, maker.actor_model_group = args, SimpleNamespace(pad_token_id=0), None
    maker._dispatch_forward, maker._flatten_results = dispatch, lambda passes, copies: passes
    maker.of_passes = kept.append
    rows = [([1] * length, [5, 6, 7][: 1 + length % 3]) for length in (9, 2, 5, 1, 7)]
    found = maker.log_probs_of(rows)
    for (context, tokens), made in zip(rows, found, strict=True):
        assert made == pytest.approx([token + (len(context) - 1 + t) / 100 for t, token in enumerate(tokens)])
    assert kept == ["take_features"] and maker.log_probs_of([]) == []


def test_mean_and_quantiles_are_of_the_whole_batch_whatever_its_parts():
    """Logged as the same number with every sample: any mean over samples gives it back."""
    batches = [experience(PROB, ADV), experience(PROB[:1], ADV[:1])]
    gap_N = torch.arange(1, 201).double()
    log_gaps(batches, gap_N)
    for batch in batches:
        assert batch.info["rollout/logprob_gap_mean"].tolist() == [100.5] * len(batch.sequences)
        assert batch.info["rollout/logprob_gap_p50"].tolist() == [100.0] * len(batch.sequences)
        assert batch.info["rollout/logprob_gap_p99"].tolist() == [198.0] * len(batch.sequences)
    before = dict(batches[0].info)
    log_gaps(batches, torch.empty(0))
    assert batches[0].info == before, "nothing to say of an engine that gave no log-probs"


def loss_of(spo, batch, kl_coef=0.3, normalizer=2.0, **actor):
    loss_fn = SegmentPolicyLoss(arguments(spo, **actor))
    logp = (batch.action_log_probs + 0.1).requires_grad_()
    loss_fn.bind(batch, kl_coef)
    loss, *metrics = loss_fn(
        logp,
        batch.action_log_probs,
        batch.advantages,
        batch.action_mask,
        batch.rollout_log_probs,
        dp_size=1,
        batch_num_tokens=torch.tensor(normalizer),
        global_batch_size=torch.tensor(1.0),
    )
    loss.backward()
    return loss.detach(), logp, metrics


@pytest.mark.parametrize("kl_scope", ["all", "masked"])
def test_loss_is_the_objective_with_one_normaliser(kl_scope):
    spo, batch = replace(SPO, kl_scope=kl_scope), experience(PROB, ADV)
    loss, logp, _ = loss_of(spo, batch)
    mask = trained_tokens(batch, spo)
    ratio = (logp.detach() - batch.action_log_probs).exp()
    objective, _ = clipped_objective(ratio, batch.advantages, Clip())
    kl = k3(logp.detach(), batch.base_action_log_probs)
    covered = batch.action_mask if kl_scope == "all" else mask
    assert loss.item() == pytest.approx((objective[mask].sum() + 0.3 * kl[covered].sum()).item() / 2, rel=1e-5)
    outside = ~covered
    assert (logp.grad[outside] == 0).all() and (logp.grad[mask] != 0).all()


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("actor", [{}, {"loss_agg_mode": "seq-mean-token-mean"}])
def test_an_empty_mask_is_finite(actor, level):
    batch = experience([[0.9] * 4, [0.8] * 4], ADV)
    loss, logp, metrics = loss_of(replace(SPO, kl_scope="masked", ratio_level=level), batch, **actor)
    assert loss.item() == 0 and (logp.grad == 0).all()
    assert all(metric is None or torch.isfinite(metric) for metric in metrics)


def test_windows_count_masked_tokens_and_skip_empty_ones():
    batches = [experience(PROB, ADV), experience(PROB[:1], ADV[:1]), *[experience(PROB[1:], ADV[1:]) for _ in range(2)]]
    windows = LossWindows(SPO)
    strategy = SimpleNamespace()
    seen = list(windows(iter(batches), strategy, 2, None))
    assert [batch is original for (batch, _), original in zip(seen, batches)] == [True, True] and len(seen) == 2
    # 4 masked tokens in the first window, divided by its 2 micro-batches as OpenRLHF does.
    assert {info["batch_num_tokens"].item() for _, info in seen} == {2.0}
    assert windows.skipped == 1


def test_dynamic_batches_count_masked_tokens_and_leave_out_empty_steps(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        mesh = {"dp": SimpleNamespace(get_group=lambda: None)}
        strategy = SimpleNamespace(
            ds_device_mesh=mesh,
            all_reduce=lambda value, op: value,
            args=SimpleNamespace(
                train=SimpleNamespace(batch_size=2, max_tokens_per_gpu=64),
                rollout=SimpleNamespace(batch_size=4, n_samples_per_prompt=1),
                ds=SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
            ),
        )
        buffer = SegmentReplayBuffer(1, 0, True, False, True, spo=SPO)
        for prob, adv in ((PROB, ADV), ([PROB[1], PROB[1]], ADV)):
            batch = experience(prob, adv)
            batch.index = batch.prompts = batch.labels = batch.images = batch.mm_train_inputs = [None, None]
            buffer.append(batch)
        buffer.setup_dynamic_batch(strategy)
    finally:
        torch.distributed.destroy_process_group()
    assert buffer.dynamic_batch_num_tokens == [2.0] and buffer.dynamic_optimizer_step == [1] and buffer.skipped == 1
    assert all(item.action_mask.sum() == RESPONSE for item in buffer.items), "the action masks are as they were"
