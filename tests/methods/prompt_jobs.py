"""A prompt for a method to sample, on a model small enough to know."""

import asyncio

from spo_rlhf.core.values import Prior
from spo_rlhf.methods.base import Method
from spo_rlhf.rollout.job import PromptJob, RolloutRequest
from spo_rlhf.rollout.records import Rollout
from spo_rlhf.rollout.toy_engine import ToyEngine, ToyGrader, ToyLanguageModel

MODEL = ToyLanguageModel(3, 6, lambda response: float(sum(response) % 2), seed=1)


def rollout(method: Method, samples: int, *, slot: int = 1, prior: Prior | None = None) -> Rollout:
    """What a method makes of a prompt of three tokens."""
    request = RolloutRequest("1 + 1", "2", slot, (1, "train", 0), samples, 9, None, 1.0, 1.0, -1, method, prior=prior)
    job = PromptJob(
        request=request,
        engine=ToyEngine(MODEL, 3),
        grader=ToyGrader(MODEL),
        prompt_ids=[7, 7, 7],
        max_tokens=6,
        weight_version=5,
        graded=True,
        token_texts=lambda token_ids: [str(token) for token in token_ids],
        state_values={},
    )
    return asyncio.run(method.rollout(job))
