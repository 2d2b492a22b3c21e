"""SPO-chain: a response is cut into segments, each with an advantage from Monte Carlo values at its ends.

With `--spo.train_continuations` the Monte Carlo continuations are trained too. A continuation of a state is on-policy,
has a reward, and has siblings from the same state: its advantage is its reward minus the mean of theirs
(core/advantages.py). What it adds to the expected gradient is that of the value of its state, the state held fixed;
later parts of a response, which more continuations pass through, so weigh more than early ones.
"""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spo_rlhf.core.baselines import BASELINES, Baseline
from spo_rlhf.core.history import PromptHistory
from spo_rlhf.core.options import choice, name_of, option
from spo_rlhf.core.partition import PARTITIONS, Partition
from spo_rlhf.core.seeds import derive_seed
from spo_rlhf.errors import UserError
from spo_rlhf.methods.base import (
    BASELINE_HELP,
    PAPER_GSM8K,
    PAPER_SEGMENTS,
    Experience,
    PromptJob,
    SegmentMethod,
    Supply,
    TrainerServices,
)
from spo_rlhf.rollout import steps
from spo_rlhf.rollout.chain import Continuation, PromptRollout, Response
from spo_rlhf.rollout.estimators import ESTIMATORS, Estimator
from spo_rlhf.rollout.records import Rollout, Sample

TRIAL_WORDS = 20


@dataclass(frozen=True, kw_only=True)
class Chain(SegmentMethod):
    """Segment advantages from Monte Carlo values, no critic.

    https://arxiv.org/abs/2505.23564
    """

    partition: Partition = choice("partition", PARTITIONS, "cutpoint", help="how a response is cut into segments")
    estimator: Estimator = choice(
        "estimator", ESTIMATORS, "monte_carlo", help="which boundaries get a value, and from how many continuations"
    )
    mc_rollouts: int = option(9, at_least=1, metavar="R", help="Monte Carlo continuations per inner boundary")
    baseline: Baseline = choice("baseline", BASELINES, "group", help=BASELINE_HELP)
    step_rewards: str = option(
        "off",
        choices=steps.RULES,
        help="what the values mean that the reward function returns for steps: add: to the advantage of the segment in which "
        "the step ends; replace: the values of the states behind the steps, in place of Monte Carlo (docs/rewards.md)",
    )
    train_continuations: bool = option(
        False,
        help="train on the continuations as well, each against its siblings from the same state; they take the place "
        "of responses without an advantage",
    )

    presets = {
        "paper": {
            **PAPER_GSM8K,
            **PAPER_SEGMENTS,
            "spo.partition": "cutpoint",
            "spo.cutpoint_interval": 5,
            "spo.mc_rollouts": 9,
        }
    }

    def refuse(self, options: Mapping[str, Any], explicit: set[str]) -> None:
        super().refuse(options, explicit)
        self._try_partition()
        if self.step_rewards != "off" and not str(options["reward.remote_url"] or "").endswith(".py"):
            raise UserError(
                f"{steps.FLAG} {self.step_rewards} needs a reward file (--reward.remote_url FILE.py) that returns steps"
            )
        if self.train_continuations and self.mc_rollouts < 2:
            raise UserError(
                "--spo.train_continuations needs --spo.mc_rollouts of at least 2: a continuation alone has no siblings"
            )
        if self.train_continuations and "rollout.vllm_generate_batch_size" in explicit:
            raise UserError(
                "--rollout.vllm_generate_batch_size does not go with --spo.train_continuations; set --rollout.batch_size"
            )

    def _try_partition(self) -> None:
        """A partition of the user's own that cannot cut fails here, not on the engines."""
        prob_T, text_T = [0.5, 0.99] * TRIAL_WORDS, ["word ", "ends.\n"] * TRIAL_WORDS
        try:
            self.partition.boundaries(prob_T, text_T)
        except Exception as error:
            name = name_of(PARTITIONS, self.partition)
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"--spo.partition {name} cannot cut a response of {len(prob_T)} tokens ({what})") from error

    def text_flag(self) -> str | None:
        if self.partition.needs_text:
            return f"--spo.partition {name_of(PARTITIONS, self.partition)}"
        return None if self.step_rewards == "off" else f"{steps.FLAG} {self.step_rewards}"

    async def rollout(self, job: PromptJob) -> Rollout:
        sampler = PromptRollout(
            **job.sampler_options(),
            token_texts=job.token_texts,
            state_values=job.state_values,
            keep_continuations=self.train_continuations,
        )
        responses = await sampler.chain(
            job.request.num_samples,
            self.partition,
            self.mc_rollouts,
            self.estimator,
            job.request.prior,
            self.step_rewards,
        )
        return job.rollout(
            sampler.counts,
            samples=[response_sample(job, one) for one in responses],
            continuations=[continuation_sample(job, one) for one in sampler.continuations],
        )

    def memory(self) -> PromptHistory | None:
        return self.baseline.memory()

    def supply(self, services: TrainerServices) -> Supply:
        return ContinuationSupply(self, services) if self.train_continuations else Supply(self, services)


