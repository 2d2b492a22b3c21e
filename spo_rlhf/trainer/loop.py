"""The training loop. Read this file first: an iteration is generate -> advantages -> train -> weight sync -> evaluate.

With --train.async_enable what the next iterations train on is sampled while one trains (trainer/ahead.py): `generate` then fetches
a batch that was sent before, and sends weights and further batches before the training begins.
"""

import random
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray
import torch

from spo_rlhf import upstream
from spo_rlhf.core.finite import Fault, finite_only
from spo_rlhf.errors import Preempted, RunStopped
from spo_rlhf.host.ray_calls import first_line
from spo_rlhf.methods.base import TrainerServices
from spo_rlhf.rollout.ledger import EngineLedger
from spo_rlhf.rollout.records import RolloutCounts
from spo_rlhf.trainer import random_state
from spo_rlhf.trainer.ahead import Ahead
from spo_rlhf.trainer.checkpoints import NotSaved
from spo_rlhf.trainer.diagnosis import RunningDiagnosis
from spo_rlhf.trainer.engine_calls import RayEngineCalls
from spo_rlhf.trainer.engine_pool import EnginePool
from spo_rlhf.trainer.events import Reporter
from spo_rlhf.trainer.experience import SegmentExperienceMaker
from spo_rlhf.trainer.kept import KeptRollouts
from spo_rlhf.trainer.rewards import RewardWatch
from spo_rlhf.trainer.samples import RolloutBatch, SegmentSamplesGenerator, with_equal_logs
from spo_rlhf.trainer.saving import Progress, Saver
from spo_rlhf.trainer.stopping import StopAsked, StopWatch
from spo_rlhf.trainer.trained import wanted_by
from spo_rlhf.trainer.watch import FaultWatch, NonFinite


def planned_steps(prompts: int, episodes: int, batch_size: int, fills_step: Callable[[int], bool]) -> int:
    """Steps of `episodes` passes over `prompts`: an episode ends with what is left of it, if that fills a step."""
    whole, rest = divmod(prompts, batch_size)
    return episodes * (whole + (rest > 0 and fills_step(rest)))


def staleness(samples: Sequence[upstream.Experience], updates: int) -> dict[str, float]:
    """Metrics: the updates between sampling and training, which begins after so many."""
    ages = [updates - float(one.info["weight_version"]) for one in samples]
    return {"rollout/staleness_mean": sum(ages) / len(ages), "rollout/staleness_max": max(ages)} if ages else {}


