"""Groups: whole responses, one advantage each by OpenRLHF's estimators (GRPO, RLOO, PPO with a critic, ...).

With `--spo.baseline history` the advantages are made here: the reward minus the mean of the others' blended with what
was known of the prompt, that is, RLOO for any number of responses, a single one included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spo_rlhf.core.baselines import BASELINES, Baseline
from spo_rlhf.core.history import PromptHistory
from spo_rlhf.core.options import choice
from spo_rlhf.core.values import Prior, leave_one_out
from spo_rlhf.errors import UserError
from spo_rlhf.methods.base import (
    BASELINE_HELP,
    MEASURED_LONG,
    MEASURED_SHORT,
    PAPER_GSM8K,
    Method,
    PromptJob,
    SetOption,
    refuse_shaped_returns,
    settle_kl_as_loss,
)
from spo_rlhf.rollout.chain import PromptRollout, Response
from spo_rlhf.rollout.records import Rollout, Sample

ESTIMATORS = ("gae", "group_norm", "rloo", "reinforce_baseline", "dr_grpo", "reinforce", "flash_reinforce")
ESTIMATOR = "algo.advantage.estimator"


@dataclass(frozen=True, kw_only=True)
class Group(Method):
    """One advantage per response by --algo.advantage.estimator (GRPO unless set; gae trains a critic).

    Also how held-out prompts are sampled, whatever is trained.
    """

    baseline: Baseline = choice("baseline", BASELINES, "group", help=BASELINE_HELP)

    presets = {"paper": {**PAPER_GSM8K, ESTIMATOR: "group_norm"}, "short": MEASURED_SHORT, "long": MEASURED_LONG}

    @property
    def brings_advantages(self) -> bool:
        return self.baseline.memory() is not None

    def memory(self) -> PromptHistory | None:
        return self.baseline.memory()

    def refuse(self, options: Mapping[str, Any], explicit: set[str]) -> None:
        estimator = options[ESTIMATOR]
        if ESTIMATOR in explicit and estimator not in ESTIMATORS:
            raise UserError(f"--{ESTIMATOR} {estimator}: use one of {', '.join(ESTIMATORS)}")
        if options["spo.ratio_level"] == "segment":
            raise UserError(
                "--spo.ratio_level segment needs segments, and --spo.mode group has none; use subsentence or sequence"
            )
        if self.brings_advantages:
            what = f"--spo.baseline {options['spo.baseline']}"
            if ESTIMATOR in explicit and estimator != "rloo":
                raise UserError(f"--{ESTIMATOR} {estimator} does not go with {what}, which is RLOO's; use rloo")
            refuse_shaped_returns(what, options, explicit - {ESTIMATOR})

    def settle(self, options: Mapping[str, Any], explicit: set[str], set_option: SetOption) -> None:
        if self.brings_advantages:
            settle_kl_as_loss(options, explicit, set_option)
        elif ESTIMATOR not in explicit:
            set_option(ESTIMATOR, "group_norm", "GRPO")
        if options[ESTIMATOR] != "gae":
            for name in sorted(name for name in explicit if name.startswith("critic.")):
                raise UserError(f"--{name} needs a critic: add --{ESTIMATOR} gae, or leave it out")

    async def rollout(self, job: PromptJob) -> Rollout:
        sampler = PromptRollout(**job.sampler_options())
        responses = await sampler.group(job.request.num_samples)
        if job.request.prior is None:
            samples = [job.sample((), one.completion, one.grade) for one in responses]
        else:
            samples = compared_samples(job, responses, job.request.prior)
        return job.rollout(sampler.counts, samples=samples)


def compared_samples(job: PromptJob, responses: list[Response], prior: Prior) -> list[Sample]:
    """Responses with their advantages against each other and what was known of the prompt."""
    baselines = leave_one_out([one.grade.reward for one in responses], prior)
    samples = []
    for one, baseline in zip(responses, baselines.tolist(), strict=True):
        length = len(one.completion.token_ids)
        samples.append(
            job.sample(
                (),
                one.completion,
                one.grade,
                boundaries=[0, length],
                adv_T=[one.grade.reward - baseline] * length,
                logs={"value_prompt": baseline},
            )
        )
    return samples
