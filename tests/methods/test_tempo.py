"""TEMPO as a method: groups as they are sampled anyway, with the credit of what they share."""

import asyncio
from dataclasses import replace

import pytest

from spo_rlhf.core.advantages import to_tokens
from spo_rlhf.core.baselines import BASELINES
from spo_rlhf.core.shared_prefixes import credit
from spo_rlhf.core.values import Prior
from spo_rlhf.methods import METHODS
from spo_rlhf.methods.group import Group
from spo_rlhf.methods.tempo import Tempo
from spo_rlhf.rollout.job import PromptJob, RolloutRequest
from spo_rlhf.rollout.toy_engine import ToyEngine, ToyGrader, ToyLanguageModel

MODEL = ToyLanguageModel(3, 6, lambda response: float(sum(response) % 2), seed=1)


def rollout(method, samples: int = 6, prior: Prior | None = None):
    request = RolloutRequest("1 + 1", "2", 1, (1, "train", 0), samples, 9, None, 1.0, 1.0, -1, method)
    job = PromptJob(
        request=replace(request, prior=prior),
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


@pytest.mark.parametrize("prior", [None, Prior(0.4, 5.0)])
def test_samples_are_those_of_a_group_with_the_credit_of_their_prefixes(prior):
    made, group = rollout(Tempo(shared_strength=2.0), prior=prior), rollout(Group())
    assert [one.token_ids for one in made.samples] == [one.token_ids for one in group.samples]
    assert made.counts == group.counts, "no token more"
    expected = credit([one.token_ids[3:] for one in made.samples], [one.reward for one in made.samples], 2.0, prior)
    for sample, one in zip(made.samples, expected, strict=True):
        assert sample.boundaries == one.boundaries and len(sample.estimates) == len(one.adv_K)
        assert sample.adv_T == pytest.approx(to_tokens(one.adv_K, one.boundaries))
        assert sample.logs["segments"] == len(one.adv_K)
    assert any(len(one.adv_K) > 2 for one in expected), "something is shared"


def test_with_a_history_one_response_is_enough():
    [sample] = rollout(Tempo(), samples=1, prior=Prior(0.25, 3.0)).samples
    assert sample.adv_T == pytest.approx([sample.reward - 0.25] * len(sample.adv_T))


def test_its_place_in_the_command():
    assert METHODS["tempo"] is Tempo and Tempo().masks_by_default and Tempo().brings_advantages
    assert Tempo().memory() is None and Tempo(baseline=BASELINES["history"]()).memory() is not None
