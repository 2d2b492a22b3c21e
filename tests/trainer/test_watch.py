"""What the controller makes of numbers that are not finite, and of rewards without an answer."""

import math

import pytest
import torch
from batches import experience

from spo_rlhf.core.finite import Fault
from spo_rlhf.errors import RunStopped
from spo_rlhf.rollout.reward import AT_LEAST, RewardCounts, too_many
from spo_rlhf.trainer.events import Reporter
from spo_rlhf.trainer.faults import faults_in_batch, faults_of_step
from spo_rlhf.trainer.rewards import RewardWatch
from spo_rlhf.trainer.watch import FaultWatch

NAN = Fault("reward", math.nan, context_ids=(1, 2), token_ids=(3,))


class Heard(Reporter):
    """Keeps what is sent."""

    def __init__(self):
        super().__init__()
        self.events = []

    def send(self, event, **values):
        self.events.append({"event": event, **values})


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def watch(heard):
    return FaultWatch(heard, decode=lambda ids: " ".join(map(str, ids)), steps_of_batch=4)


def test_a_skipped_batch_skips_all_its_optimizer_steps_and_counts_once_in_a_row(watch, heard):
    metrics = [watch.skip_batch(step, [NAN]) for step in (1, 2)]
    assert all(one["skipped_steps"] == one["nonfinite_steps"] == 4 and one["optimizer_steps"] == 0 for one in metrics)
    watch.stop_if_hopeless(2)
    watch.skip_batch(3, [NAN])
    with pytest.raises(RunStopped, match="^step 3: 3 steps in a row were skipped.*reward") as stopped:
        watch.stop_if_hopeless(3)
    assert "\n" not in str(stopped.value)
    assert [event["step"] for event in heard.events] == [1, 2, 3]
    [fault] = heard.events[0]["faults"]
    assert (fault["context"], fault["response"], fault["token_ids"]) == ("1 2", "3", [3])


def test_a_step_that_was_made_breaks_the_row_of_its_own_model_alone(watch, heard):
    watch.skip_batch(1, [NAN])
    watch.take("policy", 2, [([True, False], [NAN]), ([True, False], [])])
    watch.take("critic", 2, [([False, False], [])])
    watch.take("policy", 3, [([True], [])])
    watch.take("policy", 4, [([False, False], [])])
    watch.stop_if_hopeless(4)
    watch.take("critic", 4, [([False], [])])
    with pytest.raises(RunStopped):
        watch.stop_if_hopeless(4)
    assert [event["step"] for event in heard.events] == [1, 2, 2, 4, 4], "nothing is told of a step without a fault"


def test_too_many_samples_are_not_told(watch, heard):
    watch.skip_batch(1, [NAN] * 100)
    assert len(heard.events[0]["faults"]) == 4


@pytest.mark.parametrize(
    ("counts", "share", "stops"),
    [
        (RewardCounts(1000, 50, 0), 0.05, False),
        (RewardCounts(1000, 50, 1), 0.05, True),
        (RewardCounts(1000, 0, 51), 0.05, True),
        (RewardCounts(4, 3, 0), 0.05, False),
        (RewardCounts(4, 3, 1), 0.05, True),
        (RewardCounts(10**6, 1, 0), 0.0, True),
        (RewardCounts(10**6, 0, 0), 0.0, False),
        (RewardCounts(64, 64, 0), 1.0, False),
    ],
)
def test_a_share_of_rewards_without_an_answer_is_allowed(counts, share, stops):
    assert AT_LEAST == 64 and too_many(counts, share) == stops


class Engines:
    """Stands where the engines are asked for their counts: each process under its name."""

    def __init__(self):
        self.counts = {}

    def ask(self, method):
        assert method == "reward_counts"
        return list(self.counts.items())


