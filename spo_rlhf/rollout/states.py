"""Continuations of given states of one prompt, each graded as a whole response: what a diagnosis of a running policy asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from spo_rlhf.rollout.job import PromptJob
from spo_rlhf.rollout.prompt import PromptSampler, gather
from spo_rlhf.rollout.protocol import Completion, Grade
from spo_rlhf.rollout.records import Rollout

Named = tuple[
    tuple[object, ...], tuple[int, ...], bool
]  # a continuation's own name, the response so far, whether with log-probs


@dataclass
class Graded(Rollout):
    """Nothing to train: continuations by their names."""

    answers: list[tuple[tuple[object, ...], Completion, Grade]] = field(default_factory=list)


@dataclass(frozen=True)
class StateSampler:
    """Samples one continuation for each name. Every name has a seed of its own."""

    wanted: Sequence[Named]

    async def rollout(self, job: PromptJob) -> Graded:
        sampler = _Continuing(**job.sampler_options())
        answers = await gather(sampler.answer(*one) for one in self.wanted)
        request = job.request
        return Graded(
            request.prompt,
            request.label,
            request.slot,
            job.weight_version,
            sampler.counts,
            faults=job.faults,
            answers=answers,
        )


class _Continuing(PromptSampler):
    async def answer(
        self, name: tuple[object, ...], prefix: Sequence[int], logprobs: bool
    ) -> tuple[tuple[object, ...], Completion, Grade]:
        [completion] = await self._sample(prefix, 1, name, logprobs=logprobs)
        return name, completion, await self._grade(prefix, completion)