def segment_logs(segments: int, first_value: float) -> dict[str, float]:
    """What a sample logs: its number of segments, and the value of the state it starts from."""
    return {"segments": float(segments), "value_prompt": float(first_value)}


def response_sample(job: PromptJob, response: Response) -> Sample:
    """A response as a sample, with the advantages of its segments."""
    return job.sample(
        (),
        response.completion,
        response.grade,
        boundaries=response.boundaries,
        adv_T=response.adv_T,
        estimates=response.estimate_K,
        logs=segment_logs(len(response.boundaries) - 1, response.value_K[0]),
    )


def continuation_sample(job: PromptJob, one: Continuation) -> Sample:
    """A continuation as a sample of one segment, its prefix in the place of the prompt."""
    length = len(one.completion.token_ids)
    return job.sample(
        one.prefix,
        one.completion,
        one.grade,
        boundaries=[0, length],
        adv_T=[one.advantage] * length,
        logs=segment_logs(1, one.state_value),
    )


class ContinuationSupply(Supply):
    """Continuations as further samples of the batch."""

    def exchange(self, rollouts: Sequence[Rollout], iteration: int) -> tuple[list[Experience], dict[str, float]]:
        responses = [(rollout, one) for rollout in rollouts for one in rollout.samples]
        continuations = [(rollout, one) for rollout in rollouts for one in rollout.continuations]
        trained = self.whole_steps(responses)
        kept, drawn, metrics = join(
            [one for _, one in trained],
            [one for _, one in continuations],
            batch_size=self.args.train.batch_size,
            seed=(self.args.train.seed, iteration),
            keep_responses=self.args.spo.advantage_norm.moves_zero,  # which gives all of them an advantage
        )
        made = [self.services.to_experience(rollout, one) for rollout, one in trained]
        # The metrics of a batch remain those of its responses: continuations start wherever the policy hesitated.
        for name in dict.fromkeys(name for one in made for name in one.info):
            metrics[name] = statistics.fmean(float(one.info.get(name, 0.0)) for one in made)
        more = [self.services.to_experience(*continuations[row]) for row in drawn]
        return [made[row] for row in kept] + more, metrics


def join(
    responses: Sequence[Sample],
    continuations: Sequence[Sample],
    *,
    batch_size: int,
    seed: tuple[object, ...],
    keep_responses: bool = False,
) -> tuple[list[int], list[int], dict[str, float]]:
    """Rows of `responses` and of `continuations` that make whole optimizer steps of `batch_size`, and metrics.

    `responses` fill theirs already. What does not fill a step is left out: first responses without an advantage, which
    have no policy gradient (but count in the normaliser and under a KL term), unless `keep_responses`; then
    continuations. Both are drawn at random; the draw depends on `seed` and on what was sampled, not on its order.
    """
    rng = random.Random(derive_seed(*seed, "continuations"))
    excess = (len(responses) + len(continuations)) % batch_size
    idle = [] if keep_responses else [row for row, one in enumerate(responses) if not any(one.adv_T or ())]
    left_out = set(rng.sample(idle, min(len(idle), excess, len(continuations))))
    # By their tokens: equal prompts ask for a shared state in any order.
    ordered = sorted(
        range(len(continuations)), key=lambda row: (continuations[row].token_ids, continuations[row].action_ranges)
    )
    drawn = rng.sample(ordered, max(len(ordered) - (excess - len(left_out)), 0))
    kept = [row for row in range(len(responses)) if row not in left_out]
    metrics = {
        "continuations/with_advantage": float(len(continuations)),
        "continuations/trained": float(len(drawn)),
        "continuations/left_out_responses": float(len(left_out)),
    }
    if responses:
        reward_B = [float(one.reward or 0.0) for one in responses]
        metrics |= {
            "rollout/reward_mean": statistics.fmean(reward_B),
            "rollout/reward_std": statistics.stdev(reward_B) if len(reward_B) > 1 else 0.0,
            "rollout/response_length_mean": statistics.fmean(len(one.adv_T or ()) for one in responses),
            "rollout/truncated_rate": statistics.fmean(one.truncated for one in responses),
        }
    return kept, drawn, metrics
