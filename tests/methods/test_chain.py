"""Continuations that join the batch: whole optimizer steps, a draw that does not depend on order, metrics of responses alone."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from spo_rlhf.config import SpoConfig
from spo_rlhf.core.advantages import Normalizer, Unchanged, Whiten
from spo_rlhf.core.partition import PARTITIONS, Partition
from spo_rlhf.errors import UserError
from spo_rlhf.methods.base import TrainerServices
from spo_rlhf.methods.chain import Chain, join, segment_logs
from spo_rlhf.rollout.records import Rollout, RolloutCounts, Sample


def sample(token: int, reward: float, segments: int = 1, advantage: float = 1.0) -> Sample:
    """Four actions behind a prompt of two tokens, the last one `token`."""
    return Sample(
        token_ids=[7, 7, 1, 2, 3, token],
        action_ranges=[(2, 6)],
        logprobs=[0.0] * 2 + [-0.5] * 4,
        truncated=False,
        reward=reward,
        logs=segment_logs(segments, reward),
        boundaries=[0, 4],
        adv_T=[advantage] * 4,
    )


RESPONSES = [sample(token, reward, segments=3) for token, reward in ((10, 1.0), (11, 0.0), (12, 0.0), (13, 0.0))]
CONTINUATIONS = [sample(token, 1.0) for token in range(20, 31)]


def joined(responses, continuations, **options) -> tuple[list[Sample], dict[str, float]]:
    kept, drawn, metrics = join(responses, continuations, **options)
    return [responses[row] for row in kept] + [continuations[row] for row in drawn], metrics


def last_tokens(samples) -> list[int]:
    return [one.token_ids[-1] for one in samples]


@pytest.mark.parametrize(("batch_size", "drawn"), [(4, 8), (2, 10), (1, 11), (16, 0)])
def test_the_batch_is_all_responses_and_whole_optimizer_steps(batch_size, drawn):
    batch, metrics = joined(RESPONSES, CONTINUATIONS, batch_size=batch_size, seed=(1, 0))
    assert batch[:4] == RESPONSES and len(set(last_tokens(batch))) == len(batch) == 4 + drawn
    assert metrics["continuations/with_advantage"] == 11 and metrics["continuations/trained"] == drawn


IDLE = [sample(token, 0.0, advantage=0.0) for token in range(40, 44)]


@pytest.mark.parametrize(
    ("continuations", "trained", "left_out"),
    [(0, 0, 0), (1, 1, 1), (3, 3, 3), (4, 4, 4), (6, 4, 4), (7, 4, 4), (8, 8, 0), (11, 11, 3), (13, 12, 4)],
)
def test_continuations_take_the_place_of_responses_without_a_gradient(continuations, trained, left_out):
    """8 responses, 4 of them without an advantage, in steps of 8."""
    more = [sample(token, 1.0) for token in range(50, 50 + continuations)]
    batch, metrics = joined([*RESPONSES, *IDLE], more, batch_size=8, seed=(1, 0))
    assert len(batch) % 8 == 0 and batch[:4] == RESPONSES
    assert len(set(last_tokens(batch))) == len(batch) == 8 + trained - left_out
    assert metrics["continuations/trained"] == trained and metrics["continuations/left_out_responses"] == left_out
    kept, metrics = joined([*RESPONSES, *IDLE], more, batch_size=8, seed=(1, 0), keep_responses=True)
    assert kept[:8] == [*RESPONSES, *IDLE] and len(kept) == 8 + continuations // 8 * 8


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    first, _ = joined(RESPONSES, CONTINUATIONS, batch_size=4, seed=(1, 0))
    again, _ = joined(RESPONSES, CONTINUATIONS[::-1], batch_size=4, seed=(1, 0))
    other, _ = joined(RESPONSES, CONTINUATIONS, batch_size=4, seed=(1, 1))
    assert last_tokens(first) == last_tokens(again) != last_tokens(other)


class Experience(SimpleNamespace):
    """As much of OpenRLHF's sample as a supply looks at: its logs."""


def supply(norm: Normalizer, batch_size: int = 4):
    notes = []
    services = TrainerServices(
        args=SimpleNamespace(train=SimpleNamespace(batch_size=batch_size, seed=1), spo=SpoConfig(advantage_norm=norm)),
        to_experience=lambda rollout, one: Experience(sample=one, info={**one.logs, "reward": one.reward}),
        add_log_probs=lambda samples: None,
        from_fields=dict,
        reporter=SimpleNamespace(note=notes.append),
    )
    return Chain(train_continuations=True).supply(services), notes


def rollout(samples, continuations) -> Rollout:
    return Rollout("prompt", "label", 0, 0, RolloutCounts(), samples=samples, continuations=continuations)


def test_metrics_are_those_of_the_responses():
    made, metrics = supply(Unchanged())[0].exchange([rollout(RESPONSES, CONTINUATIONS)], 0)
    assert len(made) == 12 and [one.sample for one in made[:4]] == RESPONSES
    assert metrics["rollout/reward_mean"] == metrics["reward"] == metrics["value_prompt"] == 0.25
    assert metrics["segments"] == 3 and metrics["rollout/response_length_mean"] == 4
    assert metrics["rollout/truncated_rate"] == 0 and metrics["rollout/reward_std"] == 0.5


def test_a_norm_that_moves_zero_leaves_no_response_idle():
    idle = [sample(token, 0.0, advantage=0.0) for token in range(40, 44)]
    kept, _ = supply(Whiten(), batch_size=8)[0].exchange([rollout([*RESPONSES, *idle], CONTINUATIONS[:3])], 0)
    assert [one.sample for one in kept] == [*RESPONSES, *idle]
    some, _ = supply(Unchanged(), batch_size=8)[0].exchange([rollout([*RESPONSES, *idle], CONTINUATIONS[:3])], 0)
    assert len(some) == 8 and sum(one.sample in CONTINUATIONS for one in some) == 3


def test_responses_that_do_not_fill_a_step_are_told_and_left_out():
    filler, notes = supply(Unchanged())
    made, _ = filler.exchange([rollout(RESPONSES[:3], [])], 0)
    assert made == [] and "3 of 3 samples do not fill a --train.batch_size of 4" in notes[0]


def test_without_anything_there_is_nothing_to_train():
    assert join([], [], batch_size=4, seed=(1, 0))[:2] == ([], [])


def test_a_partition_that_cannot_cut_is_refused_before_anything_starts():
    @dataclass(frozen=True, kw_only=True)
    class Broken(Partition):
        def cut(self, prob_T, text_T):
            return [0, len(prob_T) + 1]

    options = {"spo.mode": "chain", "reward.remote_url": "reward.py", "data.max_images_per_prompt": 0}
    PARTITIONS["broken"] = Broken
    try:
        with pytest.raises(UserError, match="--spo.partition broken cannot cut a response of 40 tokens"):
            Chain(partition=Broken()).refuse(options, set())
        Chain().refuse(options, set())
    finally:
        del PARTITIONS["broken"]
