"""Parts of the training loop that need no engine: the best score over resumes, samples for the loggers."""

import math
from types import SimpleNamespace

import pytest
import torch
from openrlhf.utils.logging_utils import TensorboardLogger, WandbLogger
from test_watch import Heard
from torch.utils.data import DataLoader

from spo_rlhf import upstream
from spo_rlhf.core.finite import Fault
from spo_rlhf.errors import Preempted, RunStopped
from spo_rlhf.host.files import write_json
from spo_rlhf.rollout.records import RolloutCounts
from spo_rlhf.trainer import checkpoints, loop
from spo_rlhf.trainer.ahead import Ahead
from spo_rlhf.trainer.checkpoints import NotSaved
from spo_rlhf.trainer.loop import SegmentTrainer
from spo_rlhf.trainer.saving import Progress, Saver
from spo_rlhf.trainer.stopping import StopAsked
from spo_rlhf.trainer.watch import FaultWatch, NonFinite

KEY = "eval_default_pass1"


class Saved:
    """Stands where checkpoints are written; keeps their steps and whether they were the best."""

    def __init__(self):
        self.saved = []

    def save(self, state, *, best=False, metric=None):
        self.saved.append((state["progress"]["step"], best, metric))


def trainer(asked: str = "") -> SegmentTrainer:
    """A controller as far as checkpoints and loggers go."""
    one = SegmentTrainer.__new__(SegmentTrainer)
    one.reporter, one.saver, one.at = Heard(), Saved(), Progress()
    one.wandb_logger = one.tensorboard_logger = one.critic_model_group = None
    one.samples_generator = SimpleNamespace(place=dict, has_only_spare=False)
    one.seconds = {}
    one.kl_ctl, one.counts = SimpleNamespace(value=0.0), RolloutCounts()
    one.engines = one.rewards = SimpleNamespace(untold=dict)
    one.faults = FaultWatch(one.reporter, decode=lambda ids: "text", steps_of_batch=2)
    one.experience_maker = SimpleNamespace(batch=[], batch_metrics={}, logprob_gap_max=0.0)
    one.best_eval_metric_value, one.best_eval_metric_key, one._latest_eval_metric_value = -math.inf, asked, None
    one.args = SimpleNamespace(
        ckpt=SimpleNamespace(save_steps=math.inf),
        logger=SimpleNamespace(logging_steps=1),
        algo=SimpleNamespace(dynamic_filtering_enable=False),
    )
    return one


def test_the_last_checkpoint_is_named_where_it_is_there_and_written_again_where_it_was_removed(tmp_path, monkeypatch):
    saver = Saver.__new__(Saver)
    saver.last = 3, tmp_path / "global_step3"
    monkeypatch.setattr(saver, "save", lambda state: tmp_path / "written")
    assert saver.leave({"progress": {"iteration": 0}}) is None
    assert saver.leave({"progress": {"iteration": 3}}) == saver.leave({"progress": {"iteration": 4}})
    write_json(saver.last[1] / checkpoints.MANIFEST, {})
    assert saver.leave({"progress": {"iteration": 3}}) == saver.last[1]
    assert saver.leave({"progress": {"iteration": 4}}) == tmp_path / "written"


def evaluated(one: SegmentTrainer, step: int, **metrics: float) -> list:
    """What is saved where `step` is evaluated so."""
    one.evaluate_held_out = lambda step: metrics
    one.at.step, one.saver.saved = step, []
    one.evaluate_and_save()
    assert one.at.evaluated == step
    return one.saver.saved


def test_a_worse_model_does_not_take_the_place_of_the_best_after_a_resume():
    first = trainer()
    assert evaluated(first, 0, **{KEY: 0.1}) == [], "before training"
    assert evaluated(first, 2, **{KEY: 0.5}) == [(2, True, 0.5)]
    resumed = trainer()
    resumed.restore_best_checkpoint_state(first.state())
    assert evaluated(resumed, 4, **{KEY: 0.4}) == []
    assert evaluated(resumed, 5, **{KEY: 0.6}) == [(5, True, 0.6)]


