"""The chain sampler on a tabular model: what it asks, when it asks it, and what the answers become."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from spo_rlhf.core.partition import Cutpoint, Fixed, Newline, inner_states
from spo_rlhf.core.seeds import SEED_BITS, derive_seed
from spo_rlhf.core.values import others
from spo_rlhf.errors import UserError
from spo_rlhf.rollout import steps
from spo_rlhf.rollout.chain import PromptRollout
from spo_rlhf.rollout.estimators import Disputed
from spo_rlhf.rollout.protocol import TRUNCATED
from spo_rlhf.rollout.toy_engine import ToyEngine, ToyGrader, ToyLanguageModel

PROMPT = [7, 7, 7]
CUTPOINTS = Cutpoint(threshold=0.6, interval=1)


def toy(max_tokens=6, seed=0):
    return ToyLanguageModel(3, max_tokens, lambda response: float(sum(response) % 2), seed)


def rollout(model, engine=None, *, seed=(1, "train", 0), slot=0, state_values=None, keep_continuations=False):
    engine = engine or ToyEngine(model, len(PROMPT))
    job = PromptRollout(
        engine,
        ToyGrader(model),
        PROMPT,
        max_tokens=model.max_tokens,
        seed=seed,
        slot=slot,
        token_texts=lambda token_ids: ["\n" if token == 1 else "x" for token in token_ids],
        state_values=state_values,
        keep_continuations=keep_continuations,
    )
    return job, engine


@pytest.mark.parametrize("config", [CUTPOINTS, Fixed(segment_length=2), Newline()])
@pytest.mark.parametrize("num_responses", [1, 2, 5])
def test_asks_exactly_what_the_partition_says(config, num_responses):
    job, engine = rollout(toy())
    samples = asyncio.run(job.chain(num_responses, config, num_rollouts=4))

    expected = set()
    for sample in samples:
        token_ids, prob_T = sample.completion.token_ids, np.exp(sample.completion.logprobs)
        text_T = ["\n" if token == 1 else "x" for token in token_ids]
        assert sample.boundaries == config.boundaries(prob_T, text_T)
        expected |= {tuple(token_ids[:b]) for b in inner_states(sample.boundaries)}
    if num_responses == 1:
        expected.add(())
    asked = [prefix for prefix, n, _ in engine.requests[num_responses:]]
    assert sorted(asked) == sorted(expected), "every inner state once, whoever shares it"
    assert job.counts.mc_requests == len(expected) and job.counts.mc_continuations == 4 * len(expected)
    assert job.counts.responses == num_responses


@pytest.mark.parametrize("delay", [lambda prefix: 0.0, lambda prefix: 0.001 * len(prefix)], ids=["at once", "late"])
def test_disputed_prompts_alone_get_continuations_whenever_the_others_end(delay):
    seen = set()
    for slot in range(12):
        model = toy()
        job, engine = rollout(model, ToyEngine(model, len(PROMPT), delay), slot=slot)
        samples = asyncio.run(job.chain(3, Fixed(segment_length=1), 2, Disputed()))
        for index, sample in enumerate(samples):
            others = {other.grade.reward for i, other in enumerate(samples) if i != index}
            length = len(sample.completion.token_ids)
            assert sample.boundaries == (list(range(length + 1)) if len(others) > 1 else [0, length])
            seen.add(len(others))
        assert job.counts.mc_states == sum(len(sample.boundaries) - 2 for sample in samples)
    assert seen == {1, 2}


def test_boundaries_are_those_of_the_most_likely_tokens_where_the_engine_brings_them():
    model = toy(seed=2)
    job, _ = rollout(model, ToyEngine(model, len(PROMPT), by_state=True))
    samples = asyncio.run(job.chain(6, CUTPOINTS, num_rollouts=2))
    plain, _ = rollout(model)
    for sample, one in zip(samples, asyncio.run(plain.chain(6, CUTPOINTS, num_rollouts=2)), strict=True):
        token_ids = sample.completion.token_ids
        top_T = [model.probabilities(token_ids[:t]).max() for t in range(len(token_ids))]
        assert sample.boundaries == CUTPOINTS.boundaries(top_T)
        assert one.completion.token_ids == token_ids and one.completion.top_logprobs is None
    assert any(s.boundaries != CUTPOINTS.boundaries(np.exp(s.completion.logprobs)) for s in samples)


def test_advantages_sum_to_reward_minus_prompt_value():
    job, _ = rollout(toy())
    samples = asyncio.run(job.chain(4, CUTPOINTS, num_rollouts=3))
    for index, sample in enumerate(samples):
        others = [other.grade.reward for i, other in enumerate(samples) if i != index]
        segment_starts = sample.boundaries[:-1]
        assert sum(sample.adv_T[start] for start in segment_starts) == pytest.approx(
            sample.grade.reward - np.mean(others)
        )
        assert sample.value_K[0] == pytest.approx(np.mean(others))
        assert len(sample.adv_T) == len(sample.completion.token_ids)


def test_continuations_are_kept_with_their_advantage_among_their_siblings():
    model = toy(seed=1)
    job, _ = rollout(model, keep_continuations=True)
    samples = asyncio.run(job.chain(6, CUTPOINTS, num_rollouts=3))
    without, _ = rollout(model)
    assert asyncio.run(without.chain(6, CUTPOINTS, num_rollouts=3)) == samples, "keeping them changes nothing else"
    assert without.continuations == []

    by_state = {}
    for kept in job.continuations:
        by_state.setdefault(kept.prefix, []).append(kept)
        assert len(kept.completion.logprobs) == len(kept.completion.token_ids)
        assert kept.grade.reward == (
            0.0 if kept.completion.truncated else model.reward([*kept.prefix, *kept.completion.token_ids])
        )
        others = (3 * kept.state_value - kept.grade.reward) / 2
        assert kept.advantage == pytest.approx(kept.grade.reward - others) and kept.advantage != 0
    assert by_state, "no state of this model has continuations of different rewards"
    # Rewards are 0 or 1: a state has three continuations with an advantage, or none.
    assert {len(family) for family in by_state.values()} == {3}
    assert set(by_state) <= {tuple(s.completion.token_ids[:b]) for s in samples for b in inner_states(s.boundaries)}


def test_values_converge_to_the_true_ones():
    model = toy()
    job, _ = rollout(model)
    [sample] = asyncio.run(job.chain(1, Fixed(segment_length=2), num_rollouts=4000))
    states = [sample.completion.token_ids[:b] for b in sample.boundaries[:-1]]
    np.testing.assert_allclose(sample.value_K, [model.value(state) for state in states], atol=0.05)


def test_monte_carlo_starts_while_other_responses_are_being_sampled():
    model, events = toy(), []

    def delay(prefix):
        events.append(prefix)
        # The second response takes long; the first one's continuations must not wait for it.
        return 0.2 if events.count(()) == 2 and prefix == () else 0.0

    job, engine = rollout(model, ToyEngine(model, len(PROMPT), delay=delay))
    finished_early = []

    async def watch():
        task = asyncio.ensure_future(job.chain(2, Fixed(segment_length=1), num_rollouts=2))
        await asyncio.sleep(0.1)
        finished_early.extend(prefix for prefix, _, _ in engine.requests if prefix)
        return await task

    asyncio.run(watch())
    assert finished_early, "no continuation was asked for before the last response ended"


def test_same_seed_same_rollout_and_every_request_its_own_seed():
    model = toy()
    first, engine = rollout(model)
    second, _ = rollout(model)
    one = asyncio.run(first.chain(5, CUTPOINTS, 3))
    two = asyncio.run(second.chain(5, CUTPOINTS, 3))
    assert [s.completion for s in one] == [s.completion for s in two] and [s.adv_T for s in one] == [
        s.adv_T for s in two
    ]
    seeds = [seed for _, _, seed in engine.requests]
    assert len(set(seeds)) == len(seeds)
    other, other_engine = rollout(model, seed=(1, "train", 1))
    asyncio.run(other.chain(5, CUTPOINTS, 3))
    assert not set(seeds) & {seed for _, _, seed in other_engine.requests}


def test_equal_prompts_share_their_states():
    model, known = toy(max_tokens=3), {}
    first, engine = rollout(model, slot=0, state_values=known)
    second, _ = rollout(model, engine, slot=1, state_values=known)

    async def both():
        fixed = Fixed(segment_length=1)
        return await asyncio.gather(first.chain(8, fixed, 2), second.chain(8, fixed, 2))

    asyncio.run(both())
    asked = [prefix for prefix, _, _ in engine.requests if prefix]
    assert len(asked) == len(set(asked)) and first.counts.mc_states + second.counts.mc_states > len(asked)


def test_truncated_responses_have_reward_zero():
    model = ToyLanguageModel(3, 2, lambda response: 1.0)
    job, _ = rollout(model)
    samples = asyncio.run(job.group(40))
    assert {sample.grade.reward for sample in samples if sample.completion.truncated} == {0.0}
    assert {sample.grade.reward for sample in samples if not sample.completion.truncated} == {1.0}


def test_a_failing_engine_ends_the_rollout_and_leaves_no_request():
    model = toy()

    def fault(prefix):
        if prefix:
            raise ConnectionError("engine died")

    job, engine = rollout(model, ToyEngine(model, len(PROMPT), delay=lambda prefix: 0.01 * len(prefix), fault=fault))

    async def run():
        with pytest.raises(ConnectionError, match="engine died"):
            await job.chain(4, Fixed(segment_length=1), 3)
        await asyncio.sleep(0)
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    assert asyncio.run(run()) == [] and engine.in_flight == 0


def test_no_room_for_a_response_is_an_error():
    with pytest.raises(ValueError, match="no room"):
        PromptRollout(None, None, PROMPT, max_tokens=0, seed=(), slot=3)


def test_seeds_fit_the_engine_and_depend_on_every_part():
    seeds = {derive_seed(*parts) for parts in [(1, "a"), (1, "b"), (2, "a"), ("1", "a"), (1, ("a",)), ()]}
    assert len(seeds) == 6 and all(0 <= seed < 2**SEED_BITS for seed in seeds)
    assert derive_seed(42, "train", 0, "response", 1, 2) == 3241077502643439489


# ---- steps that the reward function values ------------------------------------------------------------------------------------


class StepGrader(ToyGrader):
    """Gives every token of a response a step of value 0.125 times its number, for texts of one character a token."""

    async def grade(self, response_ids):
        grade = await super().grade(response_ids)
        return replace(grade, steps=tuple((end, end / 8) for end in range(1, len(response_ids) + 1)))


def stepwise(model):
    job, engine = rollout(model)
    graded = PromptRollout(
        engine,
        StepGrader(model),
        PROMPT,
        max_tokens=model.max_tokens,
        seed=(1, "train", 0),
        slot=0,
        token_texts=lambda token_ids: ["\n" if token == 1 else "x" for token in token_ids],
    )
    return job, graded


@pytest.mark.parametrize("partition", [Fixed(segment_length=2), Newline()])
def test_added_rewards_change_the_advantages_by_what_they_are_and_nothing_else(partition):
    plain, graded = stepwise(toy())
    without = asyncio.run(plain.chain(4, partition, 3))
    added = asyncio.run(graded.chain(4, partition, 3, step_rule="add"))
    assert any(one.adv_T for one in without)
    for one, other in zip(without, added, strict=True):
        assert (one.boundaries, one.estimate_K) == (other.boundaries, other.estimate_K)
        if other.completion.truncated:
            assert one.adv_T == other.adv_T
            continue
        for first, last in zip(one.boundaries, one.boundaries[1:]):
            expected = sum(end / 8 for end in range(first + 1, last + 1))
            assert np.allclose(np.subtract(other.adv_T, one.adv_T)[first:last], expected)


def test_values_of_steps_replace_monte_carlo_and_nothing_is_sampled_for_them():
    _, graded = stepwise(toy())
    responses = asyncio.run(graded.chain(4, Fixed(segment_length=2), 3, step_rule="replace"))
    assert graded.counts.mc_requests == graded.counts.mc_states == graded.counts.mc_tokens == 0
    baselines = others([one.grade.reward for one in responses], None)
    for one, baseline in zip(responses, baselines, strict=True):
        inner = [] if one.completion.truncated else one.boundaries[1:-1]
        values = [baseline.mean, *(b / 8 for b in inner), one.grade.reward]
        assert [estimate.mean for estimate in one.estimate_K] == values[:-1]
        assert np.allclose([one.adv_T[b] for b in one.boundaries[:-1]], np.diff(values))


def test_option_and_reward_must_agree():
    job, graded = stepwise(toy())
    with pytest.raises(UserError, match="say what they mean: --spo.step_rewards"):
        asyncio.run(graded.chain(2, Newline(), 2))
    with pytest.raises(UserError, match='returned no "steps"'):
        asyncio.run(job.chain(8, Newline(), 2, step_rule="add"))
    steps.check_steps(TRUNCATED, "replace")
