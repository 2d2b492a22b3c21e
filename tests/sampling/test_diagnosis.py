"""The samples of a diagnosis, with an engine over a tabular language model and a reward in this process: no vLLM."""

import random
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

import numpy as np
import pytest

from spo_rlhf.core.diagnosis import moments
from spo_rlhf.rollout.protocol import Grade
from spo_rlhf.rollout.toy_engine import ToyLanguageModel
from spo_rlhf.sampling.collect import Limits, TokenizedPrompt
from spo_rlhf.sampling.diagnosis import Diagnosing, EngineSampler, Plan, Sampled, cuts, probabilities
from spo_rlhf.sampling.engine import Request, Response

LENGTH = 6
MODEL = ToyLanguageModel(4, LENGTH, lambda tokens: float(sum(tokens) % 2), seed=1)
PROMPTS = [TokenizedPrompt(number, "?", "", [7, number]) for number in range(12)]


class Engine:
    """Samples from MODEL whatever the prompt; answers in no order."""

    def __init__(self):
        self.asked: list[Request] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Response]:
        wanted = list(requests)
        self.asked += wanted
        for request in random.Random(0).sample(wanted, len(wanted)):
            rng, prefix, made, known = random.Random(request.seed), list(request.prompt_ids[2:]), [], []
            while len(made) < request.max_tokens and (not made or made[-1] != 0):
                p = MODEL.probabilities([*prefix, *made])
                made += rng.choices(range(4), weights=p.tolist())
                known.append({token: float(np.log(one)) for token, one in enumerate(p)})
            probs = tuple(known) if request.likeliest else None
            yield Response(request.key, tuple(made), "", made[-1] == 0, probs)

    def close(self) -> None: ...


class Reward:
    def submit(self, query: str, prompt: str, label: str) -> "Future[Grade]":
        future: Future[Grade] = Future()
        reward = MODEL.reward([int(token) for token in query.removeprefix(prompt)])
        future.set_result(Grade(reward, reward))
        return future


def sampled(plan: Plan, prompts=PROMPTS) -> tuple[Sampled, Engine, list]:
    engine, reports = Engine(), []
    limits = Limits(plan.responses, LENGTH, 100)
    decode = lambda token_ids: "".join(map(str, token_ids))  # noqa: E731
    reward: object = Reward()
    sampler = EngineSampler(prompts, engine, reward, decode)
    run = Diagnosing(prompts, limits, plan, sampler, lambda *told: reports.append(told))
    return run.sample(), engine, reports


def test_continuations_start_at_their_states_and_no_two_uses_share_one():
    made, engine, reports = sampled(Plan(cuts=2, probes=2))
    first = [request for request in engine.asked if request.likeliest]
    assert len(first) == len(PROMPTS) * 4 and len({request.seed for request in engine.asked}) == len(engine.asked)
    for p, group in enumerate(made.responses):
        for i, one in enumerate(group):
            mine = [request for request in engine.asked if request.key[:2] == (p, i) and not request.likeliest]
            for request in mine:
                at = request.key[2]
                assert list(request.prompt_ids) == [7, p, *one.token_ids[:at]] and at < len(one.token_ids)
                assert request.max_tokens == LENGTH - at
            assert [at is None for at in one.at_cuts] == [cut >= len(one.token_ids) for cut in made.cut_C]
            assert all(len(at) == 2 for at in one.at_cuts if at is not None)
            assert len(one.probes) == 2 and all(len(p.before_m) == len(p.after_m) == 2 for p in one.probes)
    assert reports[-1][1] == reports[-1][2] == len(engine.asked) - len(first)
    assert made.tokens == sum(len(one.token_ids) for group in made.responses for one in group)


def test_probabilities_and_rewards_are_those_of_the_model():
    made, _, _ = sampled(Plan())
    for group in made.responses:
        for one in group:
            states = [MODEL.probabilities(one.token_ids[:t]) for t in range(len(one.token_ids))]
            assert one.prob_T == pytest.approx([p[token] for p, token in zip(states, one.token_ids)])
            assert one.square_T == pytest.approx([(p**2).sum() for p in states])
            assert one.reward == MODEL.final_reward(one.token_ids) and one.truncated == (one.token_ids[-1] != 0)


def test_the_moments_of_many_prompts_are_the_models_own():
    prompts = [TokenizedPrompt(number, "?", "", [7, number]) for number in range(700)]
    made, _, _ = sampled(Plan(cuts=2), prompts)
    found = [moments(group, made.cut_C) for group in made.responses]

    def mean(name: str) -> tuple[float, float]:
        values = np.array([np.atleast_1d(getattr(one, name))[0] for one in found])
        return float(values.mean()), 4.5 * float(values.std()) / np.sqrt(len(found))

    responses, p = zip(*MODEL.responses())
    weight, reward = np.array(p), np.array([MODEL.final_reward(one) for one in responses])
    value, [cut, *_] = float(weight @ reward), made.cut_C
    energy_N, exact_N, left_N = [], [], []
    for tokens, r in zip(responses, reward):
        value_T = [MODEL.value(tokens[:t]) for t in range(len(tokens))] + [r]
        state = [MODEL.probabilities(tokens[:t]) for t in range(len(tokens))]
        energy_T = [1 - 2 * one[token] + (one**2).sum() for one, token in zip(state, tokens)]
        energy_N.append(sum(energy_T))
        exact_N.append(sum(e * (b - a) ** 2 for e, a, b in zip(energy_T, value_T, value_T[1:])))
        left_N.append(value_T[cut] * (1 - value_T[cut]) if cut < len(tokens) else 0.0)
    for name, known in {
        "reward": value,
        "spread": value * (1 - value),
        "energy": weight @ np.array(energy_N),
        "group": weight @ (np.array(energy_N) * (reward - value) ** 2),
        "exact_advantage": weight @ np.array(exact_N),
        "unsettled_C": weight @ np.array(left_N),
    }.items():
        estimate, error = mean(name)
        assert estimate == pytest.approx(float(known), abs=error), name


def test_tokens_of_confident_states_have_no_energy_and_no_probe():
    made, _, _ = sampled(Plan(threshold=0.6, probes=4))
    for group in made.responses:
        for one in group:
            top_T = np.array([MODEL.probabilities(one.token_ids[:t]).max() for t in range(len(one.token_ids))])
            assert ((one.energy_T > 0) <= (top_T < 0.6)).all()
    silent, _, _ = sampled(Plan(threshold=1e-9))
    assert all(not one.probes for group in silent.responses for one in group)


def test_cuts_divide_the_mean_length():
    assert cuts([10, 30], 3) == [5, 10, 15]
    assert cuts([2], 7) == [1, 2] and cuts([1], 1) == []


def test_the_sampled_token_is_among_the_known_ones_however_unlikely():
    prob_T, square_T, top_T = probabilities([5], [{1: np.log(0.9), 2: np.log(0.08), 5: np.log(0.01)}])
    assert prob_T == pytest.approx([0.01]) and top_T == pytest.approx([0.9])
    assert square_T == pytest.approx([0.81 + 0.0064 + 0.0001])


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="3 responses and 2 continuations"):
        Plan(responses=2)
