"""A diagnosis of a running policy, on engines over a tabular language model: the same samples as spo-diagnose's, on the run's engines."""

import asyncio
import random
from types import SimpleNamespace

import documented
import numpy as np
import pytest
import torch

from spo_rlhf.config import SpoConfig
from spo_rlhf.core.diagnosis import LIKELIEST, moments
from spo_rlhf.rollout.job import PromptJob
from spo_rlhf.rollout.states import StateSampler
from spo_rlhf.rollout.toy_engine import ToyEngine, ToyGrader, ToyLanguageModel
from spo_rlhf.sampling.collect import Limits
from spo_rlhf.sampling.diagnosis import Diagnosing, Plan
from spo_rlhf.trainer.diagnosis import PoolSampler, RunningDiagnosis
from spo_rlhf.trainer.stopping import StopAsked

LENGTH = 6
MODEL = ToyLanguageModel(4, LENGTH, lambda tokens: float(sum(tokens) % 2), seed=1)


class Generator:
    """Stands for the run's: answers each request as an engine actor does."""

    def __init__(self, prompts: int = 64, model: ToyLanguageModel = MODEL):
        self.model, self.asked, self.notes, self.stops = model, [], [], False
        self.caught_up = 0
        rows = [("", f"problem {number}", str(number), None) for number in range(prompts)]
        self.prompts_dataloader = SimpleNamespace(dataset=rows)
        self.reporter = SimpleNamespace(note=self.notes.append, stage=lambda name: None)
        self.args = SimpleNamespace(data=SimpleNamespace(max_len=100))
        self.tokenizer = Words()

    def catch_up(self):
        self.caught_up += 1

    def ask(self, requests):
        if self.stops:
            raise StopAsked("SIGTERM", within=True)
        self.asked += requests
        made = [asyncio.run(one.method.rollout(self.job(one))) for one in requests]
        return random.Random(0).sample(made, len(made))

    def job(self, request) -> PromptJob:
        assert request.likeliest == LIKELIEST
        return PromptJob(
            request=request,
            engine=ToyEngine(self.model, 2, squared=True),
            grader=ToyGrader(self.model),
            prompt_ids=[7, 7],
            max_tokens=LENGTH,
            weight_version=1,
            graded=True,
            token_texts=lambda token_ids: [],
            state_values={},
        )


class Words:
    """Two tokens for each text; nothing is put before it."""

    bos_token_id = None

    def __call__(self, texts, add_special_tokens=True):
        return {"input_ids": [7, 7] if isinstance(texts, str) else [[7, 7] for _ in texts]}


def running(generator: Generator, **spo) -> RunningDiagnosis:
    args = SimpleNamespace(
        spo=SpoConfig(**{"diagnose_every": 3, "diagnose_prompts": 32, **spo}),
        train=SimpleNamespace(seed=5),
        data=SimpleNamespace(max_len=100, apply_chat_template=False),
    )
    return RunningDiagnosis(
        args, generator, {"max_new_tokens": LENGTH, "temperature": 0.7, "top_p": 1.0}, generator.catch_up
    )


def test_what_the_runs_engines_answer_is_the_models_own() -> None:
    generator = Generator()
    diagnosis = running(generator)
    prompts = diagnosis.prompts(3)
    sampler = PoolSampler(prompts, generator, diagnosis.options, 3, seeded=True)
    made = Diagnosing(prompts, Limits(4, LENGTH, 100), Plan(), sampler).sample()
    for one in (one for group in made.responses for one in group):
        states = [MODEL.probabilities(one.token_ids[:t]) for t in range(len(one.token_ids))]
        assert one.prob_T == pytest.approx([p[token] for p, token in zip(states, one.token_ids)])
        assert one.square_T == pytest.approx([(p**2).sum() for p in states])
        assert one.reward == MODEL.final_reward(one.token_ids) and one.truncated == (one.token_ids[-1] != 0)
        assert [at is None for at in one.at_cuts] == [cut >= len(one.token_ids) for cut in made.cut_C]
    # All of a prompt in one request, first the responses, then the continuations, each by a name of its own.
    assert len(generator.asked) == 2 * len(prompts) and {one.temperature for one in generator.asked} == {0.7}
    names = [name for one in generator.asked for name, _, _ in one.method.wanted]
    assert len(names) == len(set(names)) and all(isinstance(one.method, StateSampler) for one in generator.asked)
    # Over many prompts, the outcome's mean and variance are the model's.
    found = [moments(group, made.cut_C) for group in made.responses]
    value = MODEL.value()
    assert np.mean([one.reward for one in found]) == pytest.approx(value, abs=0.2)
    assert np.mean([one.spread for one in found]) == pytest.approx(value * (1 - value), abs=0.08)


def test_every_so_many_steps_the_run_logs_what_could_be_won() -> None:
    generator = Generator()
    diagnosis = running(generator, diagnose_prompts=24)
    assert diagnosis.after(1) == diagnosis.after(2) == {} and not generator.asked
    made = diagnosis.after(3)
    assert generator.caught_up == 1
    assert made["diagnosis/prompts"] == 24 and made["timing/diagnosis"] > 0
    assert made["diagnosis/generated_tokens"] > 24 * 4
    for name in ("oracle_baseline", "oracle_advantage", "decided", "truncated", "calibration", "segments_over_group"):
        low, value, high = (made[f"diagnosis/{name}{part}"] for part in ("_low", "", "_high"))
        assert low <= value <= high
    assert 0 < made["diagnosis/reward"] < 1 and 1 < made["diagnosis/response_tokens"] < LENGTH
    assert documented.undocumented(set(made)) == set()
    [note] = generator.notes
    assert note.startswith("step 3: ") and "oracle ratio" in note


def test_a_diagnosis_is_by_seed_and_step_and_takes_nothing_from_the_runs_generators() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    one, two, other = (running(Generator()).diagnose(step) for step in (3, 3, 6))
    assert one == two and one != other
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_outcomes_that_are_all_alike_are_told_and_cost_what_they_cost() -> None:
    generator = Generator(model=ToyLanguageModel(4, LENGTH, lambda tokens: 0.0, seed=1))
    assert running(generator).diagnose(3).keys() == {"prompts", "generated_tokens"}
    assert generator.notes == [
        "step 3: nothing to diagnose: the responses to each prompt have one outcome, or no token is trained: there is no gradient"
    ]


def test_a_run_that_is_asked_to_end_leaves_the_diagnosis_out() -> None:
    generator = Generator()
    generator.stops = True
    assert running(generator).after(3) == {}


def test_without_the_option_nothing_is_sampled() -> None:
    generator = Generator()
    assert running(generator, diagnose_every=0).after(3) == {} and not generator.asked