def test_a_metric_that_the_command_names_anew_is_compared_with_its_own_values_alone():
    resumed = trainer(asked="eval_other_pass1")
    resumed.restore_best_checkpoint_state({"best_eval_metric_key": KEY, "best_eval_metric_value": 0.9})
    assert evaluated(resumed, 5, eval_other_pass1=0.2, **{KEY: 0.1}) == [(5, True, 0.2)]
    assert "eval_other_pass1" in resumed.reporter.events[0]["text"]


def test_an_evaluation_that_is_no_number_is_not_the_best():
    assert evaluated(trainer(), 1, **{KEY: math.nan}) == []


class Written:
    """Keeps what a logger writes, in place of wandb and of TensorBoard's writer."""

    def __init__(self):
        self.said = []

    def __getattr__(self, name):
        return lambda *args: self.said.append((name, *args))

    class Table:
        def __init__(self, columns, data=()):
            self.columns, self.data = columns, list(data)

        def add_data(self, *row):
            self.data.append(row)


@pytest.fixture
def completed():
    """The metrics of a step, as they come out of the loop."""
    one = trainer()
    one.counts, one.at.tokens = RolloutCounts(responses=2, response_tokens=20), 20
    one.engines = SimpleNamespace(take_counts=lambda: {"rollout/requests": 8})
    one.rewards = SimpleNamespace(take=lambda: {"rollout/rewards": 2})
    status = {"policy_loss": 0.5, "kl": math.nan, "timing/make_experience": 1.0, "generated_samples": ["1+1? 2", 1.0]}
    return one, one.complete(status, {"timing/generation": 1.0}, None)


def test_openrlhfs_loggers_get_its_generated_samples(completed):
    one, status = completed
    board, wandb = (cls.__new__(cls) for cls in (TensorboardLogger, WandbLogger))
    board.writer, wandb.handle = Written(), Written()
    wandb.samples_table = Written.Table(["global_step", "text", "reward"])
    one.wandb_logger, one.tensorboard_logger = wandb, board
    one.save_logs_and_checkpoints(3, status, {})
    [text] = [said for said in board.writer.said if said[0] == "add_text"]
    assert text[1] == "train/generated_samples" and "1+1? 2" in text[2] and "1.0000" in text[2] and text[3] == 3
    assert wandb.samples_table.data == [(3, "1+1? 2", 1.0)]
    names = {said[1] for said in board.writer.said if said[0] == "add_scalar"}
    assert "train/policy_loss" in names and "train/kl" not in names, "what is not finite is left out"


def test_the_record_gets_numbers_alone(completed):
    one, status = completed
    one.report_step(3, status)
    metrics = one.reporter.events[-1]["metrics"]
    assert "generated_samples" not in metrics and metrics["rollout/rewards"] == 2
    assert all(math.isfinite(value) for value in metrics.values()) and torch.is_tensor(metrics["policy_loss"]) is False


def stepping(monkeypatch, reports) -> SegmentTrainer:
    """A controller whose policy reports this of its optimizer steps; OpenRLHF's own part of a step is left out."""
    monkeypatch.setattr("ray.get", lambda refs: refs)
    one = trainer()
    one.faults = FaultWatch(one.reporter, decode=lambda ids: "text", steps_of_batch=2)
    one.actor_model_group = SimpleNamespace(async_run_method=lambda method_name: reports)
    one.ahead = Ahead(1)
    status = {"optimizer_steps": 1, "kl": math.nan, "ppo_kl": 0.5}
    monkeypatch.setattr(upstream.PPOTrainer, "ppo_train", lambda self, step: dict(status))
    monkeypatch.setattr(upstream.PPOTrainer, "train_step", lambda self, samples, step: (self.ppo_train(step), step + 1))
    return one


