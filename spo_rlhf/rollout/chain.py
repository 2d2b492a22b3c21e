"""SPO-chain and group sampling of one prompt: responses, Monte Carlo values of their inner states, segment advantages.

Each response is a request of its own. As soon as it ends it is partitioned and its Monte Carlo requests start, while other
responses are still being sampled; nothing waits for anything but what it needs. A state that several responses share is asked
once. Runs inside the engine's process on token ids; the engine and the grader are protocols (rollout/protocol.py).
"""

import asyncio
from dataclasses import dataclass, field
from typing import Awaitable, Callable

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


class PromptRollout(PromptSampler):
    """Samples the responses to one prompt and, with a partition, the values of their inner states.

    Args, beside those of PromptSampler:
        token_text: text of one token id; only needed by partitions that look at text.
        state_values: values already asked for, by prefix; share one between rollouts of equal prompts with equal answers.
    """

    def __init__(
        self,
        *args,
        token_text: Callable[[int], str] | None = None,
        state_values: dict[tuple[int, ...], asyncio.Task] | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.token_text = token_text
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
            text_T = [self.token_text(token) for token in token_ids] if self.token_text else None
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
        completions = await self._sample(prefix, num_rollouts, ("state", tuple(self.prompt_ids), prefix), logprobs=False)
        self.counts.mc_continuations += len(completions)
        self.counts.mc_tokens += sum(len(completion.token_ids) for completion in completions)
        self.counts.mc_truncated += sum(completion.truncated for completion in completions)
        grades = await gather(self._grade(prefix, completion) for completion in completions)
        return values.monte_carlo([grade.reward for grade in grades])
