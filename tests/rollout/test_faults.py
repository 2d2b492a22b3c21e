"""Rewards and log-probs that are not finite: told with their sample, and a 0 in their place, so that sampling goes on."""

import asyncio
import dataclasses
import math

import numpy as np
import pytest

from spo_rlhf.core.partition import Fixed
from spo_rlhf.core.tree import TreeShape, values
from spo_rlhf.rollout.chain import PromptRollout
from spo_rlhf.rollout.toy_engine import ToyEngine, ToyGrader, ToyLanguageModel
from spo_rlhf.rollout.tree import TreeRollout

PROMPT = [7, 7, 7]


def sampler(cls, model, engine=None):
    engine = engine or ToyEngine(model, len(PROMPT))
    return cls(engine, ToyGrader(model), PROMPT, max_tokens=model.max_tokens, seed=(1, "train", 0), slot=0)


def model(bad: float) -> ToyLanguageModel:
    """Responses of an even sum have a reward that is not finite."""
    return ToyLanguageModel(3, 6, lambda response: float(sum(response) % 2) or bad, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rewards_of_responses_and_continuations(bad):
    whole = sampler(PromptRollout, model(0.0))
    expected = asyncio.run(whole.chain(5, Fixed(segment_length=2), num_rollouts=4))
    job = sampler(PromptRollout, model(bad))
    assert asyncio.run(job.chain(5, Fixed(segment_length=2), num_rollouts=4)) == expected, "as if they were 0"
    graded = {tuple(one.completion.token_ids) for one in expected if not one.completion.truncated}
    told = {tuple(fault.token_ids) for fault in job.faults}
    assert whole.faults == [] and told >= {one for one in graded if sum(one) % 2 == 0}
    assert told - graded, "continuations too"
    for fault in job.faults:
        assert fault.number == "reward" and str(fault.value) == str(bad) and list(fault.context_ids) == PROMPT
        assert sum(fault.token_ids) % 2 == 0, "of the whole response, what a continuation continues included"


def test_rewards_of_leaves():
    job = sampler(TreeRollout, model(math.nan))
    tree = asyncio.run(job.grow(TreeShape((3, 2), (3,))))
    assert job.faults and np.isfinite(values(tree.parent_N, tree.reward_N)).all()


def test_log_probs_of_the_engine():
    class BrokenEngine(ToyEngine):
        async def sample(self, state, **options):
            broken = []
            for one in await super().sample(state, **options):
                logprobs = one.logprobs and [*one.logprobs[:-1], math.nan]
                broken.append(dataclasses.replace(one, logprobs=logprobs))
            return broken

    toy = model(0.0)
    job = sampler(PromptRollout, toy, BrokenEngine(toy, len(PROMPT)))
    responses = asyncio.run(job.group(3))
    assert [fault.number for fault in job.faults] == ["engine log-prob"] * 3
    for fault, response in zip(job.faults, responses, strict=True):
        assert np.isfinite(response.completion.logprobs).all() and response.completion.logprobs[-1] == 0
        assert fault.position == len(fault.token_ids) - 1 and math.isnan(fault.value)