def test_a_batch_with_a_fault_reaches_no_model(monkeypatch):
    one = stepping(monkeypatch, reports=None)
    status, step = one.train_step([], 4, [Fault("reward", math.nan)])
    assert step == 5 and status["nonfinite_steps"] == 2 and one.reporter.events[0]["step"] == 5
    fault = NonFinite([Fault("advantage", math.inf)])
    monkeypatch.setattr(upstream.PPOTrainer, "train_step", lambda self, samples, step: (_ for _ in ()).throw(fault))
    assert one.train_step(["sample"], 5)[0]["optimizer_steps"] == 0, "found in the experience made of the samples"
    assert one.reporter.events[1]["faults"][0]["number"] == "advantage"


def test_what_the_ranks_left_out_is_told_with_the_step(monkeypatch):
    seen = [Fault("log-prob", math.nan)]
    one = stepping(monkeypatch, reports=[([True, False], []), ([True, False], seen)])
    status, step = one.train_step(["sample"], 6)
    assert step == 7 and status == {"optimizer_steps": 1, "ppo_kl": 0.5}, "what is not finite reaches no KL controller"
    assert one.ahead.updates == 1
    assert [(event["step"], event["faults"][0]["number"]) for event in one.reporter.events] == [(7, "log-prob")]
    one.faults.stop_if_hopeless(7)
    for step in (7, 8):
        one.train_step([], step, seen)
    with pytest.raises(RunStopped):
        one.faults.stop_if_hopeless(9)


def test_iterations_that_left_nothing_to_train_tell_what_they_sampled():
    one = trainer()
    one.counts, one.at.tokens = RolloutCounts(responses=8, response_tokens=50, mc_tokens=14), 164
    one.report_untrained(3, {})
    [event] = one.reporter.events
    assert (event["event"], event["step"]) == ("untrained", 4), "a resume from the checkpoint of step 3 cuts it"
    told = [event["metrics"][f"rollout/{name}"] for name in ("response_tokens", "mc_tokens", "total_tokens")]
    assert told == [50, 14, 164]


def test_the_next_step_tells_the_seconds_of_what_trained_nothing(completed):
    one, _ = completed
    one.report_untrained(3, {"timing/generation": 2.0, "timing/broadcast": 0.5, "rollout/staleness_max": 1.0})
    one.report_untrained(3, {"timing/generation": 4.0})
    one.eval_dataloader, one.catch_up, one.evaluate = DataLoader([0]), lambda: 0.25, lambda step, **options: {}
    one.args.eval, one.generate_kwargs = SimpleNamespace(n_samples_per_prompt=1, temperature=0), {}
    one.evaluate_held_out(3)

    def step():
        status = {"timing/make_experience": 1.0, "timing/ppo_train": 3.0, "timing/broadcast": 0.0}
        told = one.complete(status, {"timing/generation": 1.0, "timing/broadcast": 0.125}, None)
        assert "rollout/staleness_max" not in told
        return [
            told[f"timing/{name}"] for name in ("generation", "make_experience", "ppo_train", "broadcast", "step_total")
        ]

    assert step() == [7.0, 1.0, 3.0, 0.875, 11.875]
    assert step() == [1.0, 1.0, 3.0, 0.125, 5.125], "once"


WHOLE = {"progress": {}}


def stopped_in_an_actor(text: str) -> RunStopped:
    """As Ray raises it: an error of the same type, with an account of many lines."""

    class FromRay(RunStopped):
        cause = RunStopped(text)

    return FromRay(f"ray::Policy.save()\n  File ...\n{text}")