class SegmentTrainer(upstream.PPOTrainer):
    """OpenRLHF's controller with segment rollouts. `train_step`, checkpoints and loggers are OpenRLHF's own."""

    def __init__(self, pretrain, strategy, *args, **kwargs):
        # The order of the prompts comes from this process's generators, which OpenRLHF does not seed.
        seed = strategy.args.train.seed
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        self.reporter = Reporter(strategy.args.event_log)
        super().__init__(pretrain, strategy, *args, **kwargs)
        # Checkpoints are the Saver's: OpenRLHF's own way of writing them is asked for in no step.
        self.save_steps, self.args.ckpt.save_steps = self.args.ckpt.save_steps, float("inf")
        self.stop = StopWatch(self.reporter)
        # OpenRLHF has built its own maker and generator by now: ours take over what those were given.
        built = self.experience_maker
        self.experience_maker = SegmentExperienceMaker(
            actor_model_group=built.actor_model_group,
            critic_model_group=built.critic_model_group,
            reward_model_group=built.reward_model_group,
            initial_model_group=built.initial_model_group,
            kl_controller=built.kl_ctl,
            strategy=strategy,
            tokenizer=self.tokenizer,
        )
        self.engines = EnginePool(
            RayEngineCalls(self.vllm_engines, self.actor_model_group.async_run_method, self.args.spo.engine_timeout),
            EngineLedger(len(self.vllm_engines), self.args.spo.max_engine_restarts),
            self.reporter,
            self.args.spo.engine_timeout,
        )
        self.ahead = Ahead(self.args.spo.max_staleness, self.args.train.partial_rollout_enable)
        self.rewards = RewardWatch(self.engines, self.args.spo.max_reward_failures, self.reporter)
        rollout, train = self.args.rollout, self.args.train
        self.faults = FaultWatch(
            self.reporter,
            self.tokenizer.decode,
            rollout.batch_size * rollout.n_samples_per_prompt // train.batch_size * train.max_epochs,
        )
        self.samples_generator = SegmentSamplesGenerator(
            strategy=strategy,
            prompts_dataloader=self.prompts_dataloader,
            eval_dataloader=self.eval_dataloader,
            tokenizer=self.tokenizer,
            vllm_engines=self.vllm_engines,
            engines=self.engines,
            reporter=self.reporter,
            check_rewards=self.rewards.check,
            check_stop=self.check_stop,
        )
        self.supply = self.args.spo.method.supply(
            TrainerServices(
                args=self.args,
                to_experience=self.samples_generator.to_experience,
                add_log_probs=self.experience_maker.add_log_probs,
                from_fields=lambda fields: upstream.Experience(**fields),
                reporter=self.reporter,
                log_probs_of=self.experience_maker.log_probs_of,
                encode=lambda text: self.tokenizer.encode(text, add_special_tokens=False),
            )
        )
        self.samples_generator.judge, self.samples_generator.method_of = self.supply.judge, self.supply.method_of
        self.diagnosis = RunningDiagnosis(self.args, self.samples_generator, self.generate_kwargs, self.catch_up)
        self.kept = KeptRollouts(self.args, self.tokenizer, self.reporter)
        self.counts = RolloutCounts()  # since the last step
        self.seconds: dict[str, float] = {}  # since the last step, by timing; of what no step has told
        self.at = Progress()
        groups = [group for group in (self.actor_model_group, self.critic_model_group) if group is not None]
        self.saver = Saver(self.args, groups, self.supply, self.reporter)
        self.whole: dict[str, Any] | None = None  # what to save where the run is asked to end just now

    def fit(self, global_step: int = 0) -> None:
        """Train for --train.num_episodes passes over the prompts, from the checkpoint if there is one.

        Raises Preempted where the run was asked to end, and RunStopped where going on would not help, its checkpoint written.
        """
        self.engines.start()  # in the background they have begun
        self.restore(self.saver.load())
        steps, budget = self.planned_steps(), self.args.spo.token_budget
        self.reporter.send(
            "plan", first_step=self.at.step, steps=steps, first_tokens=self.at.tokens, token_budget=budget
        )
        if reason := wanted_by(self.args):
            self.reporter.note(f"samples without a policy gradient are computed like the others: {reason} wants them")
        try:
            self.train()
        except StopAsked as asked:
            raise Preempted(f"{asked} ended the run; {self.leave_checkpoint()}. --spo.resume auto goes on") from None
        except NotSaved:
            raise  # a checkpoint is what there is no room for
        except RunStopped as stopped:
            if self.whole is None:
                raise
            stopped = getattr(stopped, "cause", None) or stopped  # where an actor raised it
            raise RunStopped(f"{stopped}; {self.leave_checkpoint_if_possible()}") from None
        self.supply.report_end()
        self.report_rest()
        for logger in filter(None, (self.wandb_logger, self.tensorboard_logger)):
            logger.close()

    def train(self) -> None:
        """The loop itself, from `self.at`. Raises StopAsked."""
        at, every = self.at, self.args.eval.steps
        if at.evaluated < at.step and (at.step % every == 0 if at.step else self.args.spo.eval_ends):
            self.evaluate_and_save()
        while at.episode < self.args.train.num_episodes:
            while not (at.exhausted or self.spent()):
                self.whole = self.state()
                self.stop.between_steps()
                if (at.step + 1) % self.save_steps == 0 or (self.eval_dataloader and (at.step + 1) % every == 0):
                    self.saver.make_room(at.step + 1)
                batch, samples, measured = self.generate(at.iteration)
                at.prompts, at.iteration, at.exhausted = at.prompts + batch.prompts, at.iteration + 1, batch.exhausted
                if not samples and not batch.faults:
                    self.report_untrained(at.step, measured)
                    continue
                self.reporter.stage("train")
                self.whole = None  # until the step is done and told
                status, at.step = self.train_step(samples, at.step, batch.faults)
                status = self.complete(status, measured, batch.pass_rate) | self.diagnosis.after(at.step)
                self.report_step(at.step, status)
                self.faults.stop_if_hopeless(at.step)
                sample = self.kept.send(at.step, batch.rollouts, self.experience_maker.batch)
                self.save_logs_and_checkpoints(at.step, {**status, **sample})
                if at.step % every == 0:
                    self.evaluate_and_save()
                if at.step % self.save_steps == 0:
                    self.saver.save(self.state(), metric=self._latest_eval_metric_value)
            at.episode, at.exhausted = at.episode + 1, False
        self.whole = self.state()
        self.samples_generator.leave_out_rest()
        if self.args.spo.eval_ends and at.step % every:  # unless it was evaluated just now
            self.evaluate_held_out(at.step)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of the controller, in numbers, texts and tensors; between two iterations."""
        return {
            "progress": vars(self.at) | {"exhausted": self.at.exhausted or self.samples_generator.has_only_spare},
            **self.samples_generator.place(),
            "kl_coef": float(self.kl_ctl.value),
            "counts": dict(vars(self.counts)),
            "untold": {"requests": self.engines.untold(), "rewards": self.rewards.untold()},
            "skipped_in_a_row": self.faults.state(),
            "best_eval_metric_key": self.best_eval_metric_key,
            "best_eval_metric_value": float(self.best_eval_metric_value),
            "latest_eval_metric_value": self._latest_eval_metric_value,
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from what `state` gave; the engines get the policy's weights."""
        if state is None:
            return
        vars(self.at).update(state["progress"])
        if self.at.step == 0:
            self.at.evaluated = -1  # the record of what came before the first step begins anew
        vars(self.counts).update(state["counts"])
        self.kl_ctl.value = state["kl_coef"]
        self.faults.restore(state["skipped_in_a_row"])
        self.restore_best_checkpoint_state(state)
        self.send_weights()
        if untold := state.get("untold"):  # checkpoints of earlier versions have none
            self.engines.go_on_from(untold["requests"])
            self.rewards.go_on_from(untold["rewards"])
        self.samples_generator.episode = self.at.episode + self.at.exhausted
        self.samples_generator.go_on_from(state["prompts"], state.get("passed", ()))
        random_state.restore(state["random"])  # last: an iterator over the prompts has drawn from it

    def report_rest(self) -> None:
        """Tell the record of the rewards and requests that no step will tell of, as those of an evaluation behind the last."""
        self.rewards.report_rest()
        self.engines.report_rest()

    def leave_checkpoint(self) -> str:
        """Save what there is to go on from, where that is not done; says where it is."""
        left = self.whole and self.saver.leave(self.whole)
        return f"the checkpoint is {left}" if left else "there is nothing to go on from yet"

    def leave_checkpoint_if_possible(self) -> str:
        """The same where something else has ended the run: what goes wrong here is told and does not hide that."""
        try:
            return f"{self.leave_checkpoint()}. --spo.resume auto goes on"
        except Exception as error:
            traceback.print_exc()
            return f"no checkpoint could be written ({first_line(error)}), the last one counts"

    def check_stop(self) -> None:
        """Abandon a step that is still being sampled, or an evaluation, where the run was asked to end."""
        self.stop.within_step()

    def spent(self) -> bool:
        """The token budget, where there is one, is used up."""
        budget = self.args.spo.token_budget
        return budget is not None and self.at.tokens >= budget

    def planned_steps(self) -> int:
        """Steps of the whole run, as far as they can be known beforehand."""
        rollout = self.args.rollout
        return planned_steps(
            len(self.prompts_dataloader),
            self.args.train.num_episodes,
            rollout.batch_size,
            fills_step=lambda prompts: prompts * rollout.n_samples_per_prompt >= self.args.train.batch_size,
        )

    def generate(self, iteration: int) -> tuple[RolloutBatch, list[upstream.Experience], dict[str, float]]:
        """Rollouts of one iteration, the samples to train now, and what was measured on the way."""
        self.reporter.stage("generate", total=self.args.rollout.batch_size)
        start = time.monotonic()
        batch = self.samples_generator.generate(iteration, **self.generate_kwargs)
        measured = {"timing/generation": time.monotonic() - start}
        self.counts.add(batch.counts)
        self.at.tokens += batch.counts.generated_tokens
        if self.ahead.bound and not self.spent():
            measured["timing/broadcast"] = self.run_ahead(iteration)
            assert all(self.updates - one.weight_version <= self.ahead.bound for one in batch.rollouts)
        if not batch.rollouts or batch.faults:
            return batch, [], measured
        try:
            samples, more = self.supply.take(batch.rollouts, iteration)
        except NonFinite as found:  # nothing of the batch is kept for later
            batch.rollouts[0].faults.extend(found.faults)
            return batch, [], measured
        return batch, with_equal_logs(samples), measured | more | staleness(samples, self.updates)

    def run_ahead(self, iteration: int) -> float:
        """Before the policy trains on a batch: new weights where they are due, and the batches to sample meanwhile.

        Returns the seconds that the weights took.
        """
        seconds = self.send_weights() if self.ahead.wants_weights(self.engines.pending) else 0.0
        episodes = self.args.train.num_episodes
        self.samples_generator.send_ahead(iteration, self.ahead.may_send, episodes, **self.generate_kwargs)
        return seconds

    @property
    def updates(self) -> int:
        """Of the policy, since the start."""
        return self.engines.version + self.ahead.updates

    def train_step(
        self, samples: list[upstream.Experience], step: int, faults: Sequence[Fault] = ()
    ) -> tuple[dict, int]:
        """OpenRLHF's step, or a skipped one where `faults`, or the experience made of the samples, is not finite."""
        try:
            if faults:
                raise NonFinite(faults)
            return super().train_step(samples, step)
        except NonFinite as found:
            self.experience_maker.batch, self.experience_maker.batch_metrics = [], {}  # nothing is trained
            return self.faults.skip_batch(step + 1, found.faults), step + 1

    def broadcast_to_vllm(self) -> None:
        """OpenRLHF's step has trained. Where sampling runs ahead the weights wait until nothing is in flight."""
        if not self.ahead.bound:
            self.send_weights()

    def send_weights(self) -> float:
        """The policy's weights to the engines. Without partial rollouts these have no requests. Returns the seconds it took."""
        start = time.monotonic()
        if self.args.vllm.enable_sleep:  # the cache stays asleep, to leave its memory to the broadcast
            self.engines.ask("wake_up", ["weights"])
        self.engines.broadcast()
        self.ahead.sent_weights()
        return time.monotonic() - start

    def catch_up(self) -> float:
        """For what is sampled beside the training: nothing is in flight, and the engines have the present weights.

        Returns the seconds that the weights took.
        """
        self.samples_generator.settle()
        return self.send_weights() if self.ahead.updates else 0.0

    def ppo_train(self, global_steps: int) -> dict:
        """OpenRLHF's optimizer steps; what the guards left out of them is told."""
        status = super().ppo_train(global_steps)
        models = {
            "policy": (self.actor_model_group, "optimizer_steps"),
            "critic": (self.critic_model_group, "critic_lr"),
        }
        for model, (group, sign) in models.items():
            if sign in status:  # it took part
                reports = ray.get(group.async_run_method(method_name="take_report"))
                self.faults.take(model, global_steps + 1, reports)
        if models["policy"][1] in status:
            self.ahead.trained()
        return finite_only(status)

    def complete(self, status: dict, measured: dict[str, float], pass_rate: float | None) -> dict:
        """OpenRLHF's metrics of a step, with what `generate` measured and what the rollouts since the last step cost."""
        # The time of an experience is spent in two places where samples wait for their turn.
        seconds, self.seconds = self.seconds, {}
        measured = measured | {name: measured.get(name, 0.0) + value for name, value in seconds.items()}
        making = measured.get("timing/make_experience", 0.0) + status["timing/make_experience"]
        counts, self.counts = self.counts, RolloutCounts()
        status |= self.experience_maker.batch_metrics | measured | {"timing/make_experience": making}
        status |= {f"rollout/{name}": count for name, count in vars(counts).items()}
        status["rollout/total_tokens"] = self.at.tokens
        status["rollout/cache_hit_rate"] = counts.cached_tokens / max(counts.prompt_tokens, 1)
        status["rollout/logprob_gap_max"] = self.experience_maker.logprob_gap_max
        self.experience_maker.logprob_gap_max = float("nan")  # the next batch may be skipped before it has one
        status |= self.rewards.take() | self.engines.take_counts()
        status["timing/step_total"] = sum(value for name, value in status.items() if name.startswith("timing/"))
        if self.args.algo.dynamic_filtering_enable:
            status["dynamic_filtering_pass_rate"] = pass_rate
        return finite_only(status)

    def report_untrained(self, step: int, measured: dict[str, float]) -> None:
        """Tell what was sampled since `step`, of which no step came so far: the next one tells of it too, or none does.

        `measured` in this iteration: the next step's timings have it.
        """
        self.keep_seconds(measured)
        counts = {f"rollout/{name}": count for name, count in vars(self.counts).items()}
        self.reporter.send("untrained", step=step + 1, metrics=counts | {"rollout/total_tokens": self.at.tokens})

    def keep_seconds(self, measured: dict[str, float]) -> None:
        """The timings of what belongs to no step, for the next one to tell."""
        for name, value in measured.items():
            if name.startswith("timing/"):
                self.seconds[name] = self.seconds.get(name, 0.0) + value

    def report_step(self, step: int, status: dict) -> None:
        """Tell the command line of a step."""
        if without_tokens := status.get("skipped_steps", 0) - status.get("nonfinite_steps", 0):
            self.reporter.note(
                f"step {step}: {without_tokens:.0f} optimizer steps skipped, no token under the loss has an advantage"
            )
        metrics = {
            name: float(value) for name, value in status.items() if value is not None and name != "generated_samples"
        }
        self.reporter.send("step", step=step, metrics=metrics)

    def restore_best_checkpoint_state(self, checkpoint_states) -> None:
        """The best value so far goes on with its checkpoint, unless --ckpt.best_metric_key now names another metric."""
        asked = self.best_eval_metric_key
        super().restore_best_checkpoint_state(checkpoint_states)
        if asked and asked != self.best_eval_metric_key:
            if self.best_eval_metric_key:
                self.reporter.note(
                    f"--ckpt.best_metric_key is {asked}; the best checkpoint so far was chosen by {self.best_eval_metric_key}"
                )
            self.best_eval_metric_key, self.best_eval_metric_value = asked, float("-inf")

    def evaluate_and_save(self) -> None:
        """Evaluate the present step; a checkpoint where, after training, it is the best so far."""
        self.whole = self.state()
        metrics = self.evaluate_held_out(self.at.step)
        self.at.evaluated = self.at.step
        key = self._detect_eval_metric_key(metrics) if metrics and self.at.step else None
        if key not in metrics:
            return
        self._latest_eval_metric_value = value = float(metrics[key])
        if value > self.best_eval_metric_value:
            self.best_eval_metric_value = value
            self.saver.save(self.state(), best=True, metric=value)

    def evaluate_held_out(self, step: int) -> dict[str, float]:
        """Accuracy on --eval.dataset; no metrics where there is none."""
        if not self.eval_dataloader:
            return {}
        if seconds := self.catch_up():
            self.keep_seconds({"timing/broadcast": seconds})
        samples = self.args.eval.n_samples_per_prompt
        self.reporter.stage("evaluate", total=len(self.eval_dataloader))
        self.samples_generator.eval_step = step
        start = time.monotonic()
        options = {**self.generate_kwargs, "temperature": self.args.eval.temperature, "n_samples_per_prompt": samples}
        metrics = self.evaluate(step, **options)
        problems = len(self.eval_dataloader.dataset)
        self.reporter.send("eval", step=step, seconds=time.monotonic() - start, metrics=metrics, problems=problems)
        return metrics


RemoteSegmentTrainer = ray.remote(SegmentTrainer)
