"""Rollouts on the controller: logs of a batch, dynamic filtering, steps that can be planned."""

import pytest
import torch
from batches import experience

from spo_rlhf.core.finite import Fault
from spo_rlhf.rollout.records import Rollout, RolloutCounts, Sample
from spo_rlhf.trainer.loop import planned_steps
from spo_rlhf.trainer.samples import RolloutBatch, is_informative, with_equal_logs


def test_logs_that_some_samples_lack_count_as_zero():
    graded, truncated = experience([[0.5] * 4], [[1.0] * 4]), experience([[0.5] * 4], [[1.0] * 4])
    graded.info, truncated.info = {"exact": torch.tensor([1.0])}, {}
    assert [one.info["exact"].item() for one in with_equal_logs([graded, truncated])] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("scores", "informative"),
    [([1.0, 1.0], False), ([0.0, 0.0], False), ([1.0, 0.0], True), ([None, None], True), ([1.0, None], True)],
)
def test_dynamic_filtering_keeps_prompts_that_are_neither_solved_nor_hopeless(scores, informative):
    samples = [Sample([1], [(0, 1)], None, truncated=False, reward=None, score=score) for score in scores]
    assert is_informative(Rollout("", "", 0, 0, RolloutCounts(), samples), (0.0, 1.0)) == informative


def test_dynamic_filtering_keeps_what_is_not_finite_for_somebody_to_see():
    samples = [Sample([1], [(0, 1)], None, truncated=False, reward=0.0, score=0.0)]
    rollout = Rollout("", "", 0, 0, RolloutCounts(), samples, faults=[Fault("reward", float("nan"))])
    assert is_informative(rollout, (0.0, 1.0)) and RolloutBatch([rollout]).faults == rollout.faults


@pytest.mark.parametrize(
    ("prompts", "episodes", "steps"),
    [(64, 1, 1), (128, 3, 6), (7473, 9, 9 * 117), (65, 1, 1), (80, 2, 4), (10, 2, 0)],
)
def test_an_episode_ends_with_what_is_left_if_that_fills_a_step(prompts, episodes, steps):
    """64 prompts x 8 responses an iteration, 64 or 128 samples a step."""
    assert planned_steps(prompts, episodes, 64, fills_step=lambda rest: rest * 8 >= 128) == steps
