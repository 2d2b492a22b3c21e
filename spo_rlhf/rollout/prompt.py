"""What the samplers of one prompt share: requests with their own seeds, grades, counts."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Iterable, Sequence
from typing import TypeVar

from spo_rlhf.core.finite import Fault, first, with_zeros
from spo_rlhf.core.seeds import derive_seed
from spo_rlhf.rollout.protocol import TRUNCATED, Completion, Engine, Grade, ResponseGrader
from spo_rlhf.rollout.records import RolloutCounts

T = TypeVar("T")


class PromptSampler:
    """Samples and grades continuations of one prompt.

    Args:
        engine: continues token ids.
        grader: reward of a response to this prompt.
        prompt_ids: (P,) token ids of the prompt.
        max_tokens: longest response, in tokens; a continuation of b tokens has max_tokens - b left.
        seed: what the seeds of all requests derive from, e.g. (run seed, iteration, "train").
        slot: position of the prompt in the batch: equal prompts get different responses, equal states equal seeds.
        faults: where log-probs and rewards that are not finite go. A 0 takes their place, for the algorithm takes finite
            numbers alone; whoever asked for the rollout must not train on it.
    """

    def __init__(
        self,
        engine: Engine,
        grader: ResponseGrader,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        seed: tuple[object, ...],
        slot: int,
        faults: list[Fault] | None = None,
    ):
        if max_tokens < 1:
            raise ValueError(f"no room for a response: the prompt of slot {slot} has {len(prompt_ids)} tokens")
        self.engine, self.grader, self.prompt_ids, self.max_tokens = engine, grader, list(prompt_ids), max_tokens
        self.seed, self.slot = seed, slot
        self.counts = RolloutCounts()
        self.faults = [] if faults is None else faults

    async def _sample(
        self, prefix: Sequence[int], n: int, name: tuple[object, ...], *, logprobs: bool, limit: int | None = None
    ) -> list[Completion]:
        """`n` continuations of the response `prefix`, at most `limit` tokens long; `name` tells their seed from others."""
        state = [*self.prompt_ids, *prefix]
        room = self.max_tokens - len(prefix)
        completions = await self.engine.sample(
            state,
            n=n,
            max_tokens=room if limit is None else min(limit, room),
            seed=derive_seed(*self.seed, *name),
            logprobs=logprobs,
        )
        if len(completions) != n:
            raise RuntimeError(f"the engine returned {len(completions)} of {n} continuations")
        self.counts.prompt_tokens += n * len(state)
        self.counts.cached_tokens += sum(completion.cached_tokens for completion in completions)
        return [self._with_finite_logprobs(state, completion) for completion in completions]

    def _with_finite_logprobs(self, state: Sequence[int], completion: Completion) -> Completion:
        logprob_T = completion.logprobs or []
        position = first(logprob_T)
        if position is None:
            return completion
        sample = {"context_ids": list(state), "token_ids": completion.token_ids}
        self.faults.append(Fault.at_token("engine log-prob", position, {"engine log-prob": logprob_T}, **sample))
        return dataclasses.replace(completion, logprobs=with_zeros(logprob_T))

    async def _grade(self, prefix: Sequence[int], completion: Completion) -> Grade:
        """Grade of a whole response, of which `completion` is what follows `prefix`."""
        if completion.truncated:
            return TRUNCATED
        response = [*prefix, *completion.token_ids]
        grade = await self.grader.grade(response)
        if first([grade.reward, grade.score]) is None:
            return grade
        bad = "reward" if first([grade.reward]) == 0 else "score"
        self.faults.append(Fault(bad, getattr(grade, bad), context_ids=self.prompt_ids, token_ids=response))
        return dataclasses.replace(grade, reward=0.0, score=0.0)


async def gather(awaitables: Iterable[Awaitable[T]]) -> list[T]:
    """Like asyncio.gather, but when one fails the others are cancelled before the error goes on."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
