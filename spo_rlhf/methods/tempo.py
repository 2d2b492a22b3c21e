"""TEMPO: ordinary groups, with the credit of the tree that their shared prefixes make. No token more than RLOO's.

Where responses share a beginning, its value is the mean of theirs, and what comes behind it is compared with that
(core/shared_prefixes.py). It has most to say where many responses to a prompt begin alike.
"""

from dataclasses import dataclass

from spo_rlhf.core.advantages import to_tokens
from spo_rlhf.core.baselines import BASELINES, Baseline
from spo_rlhf.core.history import PromptHistory
from spo_rlhf.core.options import choice, option
from spo_rlhf.core.shared_prefixes import credit
from spo_rlhf.core.values import ValueEstimate
from spo_rlhf.methods.base import BASELINE_HELP, PromptJob, SegmentMethod
from spo_rlhf.methods.chain import segment_logs
from spo_rlhf.rollout.chain import PromptRollout
from spo_rlhf.rollout.records import Rollout


@dataclass(frozen=True, kw_only=True)
class Tempo(SegmentMethod):
    """Groups of whole responses, compared with those that share their beginning.

    https://arxiv.org/abs/2509.18314
    """

    baseline: Baseline = choice("baseline", BASELINES, "group", help=BASELINE_HELP)
    shared_strength: float = option(
        1.0,
        flag="shared_strength",
        at_least=0,
        at_most=1e9,
        metavar="K",
        help="outcomes that the baseline of the shorter shared beginning counts as, beside those that share a longer one",
    )

    def memory(self) -> PromptHistory | None:
        return self.baseline.memory()

    async def rollout(self, job: PromptJob) -> Rollout:
        sampler = PromptRollout(**job.sampler_options())
        responses = await sampler.group(job.request.num_samples)
        reward_N = [one.grade.reward for one in responses]
        token_ids = [one.completion.token_ids for one in responses]
        samples = [
            job.sample(
                (),
                one.completion,
                one.grade,
                boundaries=mine.boundaries,
                adv_T=to_tokens(mine.adv_K, mine.boundaries).tolist(),
                estimates=[ValueEstimate(base, 0.0, 1) for base in mine.base_K],
                logs=segment_logs(len(mine.adv_K), mine.base_K[0]),
            )
            for one, mine in zip(
                responses, credit(token_ids, reward_N, self.shared_strength, job.request.prior), strict=True
            )
        ]
        return job.rollout(sampler.counts, samples=samples)
