"""The training loop. Read this file first: an iteration is generate -> advantages -> train -> weight sync -> evaluate."""

import random
import time

import numpy as np
import ray
import torch

from spo_rlhf import upstream
from spo_rlhf.rollout.prompt import RolloutCounts
from spo_rlhf.trainer.events import Reporter
from spo_rlhf.trainer.experience import SegmentExperienceMaker
from spo_rlhf.trainer.samples import SegmentSamplesGenerator
from spo_rlhf.trainer.trees import NodeSupply


class SegmentTrainer(upstream.PPOTrainer):
    """OpenRLHF's controller with segment rollouts. `train_step`, checkpoints and loggers are OpenRLHF's own."""

    def __init__(self, pretrain, strategy, *args, **kwargs):
        # The order of the prompts comes from this process's generators, which OpenRLHF does not seed.
        seed = strategy.args.train.seed
        random.seed(seed), np.random.seed(seed % 2**32), torch.manual_seed(seed)
        self.reporter = Reporter(strategy.args.event_log)
        super().__init__(pretrain, strategy, *args, **kwargs)
        maker = self.experience_maker
        self.experience_maker = SegmentExperienceMaker(
            maker.actor_model_group,
            maker.critic_model_group,
            maker.reward_model_group,
            maker.initial_model_group,
            maker.kl_ctl,
            strategy,
            self.tokenizer,
        )
        self.samples_generator = SegmentSamplesGenerator(
            strategy,
            self.prompts_dataloader,
            self.eval_dataloader,
            self.tokenizer,
            self.vllm_engines,
            reporter=self.reporter,
        )
        self.counts = RolloutCounts()  # since the last step
        self.tokens = 0  # generated for training since the start, Monte Carlo included
        in_trees = self.args.spo.mode == "tree"
        self.nodes = NodeSupply(self.samples_generator, self.experience_maker, self.reporter) if in_trees else None

    def fit(self, global_step: int = 0) -> None:
        """Train for --train.num_episodes passes over the prompts, from the checkpoint if there is one."""
        state = self.init_checkpoint_states()
        self.restore_best_checkpoint_state(state)
        step, consumed = max(global_step, state["global_step"]), state["total_consumed_prompts"]
        iteration = state.get("iteration", step)  # ahead of the step where an iteration had nothing to train
        self.tokens = state.get("generated_tokens", 0)
        if step:
            self.broadcast_to_vllm()
            if self.nodes is not None:
                self.nodes.load(step)
            if state["data_loader_state_dict"]:
                self.prompts_dataloader.load_state_dict(state["data_loader_state_dict"])
        ray.get(
            [engine.get_num_unfinished_requests.remote() for engine in self.vllm_engines]
        )  # they start in the background
        budget = self.args.spo.token_budget
        self.reporter.send(
            "plan", first_step=step, steps=self.planned_steps(), first_tokens=self.tokens, token_budget=budget
        )
        if self.args.spo.eval_ends and step == 0:
            self.evaluate_held_out(step)

        for episode in range(state["episode"], self.args.train.num_episodes):
            exhausted = self.spent()
            while not exhausted:
                samples, pass_rate, prompts, exhausted, extra = self.generate(iteration)
                consumed, iteration, exhausted = consumed + prompts, iteration + 1, exhausted or self.spent()
                if not samples:
                    continue
                self.reporter.stage("train")
                status, step = self.train_step(samples, step)
                self.log_step(step, status, pass_rate, extra)
                progress = {
                    "episode": episode,
                    "global_step": step,
                    "iteration": iteration,
                    "generated_tokens": self.tokens,
                    "total_consumed_prompts": consumed,
                    "data_loader_state_dict": self.prompts_dataloader.state_dict(),
                }
                self.save_logs_and_checkpoints(step, status, progress)
                if step % self.args.eval.steps == 0:
                    self.evaluate_held_out(step, progress)
        if self.args.spo.eval_ends and step % self.args.eval.steps:  # unless it was evaluated just now
            self.evaluate_held_out(step)
        if self.nodes is not None:
            self.nodes.report_end()
        for logger in filter(None, (self.wandb_logger, self.tensorboard_logger)):
            logger.close()

    def spent(self) -> bool:
        """The token budget, where there is one, is used up."""
        budget = self.args.spo.token_budget
        return budget is not None and self.tokens >= budget

    def planned_steps(self) -> int:
        """Iterations of the whole run."""
        prompts = len(self.prompts_dataloader) * self.args.train.num_episodes
        return prompts // self.args.rollout.batch_size

    def generate(self, iteration: int) -> tuple:
        """One batch of samples, and metrics of how it came about."""
        responses = self.args.rollout.batch_size * self.args.rollout.n_samples_per_prompt
        self.reporter.stage("generate", total=responses if self.nodes is None else self.args.rollout.batch_size)
        self.samples_generator.iteration = iteration
        start = time.monotonic()
        samples, *rest = self.samples_generator.generate_samples(**self.generate_kwargs)
        metrics = {"timing/generation": time.monotonic() - start, **self.samples_generator.metrics}
        self.counts.add(self.samples_generator.counts)
        self.tokens += self.samples_generator.counts.generated_tokens
        if self.nodes is not None and samples:
            samples, more = self.nodes.exchange(samples, iteration)
            metrics |= more
        return samples, *rest, metrics

    def log_step(self, step: int, status: dict, pass_rate: float | None, extra: dict) -> None:
        """Complete `status` in place and report it; `extra` is what `generate` measured."""
        status.pop("generated_samples", None)
        # The time of an experience is spent in two places where nodes wait for their turn.
        extra["timing/make_experience"] = extra.get("timing/make_experience", 0.0) + status["timing/make_experience"]
        status.update(extra)
        counts, self.counts = self.counts, RolloutCounts()
        status.update({f"rollout/{name}": count for name, count in vars(counts).items()})
        status["rollout/total_tokens"] = self.tokens
        status["rollout/cache_hit_rate"] = counts.cached_tokens / max(counts.prompt_tokens, 1)
        status["rollout/logprob_gap_max"] = self.experience_maker.logprob_gap_max
        timeouts = ray.get([engine.reward_timeouts.remote() for engine in self.vllm_engines])
        status["rollout/reward_timeouts"] = sum(timeouts)
        status["timing/step_total"] = sum(v for k, v in status.items() if k.startswith("timing/"))
        if self.args.algo.dynamic_filtering_enable:
            status["dynamic_filtering_pass_rate"] = pass_rate
        if status.get("skipped_steps"):
            self.reporter.note(
                f"step {step}: {status['skipped_steps']} optimizer steps skipped, no token passed the mask"
            )
        self.reporter.send("step", step=step, metrics={k: float(v) for k, v in status.items() if v is not None})

    def save_logs_and_checkpoints(self, global_step: int, logs_dict=None, client_states=None) -> None:
        if self.nodes is not None and global_step % self.args.ckpt.save_steps == 0:
            self.nodes.save(global_step)
        super().save_logs_and_checkpoints(global_step, logs_dict, client_states)

    def save_best_checkpoint(self, eval_metrics, global_step, client_states=None) -> None:
        if self.nodes is not None:  # whether it is the best is decided there; a buffer too many is pruned later
            self.nodes.save(global_step)
        super().save_best_checkpoint(eval_metrics, global_step, client_states)

    def evaluate_held_out(self, step: int, progress: dict | None = None) -> None:
        """Accuracy on --eval.dataset, if given; keeps the best checkpoint while training."""
        if not self.eval_dataloader:
            return
        samples = self.args.eval.n_samples_per_prompt
        self.reporter.stage("evaluate", total=len(self.eval_dataloader) * samples)
        self.samples_generator.iteration = step
        start = time.monotonic()
        options = {**self.generate_kwargs, "temperature": self.args.eval.temperature, "n_samples_per_prompt": samples}
        metrics = self.evaluate(step, **options)
        self.reporter.send("eval", step=step, seconds=time.monotonic() - start, metrics=metrics)
        if progress is not None:
            self.save_best_checkpoint(metrics, step, progress)


RemoteSegmentTrainer = ray.remote(SegmentTrainer)
