"""The model of cost against closed forms: equal requests, waves, trees and chains; steps that overlap; a published run."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scaling_model import (
    CACHE_BLOCK,
    EngineRate,
    Lengths,
    Request,
    Workload,
    fitted,
    generation_s,
    overlap,
    sample,
)

RATE = EngineRate(iteration_s=0.02, request_s=0.0005, prefill_s=1e-4, max_in_flight=8)


def test_equal_requests_take_an_iteration_a_token_and_come_in_waves():
    assert sample([Request(10)] * 5, RATE).seconds == pytest.approx(10 * (0.02 + 5 * 0.0005))
    waves = sample([Request(10)] * 24, RATE)
    assert waves.seconds == pytest.approx(3 * 10 * (0.02 + 8 * 0.0005)) and waves.full == 1
    assert waves.tokens == 240 and waves.tokens / waves.seconds == pytest.approx(RATE.tokens_per_second(8))


def test_prefixes_are_computed_before_and_what_follows_waits():
    after = Request(4, prefill=3)
    one = sample([Request(6, prefill=100, then=(after, after))], RATE)
    assert one.seconds == pytest.approx(106 * 1e-4 + 6 * 0.0205 + 4 * 0.021)
    assert (one.tokens, one.prefilled, one.full) == (14, 106, 0)
    assert sample([], RATE).seconds == 0


def test_the_longest_request_is_a_tail():
    """6 requests of 10 tokens and one of 100: 90 iterations are made for one request."""
    got = sample([Request(10)] * 6 + [Request(100)], RATE).seconds
    assert got == pytest.approx(10 * (0.02 + 7 * 0.0005) + 90 * 0.0205)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 9))
def test_seconds_lie_between_the_bounds_of_any_schedule(lengths, places):
    rate = EngineRate(0.02, 0.0005, 0, places)
    got = sample([Request(length) for length in lengths], rate)
    total, fewest = sum(lengths), max(max(lengths), math.ceil(sum(lengths) / places))
    assert got.tokens == total
    # Each token costs its request's seconds; iterations are as many as the fullest schedule has at least, one a token at most.
    assert 0.02 * fewest + 0.0005 * total <= got.seconds * (1 + 1e-9) and got.seconds <= 0.0205 * total * (1 + 1e-9)


def test_two_measurements_give_the_rate_that_has_them():
    rate = fitted((64, RATE.tokens_per_second(64)), (1, RATE.tokens_per_second(1)), prefill_s=0, max_in_flight=64)
    assert rate.iteration_s == pytest.approx(0.02) and rate.request_s == pytest.approx(0.0005)
    with pytest.raises(ValueError, match="each one longer"):
        fitted((1, 10.0), (2, 30.0), prefill_s=0, max_in_flight=2)


def test_lengths_have_their_mean_and_are_cut():
    draw = np.random.default_rng(0)
    assert np.mean(Lengths(200, 0.5, 10**6).draw(draw, 20000)) == pytest.approx(200, rel=0.02)
    assert set(Lengths(200, 0, 1000).draw(draw, 5)) == {200} and max(Lengths(200, 1, 250).draw(draw, 99)) == 250


def test_a_group_is_its_responses():
    batch = Workload("group", 3, 40, Lengths(100, 0, 999), responses=4).batch(np.random.default_rng(0))
    assert batch.prompts == (((Request(100, 40), *[Request(100, 40 - 32)] * 3)),) * 3
    assert (batch.samples, batch.trained_tokens, batch.distinct_tokens) == (12, 12 * 140, 3 * (40 + 400))


def test_a_chain_asks_for_continuations_from_its_borders():
    work = Workload("chain", 1, 40, Lengths(80, 0, 999), responses=2, boundaries=3, continuations=5)
    [(first, second)] = work.batch(np.random.default_rng(0)).prompts
    assert (first.prefill, second.prefill) == (40, 8)
    assert [one.tokens for one in first.then] == [60] * 5 + [40] * 5 + [20] * 5
    assert [one.prefill for one in first.then[::5]] == [60 % CACHE_BLOCK, 80 % CACHE_BLOCK, 100 % CACHE_BLOCK]
    sampled = sample((first, second), RATE)
    assert sampled.tokens == 2 * (80 + 5 * 80 * 3 / 2), "boundaries x continuations / 2 responses' lengths"


def test_a_tree_grows_level_by_level_and_trains_paths():
    work = Workload("tree", 2, 20, Lengths(50, 0, 999), branching=(3, 2), segment=20)
    batch = work.batch(np.random.default_rng(0))
    [root, *_] = batch.prompts
    assert [one.tokens for one in root] == [20] * 3 and [one.tokens for one in root[0].then] == [30] * 2
    assert [one.prefill for one in root] == [20, 4, 4], (
        "the first computes the prompt; the others its last, partial block"
    )
    assert batch.samples == 2 * (3 + 6) and batch.trained_tokens == 2 * (3 * 40 + 6 * 70)
    assert batch.distinct_tokens == 2 * (20 + 3 * 20 + 6 * 30)
    few = Workload("tree", 2, 20, Lengths(50, 0, 999), branching=(3, 2), segment=20, most_samples=9)
    half = few.batch(np.random.default_rng(0))
    assert (half.samples, half.trained_tokens) == (9, batch.trained_tokens // 2)


def test_engines_share_the_prompts_and_the_slowest_counts():
    work = Workload("group", 6, 0, Lengths(100, 0, 999), responses=2)
    batch = work.batch(np.random.default_rng(0))
    alone, busy = generation_s(batch, 1, RATE)
    assert busy == 1 and generation_s(batch, 3, RATE) == pytest.approx((100 * (0.02 + 4 * 0.0005), 1))
    assert generation_s(batch, 3, RATE)[0] < alone
    more, busy = generation_s(batch, 12, RATE)
    assert more == pytest.approx(100 * (0.02 + 2 * 0.0005)) and busy == pytest.approx(0.5), "half have no prompt"


@pytest.mark.parametrize(("generation", "training"), [(3.0, 2.0), (2.0, 3.0), (2.0, 2.0)])
@pytest.mark.parametrize("drain", [True, False])
def test_constant_steps_have_closed_forms(generation, training, drain):
    sync = 0.5
    steps = ([generation] * 40, [training] * 40, sync)
    one_by_one = overlap(*steps, ahead=0, drain=drain)
    assert one_by_one.step_s == pytest.approx(generation + training + sync)
    assert one_by_one.engine_idle == pytest.approx(1 - generation / one_by_one.step_s)
    assert one_by_one.actor_idle == pytest.approx(1 - training / one_by_one.step_s)
    one_off = overlap(*steps, ahead=1, drain=drain)
    assert one_off.step_s == pytest.approx(max(generation, training) + sync, rel=0.02)
    longer, idle = (one_off.engine_idle, one_off.actor_idle)[:: 1 if generation > training else -1]
    assert longer == pytest.approx(sync / one_off.step_s, abs=0.02) and idle >= longer - 0.02


@given(
    st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), min_size=2, max_size=12),
    st.floats(0, 2),
    st.booleans(),
)
def test_one_by_one_is_the_sum_and_no_overlap_beats_the_busier_worker(pairs, sync, drain):
    generation, training = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    rest = len(pairs) - 1
    one_by_one = overlap(generation, training, sync, ahead=0, drain=drain)
    assert one_by_one.step_s == pytest.approx(sum(generation[1:]) / rest + sum(training[1:]) / rest + sync)
    for ahead in (1, 3):
        ahead_of = overlap(generation, training, sync, ahead=ahead, drain=drain)
        assert ahead_of.step_s >= sum(training[1:]) / rest + sync - 1e-9
        assert -1e-9 <= ahead_of.engine_idle <= 1 and -1e-9 <= ahead_of.actor_idle <= 1


def test_more_ahead_evens_out_steps_of_different_lengths():
    draw = np.random.default_rng(0)
    generation, training = draw.exponential(1, 400), draw.exponential(1, 400)
    spent = [overlap(generation, training, 0.0, ahead=ahead).step_s for ahead in (0, 1, 4)]
    assert spent[0] == pytest.approx(2, rel=0.1) and spent[1] == pytest.approx(1.5, rel=0.1), "mean of the longer one"
    assert spent[2] < spent[1]


# verl's docs/advance/one_step_off.md, Qwen2.5-Math-7B: seconds of a step (synchronous: step, sampling, log-probs, update;
# one step off: sampling, log-probs, update, step). What the synchronous step has besides is taken for its rest.
PUBLISHED = {
    "FSDP2": ((749, 321, 88, 286), (458, 108, 337, 520)),
    "Megatron": ((699, 207, 119, 344), (501, 120, 347, 566)),
}


@pytest.mark.parametrize("engine", PUBLISHED)
def test_a_published_run_one_step_off_takes_what_its_phases_say(engine):
    (step, *parts), (generation, experience, update, one_off) = PUBLISHED[engine]
    got = overlap([generation] * 50, [experience + update] * 50, step - sum(parts), ahead=1)
    assert got.step_s == pytest.approx(one_off, rel=0.07)