@pytest.mark.parametrize(
    ("error", "whole", "left", "said"),
    [
        (StopAsked("SIGTERM"), WHOLE, "here", "SIGTERM ended the run; the checkpoint is here. --spo.resume auto goes on"),
        (RunStopped("engines die"), WHOLE, "here", "engines die; the checkpoint is here. --spo.resume auto goes on"),
        (RunStopped("engines die"), WHOLE, None, "engines die; there is nothing to go on from yet. --spo.resume auto goes on"),
        (RunStopped("engines die"), WHOLE, OSError("disk"), "engines die; no checkpoint could be written (disk), the last one counts"),
        (stopped_in_an_actor("engines die"), WHOLE, "here", "engines die; the checkpoint is here. --spo.resume auto goes on"),
        (RunStopped("in a step"), None, "here", "in a step"),
        (NotSaved("full"), WHOLE, "here", "full"),
    ],
)  # fmt: skip
def test_a_run_that_ends_before_its_time_leaves_a_checkpoint_of_what_is_done(monkeypatch, error, whole, left, said):
    one = trainer()
    one.engines = SimpleNamespace(start=lambda: None)
    one.whole, one.planned_steps = whole, lambda: 1
    one.args.spo = SimpleNamespace(token_budget=None)
    one.saver.load = lambda: None

    def leave(state):
        if isinstance(left, Exception):
            raise left
        return left

    def train():
        raise error

    one.saver.leave, one.train = leave, train
    monkeypatch.setattr(loop, "wanted_by", lambda args: None)
    with pytest.raises(Preempted if isinstance(error, StopAsked) else RunStopped) as ended:
        one.fit()
    assert str(ended.value) == said


class Engines(SimpleNamespace):
    """Keeps what it is asked; new weights have the version that the policy has."""

    def broadcast(self):
        self.said.append("weights")
        self.version = self.policy


def running_ahead(bound: int, pending: int = 0, partial: bool = False) -> SegmentTrainer:
    """A controller after one update that the engines have not got, with so many requests in flight."""
    one = trainer()
    one.ahead, one.generate_kwargs = Ahead(bound, partial, updates=1), {"top_p": 1.0}
    one.engines = Engines(said=[], version=4, policy=5, pending=pending)
    one.samples_generator.settle = lambda: one.engines.said.append("settled")
    one.samples_generator.send_ahead = lambda iteration, may_send, episodes, **options: one.engines.said.append(
        (iteration, may_send(1), may_send(2), episodes, options)
    )
    one.args.vllm, one.args.train = SimpleNamespace(enable_sleep=False), SimpleNamespace(num_episodes=3)
    return one


@pytest.mark.parametrize(
    ("bound", "pending", "partial", "weights", "may_send"),
    [
        (1, 0, False, True, (True, False)),
        (2, 0, False, True, (True, True)),
        (2, 7, False, False, (True, False)),
        (2, 7, True, True, (True, True)),
    ],
)
def test_weights_come_before_what_is_sampled_by_them_and_not_while_requests_are_in_flight(
    bound, pending, partial, weights, may_send
):
    one = running_ahead(bound, pending, partial)
    assert one.run_ahead(8) >= 0
    assert one.engines.said == ["weights"] * weights + [(8, *may_send, 3, {"top_p": 1.0})]
    assert one.updates == 5 and one.ahead.updates == 1 - weights


def test_where_the_two_alternate_a_step_ends_with_new_weights():
    for bound in (0, 1):
        one = running_ahead(bound)
        one.broadcast_to_vllm()
        assert one.engines.said == ["weights"] * (bound == 0)


def test_an_evaluation_waits_for_what_is_in_flight_and_is_of_the_present_weights():
    one = running_ahead(2, pending=3)
    one.catch_up()
    one.catch_up()
    assert one.engines.said == ["settled", "weights", "settled"], "once"


def test_the_age_of_a_sample_is_in_updates():
    samples = [SimpleNamespace(info={"weight_version": torch.tensor([version])}) for version in (3.0, 5.0)]
    assert loop.staleness(samples, 5) == {"rollout/staleness_mean": 1.0, "rollout/staleness_max": 2.0}
    assert loop.staleness([], 5) == {}
