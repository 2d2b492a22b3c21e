"""One prompt on its engine: the request that asks for it, and what a method samples it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from spo_rlhf.core.finite import Fault
from spo_rlhf.core.values import Prior
from spo_rlhf.rollout.chain import StateValues, TokenTexts
from spo_rlhf.rollout.protocol import Completion, Engine, Grade, ResponseGrader
from spo_rlhf.rollout.records import Rollout, RolloutCounts, Sample


class Sampler(Protocol):
    """How a prompt is sampled: a method (spo_rlhf/methods)."""

    async def rollout(self, job: PromptJob) -> Rollout: ...


@dataclass(frozen=True)
class RolloutRequest:
    """One prompt to sample."""

    prompt: str
    label: str
    slot: int  # position of the prompt in its batch
    seed: tuple[Any, ...]  # what the seeds of its requests derive from: (run seed, "train" or "eval", iteration)
    num_samples: int
    max_length: int  # prompt and response together, in tokens
    max_new_tokens: int | None  # limit of the response alone
    temperature: float
    top_p: float
    top_k: int
    method: Sampler  # that of the run while training, whole responses alone in evaluation
    seeded: bool = True  # each of its requests has its own seed; else they draw from the engine's generator
    images: Any = None  # of a prompt that has some: OpenRLHF's own rollout then answers
    by_state: bool = False  # ask for the log-probs of the most likely tokens as well
    weight: float = 1.0  # of the prompt in the loss
    prior: Prior | None = None  # what earlier iterations say of the prompt
    likeliest: int = 0  # tokens of each state whose probabilities make `Completion.squares`; 0: none are made


@dataclass(frozen=True)
class PromptJob:
    """One prompt on its engine: what a method samples it with."""

    request: RolloutRequest
    engine: Engine
    grader: ResponseGrader
    prompt_ids: list[int]
    max_tokens: int  # longest response
    weight_version: int
    graded: bool  # rewards are known here; False: a reward model grades the responses later
    token_texts: TokenTexts
    state_values: StateValues  # asked for by prompts like this one in the same iteration
    faults: list[Fault] = field(default_factory=list)  # where samplers leave numbers that are not finite

    def sampler_options(self) -> dict[str, Any]:
        """Arguments of the samplers in rollout/."""
        return {
            "engine": self.engine,
            "grader": self.grader,
            "prompt_ids": self.prompt_ids,
            "max_tokens": self.max_tokens,
            "seed": self.request.seed,
            "slot": self.request.slot,
            "faults": self.faults,
        }

    def sample(self, prefix: Sequence[int], completion: Completion, grade: Grade, **more: Any) -> Sample:
        """A completion of this prompt and a response prefix as a sample."""
        logs = {"weight_version": float(self.weight_version), **more.pop("logs", {})}
        if completion.versions is not None:
            logs["policies"] = float(len(set(completion.versions)))
        context = [*self.prompt_ids, *prefix]
        return Sample.after(context, completion, grade if self.graded else None, logs=logs, **more)

    def rollout(self, counts: RolloutCounts, **content: Any) -> Rollout:
        """What goes back to the controller."""
        request = self.request
        identity = (request.prompt, request.label, request.slot, self.weight_version)
        content = {"faults": self.faults, **content}
        return Rollout(*identity, counts, weight=request.weight, prior=request.prior, **content)
