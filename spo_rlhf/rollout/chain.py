"""SPO-chain and group sampling of one prompt: responses, Monte Carlo values of their inner states, segment advantages.

Each response is a request of its own. As soon as it ends it is partitioned and its Monte Carlo requests start, while
other responses are still being sampled; nothing waits for anything but what it needs. A state that several responses
share is asked once. Runs inside the engine's process on token ids; engine and grader are protocols (rollout/protocol.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from spo_rlhf.core import advantages, values
from spo_rlhf.core.finite import Fault
from spo_rlhf.core.partition import Partition
from spo_rlhf.rollout import steps
from spo_rlhf.rollout.estimators import Estimator, MonteCarlo
from spo_rlhf.rollout.prompt import PromptSampler, gather
from spo_rlhf.rollout.protocol import Completion, Engine, Grade, ResponseGrader

TokenTexts = Callable[[Sequence[int]], list[str]]
MONTE_CARLO = MonteCarlo()
StepValues = tuple[list[float], list[int]]  # values of steps, and the tokens at which they end
# (response prefix, number of continuations) -> the value that was asked for
StateValues = dict[tuple[tuple[int, ...], int], "asyncio.Task[values.ValueEstimate]"]


@dataclass
class Response:
    """One response of T tokens in K segments. The last three fields stay empty without segments."""

    completion: Completion
    grade: Grade
    boundaries: list[int] = field(default_factory=list)  # K + 1 positions, [0, .., T]
    estimate_K: list[values.ValueEstimate] = field(default_factory=list)
    adv_T: list[float] = field(default_factory=list)

    @property
    def value_K(self) -> list[float]:
        """V (K,) at the starts of the segments."""
        return [estimate.mean for estimate in self.estimate_K]


@dataclass(frozen=True)
class Continuation:
    """A Monte Carlo continuation that is trained on: what it continues, its tokens, its advantage among its siblings."""

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
        engine: Engine,
        grader: ResponseGrader,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        seed: tuple[object, ...],
        slot: int,
        faults: list[Fault] | None = None,
        token_texts: TokenTexts | None = None,
        state_values: StateValues | None = None,
        keep_continuations: bool = False,
    ):
        super().__init__(engine, grader, prompt_ids, max_tokens=max_tokens, seed=seed, slot=slot, faults=faults)
        self.keep_continuations = keep_continuations
        self.continuations: list[Continuation] = []
        self.token_texts = token_texts
        self._state_values: StateValues = {} if state_values is None else state_values

    async def group(self, num_responses: int) -> list[Response]:
        """`num_responses` responses with their rewards."""
        return await self._for_each_response(num_responses, self._respond)

    async def chain(
        self,
        num_responses: int,
        partition: Partition,
        num_rollouts: int,
        estimator: Estimator = MONTE_CARLO,
        prior: values.Prior | None = None,
        step_rule: str = "off",
    ) -> list[Response]:
        """`num_responses` responses with segment advantages: V(s_0) from the other responses and, where there is one, the
        prior; by Monte Carlo where there is neither.

        `num_rollouts` continuations of a state unless the estimator asks for others. Equation: core/advantages.py; what
        the reward function says of steps enters by `step_rule` (rollout/steps.py).
        """

        alone = num_responses == 1 and prior is None
        reward_B: list[asyncio.Future[float]] = [
            asyncio.get_running_loop().create_future() for _ in range(num_responses)
        ]

        async def respond_and_value(index: int) -> Response:
            async def others() -> list[float]:
                return [await reward for reward in reward_B[:index] + reward_B[index + 1 :]]

            response = await self._respond(index)
            steps.check_steps(response.grade, step_rule)
            reward_B[index].set_result(response.grade.reward)
            given = self._steps(response) if step_rule == "replace" else None
            await self._value_segments(response, partition, num_rollouts, estimator, others, alone=alone, given=given)
            return response

        responses = await self._for_each_response(num_responses, respond_and_value)
        if not alone:
            estimates = values.others([response.grade.reward for response in responses], prior)
            for response, estimate in zip(responses, estimates, strict=True):
                response.estimate_K.insert(0, estimate)
        for response in responses:
            adv_K = advantages.chain(response.value_K, response.grade.reward)
            if step_rule == "add":
                value_J, end_J = self._steps(response)
                adv_K = adv_K + steps.segment_rewards(value_J, end_J, response.boundaries)
            response.adv_T = advantages.to_tokens(adv_K, response.boundaries).tolist()
        return responses

    async def _value_segments(
        self,
        response: Response,
        partition: Partition,
        num_rollouts: int,
        estimator: Estimator,
        others: Callable[[], Awaitable[list[float]]],
        *,
        alone: bool,
        given: StepValues | None = None,
    ) -> None:
        """Boundaries of a response and the values of its inner states, in place; that of the prompt too where `alone`.

        The values are the estimator's, or where they are `given`, those.
        """
        token_ids = response.completion.token_ids
        prob_T = np.exp(np.asarray(response.completion.deciding_logprobs, dtype=np.float64))
        text_T = self.token_texts(token_ids) if partition.needs_text and self.token_texts else None

        def value(position: int, rollouts: int | None = None) -> Awaitable[values.ValueEstimate]:
            return self._value(tuple(token_ids[:position]), rollouts or num_rollouts)

        prompt_value = asyncio.ensure_future(value(0)) if alone else None
        boundary_K = partition.boundaries(prob_T, text_T)
        if given is None:
            response.boundaries, estimates = await estimator.estimate_among(boundary_K, value, others)
            self.counts.mc_states += len(estimates)
        else:
            response.boundaries, estimates = steps.valued(*given, boundary_K)
        self.counts.mc_states += alone
        if prompt_value is not None:
            estimates = [await prompt_value, *estimates]
        response.estimate_K = list(estimates)

    def _steps(self, response: Response) -> StepValues:
        """Values (J,) that the reward function gave for steps, and the tokens (J,) at which they end."""
        given = response.grade.steps or ()
        if not given:
            return [], []
        if self.token_texts is None:
            raise ValueError("steps are placed by the text of each token, which this sampler was not given")
        return [value for _, value in given], steps.token_ends(given, self.token_texts(response.completion.token_ids))

    async def _for_each_response(self, count: int, respond: Callable[[int], Awaitable[Response]]) -> list[Response]:
        try:
            return await gather(respond(index) for index in range(count))
        except BaseException:
            for task in self._state_values.values():
                task.cancel()
            raise

    async def _respond(self, index: int) -> Response:
        [completion] = await self._sample((), 1, ("response", self.slot, index), logprobs=True)
        self.counts.responses += 1
        self.counts.response_tokens += len(completion.token_ids)
        return Response(completion, await self._grade((), completion))

    def _value(self, prefix: tuple[int, ...], num_rollouts: int) -> "asyncio.Task[values.ValueEstimate]":
        asked = prefix, num_rollouts
        if asked not in self._state_values:
            self._state_values[asked] = asyncio.ensure_future(self._monte_carlo(prefix, num_rollouts))
        return self._state_values[asked]

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
                for completion, grade, adv in zip(completions, grades, adv_R, strict=True)
                if adv != 0
            ]
        return estimate
