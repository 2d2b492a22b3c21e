"""Samples without a gradient are left out: of the loss, of the log-prob pass and of the micro-batches, and change nothing."""

import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from batches import SPO, arguments, experience
from hypothesis import given, settings
from hypothesis import strategies as st

from spo_rlhf import upstream
from spo_rlhf.core.advantages import Whiten
from spo_rlhf.trainer.actor import LossWindows, SegmentReplayBuffer
from spo_rlhf.trainer.experience import SegmentExperienceMaker
from spo_rlhf.trainer.micro_batches import MicroBatches, dealt, equal_parts, single_rows
from spo_rlhf.trainer.policy_loss import SegmentPolicyLoss
from spo_rlhf.trainer.trained import has_gradient, may_get_gradient, row_means, trained_tokens, wanted_by

LOW, HIGH = [0.1] * 4, [0.9] * 4
UP, FLAT = [1.0] * 4, [0.0] * 4
# Probabilities and advantages of a sample: trained; without an advantage; without a token below the threshold; its only
# advantage outside the mask.
KINDS = [(LOW, UP), (LOW, FLAT), (HIGH, UP), ([0.1, 0.9, 0.9, 0.9], [0.0, 1.0, 1.0, 1.0])]


TWO_ROWS = MicroBatches(SPO, leaves_out=True, size=2, packing_samples=False)


def batch_of(kinds, seed=0) -> upstream.Experience:
    made = experience([KINDS[kind][0] for kind in kinds], [KINDS[kind][1] for kind in kinds], seed)
    for name in ("prompts", "labels", "images", "mm_train_inputs"):
        setattr(made, name, [None] * len(kinds))
    made.info = {"reward": torch.arange(float(len(kinds)))}
    return made


def one_rank():
    return SimpleNamespace(all_reduce=lambda value, op: value)


def options(**changes):
    section = SimpleNamespace
    args = section(
        algo=section(kl=section(init_coef=0.0)),
        actor=section(entropy_coef=None, aux_loss_coef=0.0),
        spo=SPO,
        critic=section(model_name_or_path=None),
        reward=section(model_name_or_path=None, remote_url="reward.py"),
        train=section(enable_ema=False),
    )
    for name, value in changes.items():
        *path, last = name.split("__")
        setattr(functools.reduce(getattr, path, args), last, value)
    return args


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("algo__kl__init_coef", 0.01),
        ("actor__entropy_coef", 0.0),
        ("actor__aux_loss_coef", 0.1),
        ("critic__model_name_or_path", "model"),
        ("train__enable_ema", True),
    ],
)
def test_a_term_that_looks_at_every_sample_keeps_them(option, value):
    assert wanted_by(options()) is None
    assert wanted_by(options(**{option: value})) == f"--{option.replace('__', '.')}"


def test_an_entropy_clip_keeps_them():
    args = options()
    args.spo = replace(SPO, entropy_clip=0.5)
    assert wanted_by(args) == "--spo.entropy_clip"


def test_a_sample_has_a_gradient_where_a_token_under_the_loss_has_an_advantage():
    batch = batch_of([0, 1, 2, 3])
    assert has_gradient(batch, SPO).tolist() == [True, False, False, False]
    assert has_gradient(batch, replace(SPO, prob_mask=False)).tolist() == [True, False, True, True]
    assert [has_gradient(row, SPO).tolist() for row in single_rows([batch])] == [[True], [False], [False], [False]]


def test_a_norm_that_moves_zero_may_give_a_gradient_to_what_has_a_token_under_the_loss():
    rows = [batch_of([kind]) for kind in range(4)]
    assert [may_get_gradient(row, SPO) for row in rows] == [True, False, False, False]
    whitened = replace(SPO, advantage_norm=Whiten())
    assert [may_get_gradient(row, whitened) for row in rows] == [True, True, False, True]


