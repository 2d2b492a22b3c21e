"""Groups: whole responses, one advantage each by OpenRLHF's estimators (GRPO, RLOO, PPO with a critic, ...)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.methods.base import PAPER_GSM8K, Method, PromptJob, SetOption
from spo_rlhf.rollout.chain import PromptRollout
from spo_rlhf.rollout.records import Rollout

ESTIMATORS = ("gae", "group_norm", "rloo", "reinforce_baseline", "dr_grpo", "reinforce", "flash_reinforce")


@dataclass(frozen=True, kw_only=True)
class Group(Method):
    """One advantage per response by --algo.advantage.estimator (GRPO unless set; gae trains a critic).

    Also how held-out prompts are sampled, whatever is trained.
    """

    presets = {"paper": {**PAPER_GSM8K, "algo.advantage.estimator": "group_norm"}}

    def refuse(self, options: Mapping[str, Any], explicit: set[str]) -> None:
        estimator = options["algo.advantage.estimator"]
        if "algo.advantage.estimator" in explicit and estimator not in ESTIMATORS:
            raise UserError(f"--algo.advantage.estimator {estimator}: use one of {', '.join(ESTIMATORS)}")
        if options["spo.ratio_level"] == "segment":
            raise UserError(
                "--spo.ratio_level segment needs segments, and --spo.mode group has none; use subsentence or sequence"
            )

    def settle(self, options: Mapping[str, Any], explicit: set[str], set_option: SetOption) -> None:
        if "algo.advantage.estimator" not in explicit:
            set_option("algo.advantage.estimator", "group_norm", "GRPO")
        if options["algo.advantage.estimator"] != "gae":
            for name in sorted(name for name in explicit if name.startswith("critic.")):
                raise UserError(f"--{name} needs a critic: add --algo.advantage.estimator gae, or leave it out")

    async def rollout(self, job: PromptJob) -> Rollout:
        sampler = PromptRollout(**job.sampler_options())
        responses = await sampler.group(job.request.num_samples)
        return job.rollout(sampler.counts, samples=[job.sample((), one.completion, one.grade) for one in responses])
