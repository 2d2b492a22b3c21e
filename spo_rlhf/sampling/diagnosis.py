"""The samples of a diagnosis: responses to each prompt, continuations from fixed tokens of them, and around drawn ones.

A cut is at a number of tokens, whatever the response is: where a cut stands must not depend on what comes behind it. The
tokens of the probes are drawn by their energy, so that the sum over all tokens of energy times anything is the response's
energy times the mean over the probes.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np

from spo_rlhf.core import diagnosis
from spo_rlhf.core.diagnosis import CONTINUATIONS, LIKELIEST, RESPONSES, Probe, cuts
from spo_rlhf.core.seeds import derive_seed
from spo_rlhf.rollout.protocol import TRUNCATED, Grade
from spo_rlhf.rollout.reward import FileReward
from spo_rlhf.sampling.collect import Limits, TokenizedPrompt
from spo_rlhf.sampling.engine import Request, SamplingEngine

State = tuple[int, int, int]  # prompt, response, tokens of it


@dataclass(frozen=True)
class Plan:
    """What is sampled: `responses` to a prompt; `continuations` of a state; `cuts` and `probes` of a response.

    threshold: states in which no token is as likely as this are trained.
    """

    responses: int = 4
    continuations: int = 2
    cuts: int = 7
    probes: int = 2
    threshold: float = inf
    seed: int = 0

    def __post_init__(self) -> None:
        if self.responses < RESPONSES or self.continuations < CONTINUATIONS:
            raise ValueError(f"needs {RESPONSES} responses and {CONTINUATIONS} continuations or more")


@dataclass(frozen=True)
class Sampled:
    """Responses by prompt, the cuts (C,), and what it took."""

    responses: list[list[diagnosis.Response]]
    cut_C: list[int]
    tokens: int
    continuation_tokens: int


@dataclass(frozen=True)
class Answer:
    """What came of a request: tokens behind its state, and the grade of the whole response.

    states: of each token, where log-probs were asked for, its probability, the sum of squares in its state, the largest (T,).
    """

    key: tuple
    token_ids: Sequence[int]
    finished: bool
    grade: Grade
    states: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None


Sampler = Callable[[list[Request]], Iterator[Answer]]  # an answer to each, in any order


class Diagnosing:
    """One diagnosis under way. `report`: called with what is being sampled, how many are there, and of how many."""

    def __init__(
        self,
        prompts: Sequence[TokenizedPrompt],
        limits: Limits,
        plan: Plan,
        sampler: Sampler,
        report: Callable[[str, int, int], None] = lambda what, number, total: None,
    ):
        self.prompts, self.limits, self.plan, self.sampler, self.report = prompts, limits, plan, sampler, report
        self.tokens = 0

    def sample(self) -> Sampled:
        """All of it. Raises UserError where the reward file is at fault."""
        numbers = range(self.plan.responses)
        wanted = [self._request((p, i, 0), (), number=i, probs=True) for p in range(len(self.prompts)) for i in numbers]
        found = {one.key[:2]: one for one in self._answers("responses", wanted)}
        responses = [[self._response(found[p, i]) for i in numbers] for p in range(len(self.prompts))]
        of_responses, self.tokens = self.tokens, 0
        cut_C = cuts([len(one.token_ids) for group in responses for one in group], self.plan.cuts)
        drawn = {(p, i): self._draw(one, p, i) for p, group in enumerate(responses) for i, one in enumerate(group)}
        reward_of = self._continue(responses, cut_C, drawn)
        for p, group in enumerate(responses):
            for i, one in enumerate(group):
                at_cuts = [reward_of.pop((p, i, cut, "cut"), None) for cut in cut_C]
                ended = np.full(self.plan.continuations, one.reward)
                probes = [
                    Probe(reward_of[p, i, t, f"before {n}"], reward_of.get((p, i, t + 1, f"behind {n}"), ended))
                    for n, t in enumerate(drawn[p, i])
                ]
                group[i] = replace(one, at_cuts=at_cuts, probes=probes)
        return Sampled(responses, cut_C, of_responses, self.tokens)

    def _continue(
        self, responses: list[list[diagnosis.Response]], cut_C: list[int], drawn: dict[tuple[int, int], list[int]]
    ) -> dict[tuple, np.ndarray]:
        """Rewards (m,) of the continuations, by state and what they are for: no two uses share a sample."""
        wanted = []
        for (p, i), tokens in drawn.items():
            token_ids = responses[p][i].token_ids
            uses = [(cut, "cut") for cut in cut_C]
            for n, t in enumerate(tokens):
                uses += [(t, f"before {n}"), (t + 1, f"behind {n}")]
            wanted += [
                self._request((p, i, at), token_ids[:at], use, number)
                for at, use in uses
                if at < len(token_ids)
                for number in range(self.plan.continuations)
            ]
        rewards = defaultdict[tuple, list[float]](list)
        for one in self._answers("continuations", wanted):
            rewards[one.key[:4]].append(one.grade.reward)
        return {key: np.array(reward_m) for key, reward_m in rewards.items()}

    def _request(
        self, state: State, prefix: Sequence[int], use: str = "", number: int = 0, probs: bool = False
    ) -> Request:
        prompt = self.prompts[state[0]].token_ids
        room = min(self.limits.max_new_tokens, self.limits.max_len - len(prompt)) - len(prefix)
        key = (*state, use, number)
        seed = derive_seed(self.plan.seed, "diagnosis", *key)
        return Request(key, [*prompt, *prefix], room, seed, LIKELIEST if probs else None)

    def _answers(self, what: str, wanted: list[Request]) -> Iterator[Answer]:
        for number, one in enumerate(self.sampler(wanted), start=1):
            self.tokens += len(one.token_ids)
            self.report(what, number, len(wanted))
            yield one

    def _response(self, one: Answer) -> diagnosis.Response:
        assert one.states is not None, "log-probs were asked for"
        prob_T, square_T, top_T = one.states
        trained_T = (top_T < self.plan.threshold).astype(float)
        return diagnosis.Response(one.token_ids, prob_T, square_T, trained_T, one.grade.reward, not one.finished)

    def _draw(self, one: diagnosis.Response, prompt: int, number: int) -> list[int]:
        energy_T = one.energy_T
        if energy_T.sum() <= 0:
            return []
        rng = np.random.default_rng(derive_seed(self.plan.seed, "probes", prompt, number))
        return rng.choice(len(energy_T), self.plan.probes, p=energy_T / energy_T.sum()).tolist()


@dataclass(frozen=True)
class EngineSampler:
    """A `Sampler` over an engine of this command: responses are graded while others are sampled."""

    prompts: Sequence[TokenizedPrompt]
    engine: SamplingEngine
    reward: FileReward
    decode: Callable[[Sequence[int]], str]

    def __call__(self, wanted: list[Request]) -> Iterator[Answer]:
        """Raises UserError where the reward file is at fault."""
        start_of = {request.key: list(request.prompt_ids) for request in wanted}
        waiting = deque[tuple[Any, Future[Grade] | None]]()
        for response in self.engine.generate(wanted):
            prompt, future = self.prompts[response.key[0]], None
            if response.finished:
                token_ids = [*start_of[response.key][len(prompt.token_ids) :], *response.token_ids]
                future = self.reward.submit(prompt.text + self.decode(token_ids), prompt.text, prompt.label)
            waiting.append((response, future))
            while waiting and ((first := waiting[0][1]) is None or first.done()):
                yield self._answer(*waiting.popleft())
        yield from (self._answer(*one) for one in waiting)

    @staticmethod
    def _answer(response: Any, future: "Future[Grade] | None") -> Answer:
        states = None if response.logprobs is None else probabilities(response.token_ids, response.logprobs)
        grade = TRUNCATED if future is None else future.result()
        return Answer(response.key, response.token_ids, response.finished, grade, states)


def probabilities(
    token_ids: Sequence[int], known_T: Sequence[dict[int, float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each token (T,): its probability, the sum of squares in its state over the known tokens, the largest."""
    prob_T = [np.exp(known[token]) for token, known in zip(token_ids, known_T, strict=True)]
    states = [np.exp(np.array(list(known.values()))) for known in known_T]
    return np.array(prob_T), np.array([float((p**2).sum()) for p in states]), np.array([p.max() for p in states])