def gradient(batches, normalizer, steps: int) -> torch.Tensor:
    """d loss / d (one parameter that moves every log-prob by its column), summed over micro-batches as DeepSpeed does."""
    parameter = torch.zeros(6, requires_grad=True)
    loss_fn = SegmentPolicyLoss(arguments(SPO))
    loss_fn.kl_options.use_loss = False
    for batch in batches:
        loss_fn.bind(batch, 0.0)
        loss, *_ = loss_fn(
            batch.action_log_probs + parameter * batch.action_mask,
            batch.action_log_probs,
            batch.advantages,
            action_mask=batch.action_mask,
            rollout_log_probs=batch.rollout_log_probs,
            batch_num_tokens=torch.tensor(normalizer / steps),
            global_batch_size=torch.tensor(1.0),
        )
        (loss / steps).backward()
    return parameter.grad


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=1, max_size=4))
def test_the_gradient_is_the_same_without_them(windows):
    batches = [batch_of(kinds, seed) for seed, kinds in enumerate(windows)]
    formed = TWO_ROWS(list(batches), one_rank())
    wanted = sum(kinds.count(0) for kinds in windows)
    if wanted < 2 * len(windows):
        assert sum(len(batch.sequences) for batch in formed) == wanted and len(formed) == -(-wanted // 2)
        assert all(has_gradient(batch, SPO).all() for batch in formed)
    tokens = sum(float(trained_tokens(batch, SPO).sum()) for batch in batches)
    every = gradient(batches, tokens, len(batches)) if tokens else torch.zeros(6)
    kept = gradient(formed, tokens, len(batches)) if formed else torch.zeros(6)
    torch.testing.assert_close(kept, every, rtol=1e-6, atol=1e-8)
    assert bool(every.any()) == (wanted > 0)


def test_every_rank_makes_as_many_micro_batches_as_the_fullest():
    fuller = SimpleNamespace(all_reduce=lambda value, op: max(value, 3.0))
    formed = TWO_ROWS([batch_of([0, 1]), batch_of([1, 2]), batch_of([1, 1])], fuller)
    assert [has_gradient(batch, SPO).tolist() for batch in formed] == [[True], [False], [False]]
    assert [int(batch.action_mask.sum()) for batch in formed] == [4, 0, 0], (
        "fillers have no token, not even for metrics"
    )
    idle = TWO_ROWS([batch_of([1, 1])], fuller)
    assert len(idle) == 3 and not any(batch.action_mask.any() for batch in idle)


def test_a_window_of_nothing_but_idle_samples_is_skipped_and_the_normaliser_counts_them_elsewhere():
    batches = [batch_of([0, 1]), batch_of([1, 1]), batch_of([1, 1]), batch_of([1, 2])]
    windows = LossWindows(SPO, TWO_ROWS)
    seen = []
    for one, info in windows(iter(batches), one_rank(), 2, None):
        seen.append((has_gradient(one, SPO).tolist(), info["batch_num_tokens"].item(), windows.ends_step))
    # Of the first step one row is left; its Z is that of all 16 tokens, over the 2 micro-batches that DeepSpeed divides by.
    assert seen == [([True], 8.0, True)] and windows.skipped == 1


def test_dynamic_batches_leave_them_out(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        strategy = SimpleNamespace(
            ds_device_mesh={"dp": SimpleNamespace(get_group=lambda: None)},
            all_reduce=lambda value, op: value,
            args=SimpleNamespace(
                train=SimpleNamespace(batch_size=4, max_tokens_per_gpu=8),
                rollout=SimpleNamespace(batch_size=8, n_samples_per_prompt=1),
                ds=SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
            ),
        )
        buffer = SegmentReplayBuffer(1, 0, True, False, True, spo=SPO, leaves_out=True)
        for kinds in ([1, 0, 1, 0], [1, 1, 2, 1]):
            buffer.append(batch_of(kinds))
        buffer.setup_dynamic_batch(strategy)
    finally:
        torch.distributed.destroy_process_group()
    assert sorted(sum(buffer.dynamic_indices, [])) == [1, 3], "the rows with a gradient, each once"
    assert set(buffer.dynamic_batch_num_tokens) == {16.0}, "the normaliser counts the others"
    assert sum(buffer.dynamic_optimizer_step) == 1 == buffer.dynamic_optimizer_step[-1] and buffer.skipped == 1
    assert all(item.total_length == 7 and item.action_mask.sum() == 4 for item in buffer.items)


@given(st.lists(st.booleans(), min_size=1, max_size=24), st.sampled_from([1, 2, 3, 4]))
def test_ranks_get_as_many_with_a_gradient(gradient, ranks):
    samples = [SimpleNamespace(number=number) for number in range(len(gradient))]
    order = [one.number for one in dealt(samples, gradient, ranks)]
    assert sorted(order) == list(range(len(gradient)))
    if len(gradient) % ranks == 0:
        share = len(gradient) // ranks
        counts = [sum(gradient[i] for i in order[r * share : (r + 1) * share]) for r in range(ranks)]
        assert max(counts) - min(counts) <= 1


def test_logs_are_means_over_all_rows():
    rows = [batch_of([kind]) for kind in range(4)]
    for number, row in enumerate(rows):
        row.info, row.response_length = {"reward": torch.tensor([float(number)])}, torch.tensor([2.0 * number])
    means = row_means(rows)
    assert means == {"reward": 1.5, "response_length": 3.0, "total_length": 7.0}


def test_parts_are_equal():
    assert equal_parts("abcde", 2) == [["a", "b"], ["c", "d", "e"]] and equal_parts([], 2) == [[], []]


class Maker(SegmentExperienceMaker):
    """Without models: which samples get a log-prob pass is what counts here."""

    def __init__(self, args):
        self.args, self.seen, self.leaves_out = args, [], wanted_by(args) is None
        self.tokenizer = SimpleNamespace(pad_token_id=0)

    def make_experience(self, samples_list):
        for batch in samples_list:
            self.seen += batch.rewards.tolist()
            batch.action_log_probs, batch.base_action_log_probs = (
                batch.rollout_log_probs - 0.25 * batch.action_mask,
                None,
            )
            batch.kl = torch.zeros_like(batch.action_log_probs)
            batch.info |= {name: torch.ones(len(batch.sequences)) for name in ("kl", "logprobs_diff")}
        return samples_list


def maker_and_samples(**changes):
    args = options()
    args.spo = replace(SPO, **changes)
    args.train.dynamic_batch_enable, args.rollout = False, SimpleNamespace(micro_batch_size=2, top_p=1.0)
    args.actor.num_nodes = args.actor.num_gpus_per_node = 1
    args.ds = SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1)
    samples = []
    for number, kind in enumerate([1, 0, 2, 0, 0, 1]):
        sample = batch_of([kind])
        sample.action_log_probs = sample.base_action_log_probs = None
        sample.rewards, sample.info = torch.tensor([float(number)]), {"reward": torch.tensor([float(number)])}
        samples.append(sample)
    return Maker(args), samples


def test_without_a_pass_the_ratio_is_measured_from_the_engine():
    maker, samples = maker_and_samples(old_logprobs="engine")
    batches = maker.make_experience_batch(samples)
    assert maker.seen == [] and not any("logprob_gap" in name for batch in batches for name in batch.info)
    assert [batch.rewards.tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5]]
    assert all(torch.equal(batch.action_log_probs, batch.rollout_log_probs) for batch in batches)


def test_the_log_prob_pass_is_of_the_samples_with_a_gradient():
    maker, samples = maker_and_samples()
    batches = maker.make_experience_batch(samples)
    assert maker.seen == [1.0, 3.0, 4.0] and [batch.rewards.tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5]]
    assert maker.batch_metrics["samples_without_gradient"] == 3 and maker.batch_metrics["reward"] == 2.5
    assert maker.logprob_gap_max == pytest.approx(0.25)
    assert batches[0].advantages[1, 2:].tolist() == UP and batches[0].returns is not None
    idle = [sample for sample in samples if sample.rewards.item() in (0, 2, 5)]
    assert all(torch.equal(sample.action_log_probs, sample.rollout_log_probs) for sample in idle)
