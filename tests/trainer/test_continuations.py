"""Continuations that join the batch: whole optimizer steps, a draw that does not depend on order, metrics of responses alone."""

import pytest
import torch
from batches import experience

from spo_rlhf.trainer.continuations import join
from spo_rlhf.trainer.samples import segment_logs, with_equal_logs


def sample(token: int, reward: float, length: int = 4, segments: int = 1, advantage: float = 1.0):
    made = experience([[0.5] * 4], [[1.0] * 4])
    made.advantages = torch.full((1, 4), advantage)
    made.sequences[0, -1], made.rewards = token, torch.tensor([reward])
    made.response_length, made.truncated = torch.tensor([length]), torch.tensor([False])
    made.info = {**segment_logs(segments, reward), "reward": torch.tensor([reward])}
    return made


RESPONSES = [sample(token, reward, segments=3) for token, reward in ((10, 1.0), (11, 0.0), (12, 0.0), (13, 0.0))]
CONTINUATIONS = [sample(token, 1.0) for token in range(20, 31)]


def last_tokens(samples) -> list[int]:
    return [int(one.sequences[0, -1]) for one in samples]


@pytest.mark.parametrize(("batch_size", "drawn"), [(4, 8), (2, 10), (1, 11), (16, 0)])
def test_the_batch_is_all_responses_and_whole_optimizer_steps(batch_size, drawn):
    joined, metrics = join(RESPONSES, CONTINUATIONS, batch_size=batch_size, seed=(1, 0))
    assert joined[:4] == RESPONSES and len(set(last_tokens(joined))) == len(joined) == 4 + drawn
    assert metrics["continuations/with_advantage"] == 11 and metrics["continuations/trained"] == drawn


IDLE = [sample(token, 0.0, advantage=0.0) for token in range(40, 44)]


@pytest.mark.parametrize(
    ("continuations", "trained", "left_out"),
    [(0, 0, 0), (1, 1, 1), (3, 3, 3), (4, 4, 4), (6, 4, 4), (7, 4, 4), (8, 8, 0), (11, 11, 3), (13, 12, 4)],
)
def test_continuations_take_the_place_of_responses_without_a_gradient(continuations, trained, left_out):
    """8 responses, 4 of them without an advantage, in steps of 8."""
    more = [sample(token, 1.0) for token in range(50, 50 + continuations)]
    joined, metrics = join([*RESPONSES, *IDLE], more, batch_size=8, seed=(1, 0))
    assert len(joined) % 8 == 0 and joined[:4] == RESPONSES
    assert len(set(last_tokens(joined))) == len(joined) == 8 + trained - left_out
    assert metrics["continuations/trained"] == trained and metrics["continuations/left_out_responses"] == left_out
    kept, metrics = join([*RESPONSES, *IDLE], more, batch_size=8, seed=(1, 0), keep_responses=True)
    assert kept[:8] == [*RESPONSES, *IDLE] and len(kept) == 8 + continuations // 8 * 8


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    first, _ = join(RESPONSES, CONTINUATIONS, batch_size=4, seed=(1, 0))
    again, _ = join(RESPONSES, CONTINUATIONS[::-1], batch_size=4, seed=(1, 0))
    other, _ = join(RESPONSES, CONTINUATIONS, batch_size=4, seed=(1, 1))
    assert last_tokens(first) == last_tokens(again) != last_tokens(other)


def test_metrics_are_those_of_the_responses():
    _, metrics = join(RESPONSES, CONTINUATIONS, batch_size=4, seed=(1, 0))
    assert metrics["rollout/reward_mean"] == metrics["reward"] == metrics["value_prompt"] == 0.25
    assert metrics["segments"] == 3 and metrics["rollout/response_length_mean"] == 4


def test_without_anything_there_is_nothing_to_train():
    assert join([], [], batch_size=4, seed=(1, 0))[0] == []


def test_logs_that_some_samples_lack_count_as_zero():
    graded, truncated = sample(1, 1.0), sample(2, 0.0)
    graded.info["exact"] = torch.tensor([1.0])
    assert [one.info["exact"].item() for one in with_equal_logs([graded, truncated])] == [1.0, 0.0]