def test_rewards_are_those_of_all_engines_since_the_step_before(heard):
    engines = Engines()
    watch = RewardWatch(engines, 0.05, heard)
    engines.counts = {"one": RewardCounts(60, 1, 0), "two": RewardCounts(40, 0, 2)}
    watch.check()
    expected = {"rollout/rewards": 100, "rollout/reward_timeouts": 1, "rollout/reward_crashes": 2}
    assert watch.take() == expected and watch.take() == dict.fromkeys(expected, 0)
    engines.counts = {"one": RewardCounts(10_000, 1, 0)}  # the other has died, and starts again at 0
    assert watch.take() == {**dict.fromkeys(expected, 0), "rollout/rewards": 9_940}
    engines.counts = {"one": RewardCounts(10_030, 5, 0), "two again": RewardCounts(10, 0, 0)}
    with pytest.raises(RunStopped, match="^4 of 40 rewards in this step took longer") as stopped:
        watch.check()
    assert "--spo.max_reward_failures 0.05" in str(stopped.value) and "\n" not in str(stopped.value)
    rest = {"rollout/rewards": 40, "rollout/reward_timeouts": 4, "rollout/reward_crashes": 0}
    assert heard.events == [{"event": "rewards", "metrics": rest}], "of these no step will tell the record"


def test_rewards_that_no_step_has_told_of_go_on_with_the_checkpoint(heard):
    engines, others = Engines(), Engines()
    watch, resumed = RewardWatch(engines, 0.5, heard), RewardWatch(others, 0.5, heard)
    engines.counts = {"one": RewardCounts(60, 1, 0)}
    watch.take()
    engines.counts = {"one": RewardCounts(68, 1, 2)}  # an evaluation behind the step
    watch.check()
    resumed.go_on_from(watch.untold())
    engines.counts, others.counts = {"one": RewardCounts(78, 1, 2)}, {"new": RewardCounts(10, 0, 0)}
    assert (
        resumed.take()
        == watch.take()
        == {
            "rollout/rewards": 18,
            "rollout/reward_timeouts": 0,
            "rollout/reward_crashes": 2,
        }
    )


@pytest.mark.parametrize(
    "name", ["advantages", "action_log_probs", "base_action_log_probs", "rollout_log_probs", "values"]
)
def test_the_sample_of_a_bad_token_is_found(name):
    batch = experience([[0.5] * 4, [0.5] * 4, [0.5] * 4], [[1.0] * 4] * 3)
    setattr(batch, name, torch.full_like(batch.advantages, 0.25))
    batch.sequences = torch.arange(batch.sequences.numel()).view_as(batch.sequences)
    assert faults_in_batch(batch) == []
    getattr(batch, name)[1, 4] = math.inf
    [fault] = faults_in_batch(batch)
    columns = batch.action_mask[1].nonzero().flatten()
    assert fault.position == 4 - int(columns[0]) > 0 and fault.value == math.inf
    assert fault.around[fault.number][fault.position - fault.start] == math.inf
    assert [*fault.context_ids, *fault.token_ids] == batch.sequences[1, : int(columns[-1]) + 2].tolist()


def test_numbers_outside_the_actions_do_not_matter():
    batch = experience([[0.5] * 4], [[1.0] * 4])
    batch.action_mask[0, -1] = False
    batch.advantages[0, -1] = math.nan
    assert faults_in_batch(batch) == []


def test_a_reward_belongs_to_the_whole_sample():
    batch = experience([[0.5] * 4, [0.5] * 4], [[1.0] * 4] * 2)
    batch.rewards = torch.tensor([1.0, math.nan])
    [fault] = faults_in_batch(batch)
    assert fault.number == "reward" and fault.position is None


def test_of_a_loss_without_a_bad_token_the_first_rows_are_told():
    batch = experience([[0.5] * 4] * 6, [[1.0] * 4] * 6)
    told = faults_of_step("gradient norm", batch, None)
    assert [fault.number for fault in told] == ["gradient norm"] * 4 and told[0].around["advantage"]
    log_probs = torch.zeros_like(batch.advantages)
    log_probs[5, 3] = math.nan
    [fault] = faults_of_step("loss", batch, log_probs)
    assert fault.number == "log-prob", "the number that made it so"


def test_batches_that_were_skipped_far_apart_are_no_row(watch):
    """The policy is frozen: only the critic's optimizer steps come between."""
    for step in range(1, 20):
        if step % 5 == 0:
            watch.skip_batch(step, [NAN])
        else:
            watch.take("critic", step, [([True], [])])
        watch.stop_if_hopeless(step)


def test_skipped_batches_and_skipped_steps_are_one_row(watch):
    watch.take("policy", 1, [([True], [])])
    watch.skip_batch(2, [NAN])
    watch.take("policy", 3, [([False], [NAN])])
    watch.skip_batch(4, [NAN])
    with pytest.raises(RunStopped):
        watch.stop_if_hopeless(4)
