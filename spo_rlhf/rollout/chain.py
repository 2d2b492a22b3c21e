"""SPO-chain and group sampling of one prompt: responses, Monte Carlo values of their inner states, segment advantages.

Each response is a request of its own. As soon as it ends it is partitioned and its Monte Carlo requests start, while other
responses are still being sampled; nothing waits for anything but what it needs. A state that several responses share is asked
once. Runs inside the engine's process on token ids; the engine and the grader are protocols (rollout/protocol.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from spo_rlhf.core import advantages, partition, values
from spo_rlhf.rollout.prompt import PromptSampler, gather
from spo_rlhf.rollout.protocol import Completion, Grade


@dataclass
class Sample:
    """One response of T tokens in K segments. The last three fields stay empty in group mode."""

    completion: Completion
    grade: Grade
    boundaries: list[int] = field(default_factory=list)  # K + 1 positions, [0, .., T]
    value_K: list[float] = field(default_factory=list)
    adv_T: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Continuation:
    """A Monte Carlo continuation that is trained on: what it continues, its tokens, and its advantage among its siblings."""

    prefix: tuple[int, ...]  # (b,) response tokens up to its state
    completion: Completion
    grade: Grade
    state_value: float  # mean reward of the siblings, itself included
    advantage: float  # not 0


class PromptRollout(PromptSampler):
    """Samples the responses to one prompt and, with a partition, the values of their inner states.

    Args, beside those of PromptSampler:
        token_texts: what each of the given tokens adds to the text; only needed by partitions that look at text.
        state_values: values already asked for, by prefix; share one between rollouts of equal prompts with equal answers.
        keep_continuations: leave the continuations that have an advantage in `continuations`, each state's once.
    """

    def __init__(
        self,
        *args,
        token_texts: Callable[[Sequence[int]], list[str]] | None = None,
        state_values: dict[tuple[int, ...], asyncio.Task] | None = None,
        keep_continuations: bool = False,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.keep_continuations, self.continuations = keep_continuations, []
        self.token_texts = token_texts
        self._state_values = {} if state_values is None else state_values

    async def group(self, num_responses: int) -> list[Sample]:
        """`num_responses` responses with their rewards."""
        return await self._for_each_response(num_responses, self._respond)

    async def chain(self, num_responses: int, config: partition.PartitionConfig, num_rollouts: int) -> list[Sample]:
        """`num_responses` responses with segment advantages: V(s_0) from the other responses, or by Monte Carlo if alone.

        `num_rollouts` continuations at each inner boundary. Equation: spo_rlhf/core/advantages.py.
        """

        async def respond_and_value(index: int) -> Sample:
            sample = await self._respond(index)
            prob_T = np.exp(np.asarray(sample.completion.logprobs, dtype=np.float64))
            token_ids = sample.completion.token_ids
            text_T = self.token_texts(token_ids) if self.token_texts else None
            sample.boundaries = partition.boundaries(config, prob_T, text_T)
            states = [0] if num_responses == 1 else []
            states += partition.inner_states(sample.boundaries)
            self.counts.mc_states += len(states)
            estimates = await gather(self._value(tuple(token_ids[:b]), num_rollouts) for b in states)
            sample.value_K = [estimate.mean for estimate in estimates]
            return sample

        samples = await self._for_each_response(num_responses, respond_and_value)
        if num_responses > 1:
            for sample, value in zip(samples, values.leave_one_out([sample.grade.reward for sample in samples])):
                sample.value_K.insert(0, float(value))
        for sample in samples:
            adv_K = advantages.chain(sample.value_K, sample.grade.reward)
            sample.adv_T = advantages.to_tokens(adv_K, sample.boundaries).tolist()
        return samples

    async def _for_each_response(self, count: int, respond: Callable[[int], Awaitable[Sample]]) -> list[Sample]:
        try:
            return await gather(respond(index) for index in range(count))
        except BaseException:
            for task in self._state_values.values():
                task.cancel()
            raise

    async def _respond(self, index: int) -> Sample:
        [completion] = await self._sample((), 1, ("response", self.slot, index), logprobs=True)
        self.counts.responses += 1
        self.counts.response_tokens += len(completion.token_ids)
        return Sample(completion, await self._grade((), completion))

    def _value(self, prefix: tuple[int, ...], num_rollouts: int) -> Awaitable[values.ValueEstimate]:
        if prefix not in self._state_values:
            self._state_values[prefix] = asyncio.ensure_future(self._monte_carlo(prefix, num_rollouts))
        return self._state_values[prefix]

    async def _monte_carlo(self, prefix: tuple[int, ...], num_rollouts: int) -> values.ValueEstimate:
        self.counts.mc_requests += 1
        name = ("state", tuple(self.prompt_ids), prefix)
        completions = await self._sample(prefix, num_rollouts, name, logprobs=self.keep_continuations)
        self.counts.mc_continuations += len(completions)
        self.counts.mc_tokens += sum(len(completion.token_ids) for completion in completions)
        self.counts.mc_truncated += sum(completion.truncated for completion in completions)
        grades = await gather(self._grade(prefix, completion) for completion in completions)
        reward_R = [grade.reward for grade in grades]
        estimate = values.monte_carlo(reward_R)
        if self.keep_continuations:
            adv_R = advantages.among_siblings(reward_R).tolist()
            self.continuations += [
                Continuation(prefix, completion, grade, estimate.mean, adv)
                for completion, grade, adv in zip(completions, grades, adv_R)
                if adv != 0
            ]
        return estimate
