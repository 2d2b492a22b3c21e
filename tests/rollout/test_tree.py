"""The tree sampler on a tabular model: which nodes it grows, when, and what they hold."""

import asyncio
import math
import random

import numpy as np
import pytest

from spo_rlhf.core import tree as core
from spo_rlhf.core.partition import Cutpoint
from spo_rlhf.core.tree import TreeShape
from spo_rlhf.core.tree_cuts import AtBoundaries
from spo_rlhf.rollout.toy_engine import ToyEngine, ToyGrader, ToyLanguageModel
from spo_rlhf.rollout.tree import TreeRollout

PROMPT = [7, 7, 7]


def toy(max_tokens=7, seed=0):
    return ToyLanguageModel(3, max_tokens, lambda response: float(sum(response) % 2), seed)


def grow(model, shape, *, seed=(1, "train", 0), **engine_options):
    engine = ToyEngine(model, len(PROMPT), **engine_options)
    job = TreeRollout(engine, ToyGrader(model), PROMPT, max_tokens=model.max_tokens, seed=seed, slot=0)
    return asyncio.run(job.grow(shape)), job, engine


SHAPES = [TreeShape((3, 2, 2), (2,)), TreeShape((2, 3, 2), (1, 3)), TreeShape((4,), ()), TreeShape((1, 2, 1, 3), (1,))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("model_seed", range(3))
def test_every_node_is_what_the_shape_says(shape, model_seed):
    model = toy(seed=model_seed)
    grown, job, engine = grow(model, shape)
    child_lists = core.children(grown.parent_N)
    assert len(child_lists[0]) == shape.branching[0]
    for node in range(1, len(grown)):
        level, tokens = len(grown.path(node)), grown.tokens(node)
        response = grown.prefix(node) + tokens
        limit = shape.limit(level - 1)
        ended = tokens[-1] == 0
        assert limit is None or len(tokens) <= limit
        if child_lists[node]:
            assert not ended and len(tokens) == limit and len(child_lists[node]) == shape.branching[level]
            assert np.isnan(grown.reward_N[node])
        else:
            assert ended or len(response) == model.max_tokens
            assert grown.reward_N[node] == model.final_reward(response)
            assert grown.truncated_N[node] == (not ended)
        expected = [np.log(model.probabilities(response[:t])[response[t]]) for t in range(len(response))]
        assert grown.logprobs(node) == pytest.approx(expected[-len(tokens) :])
    most = sum(math.prod(shape.branching[: level + 1]) for level in range(len(shape.branching)))
    assert len(grown) - 1 <= most
    assert len(engine.requests) == sum(map(bool, child_lists)), "the children of a node are one request"
    assert sum(n for _, n, _ in engine.requests) == len(grown) - 1 == job.counts.nodes
    assert job.counts.responses == len(grown.leaves()) and job.counts.response_tokens == len(grown.token_S)


def test_a_node_knows_the_most_likely_tokens_where_the_engine_brings_them():
    model = toy()
    grown, *_ = grow(model, SHAPES[0], by_state=True)
    for node in range(1, len(grown)):
        before, tokens = grown.prefix(node), grown.tokens(node)
        expected = [np.log(model.probabilities(before + tokens[:t]).max()) for t in range(len(tokens))]
        assert grown.top_logprobs(node) == pytest.approx(expected)
    assert grow(model, SHAPES[0])[0].top_logprobs(1) is None


def test_no_two_requests_share_a_seed():
    _, _, engine = grow(toy(), SHAPES[0])
    seeds = [seed for _, n, seed in engine.requests]
    assert len(set(seeds)) == len(seeds)


def test_the_order_of_the_answers_does_not_matter():
    rng = random.Random(0)
    one, *_ = grow(toy(), SHAPES[0])
    two, *_ = grow(toy(), SHAPES[0], delay=lambda prefix: rng.random() / 100)
    np.testing.assert_array_equal(one.reward_N, two.reward_N)
    assert {**vars(one), "reward_N": 0} == {**vars(two), "reward_N": 0}
    other, *_ = grow(toy(), SHAPES[0], seed=(1, "train", 1))
    assert other.token_S != one.token_S


def before_the_slow_answer(length, shape, cuts=None):
    """Prefixes asked for before the first request behind a prefix of this length is answered, which is the slow one."""
    asked, slow, before = [], [], []

    def delay(prefix):
        asked.append(tuple(prefix))
        if len(prefix) == length and not slow:
            slow.append(len(asked))
            return 0.2
        return 0.0

    class Engine(ToyEngine):
        async def sample(self, state, **options):
            mine = len(asked) + 1
            completions = await super().sample(state, **options)
            if slow == [mine]:
                before.extend(asked)
            return completions

    model = toy(max_tokens=9, seed=1)
    job = TreeRollout(
        Engine(model, len(PROMPT), delay=delay), ToyGrader(model), PROMPT, max_tokens=9, seed=(1,), slot=0
    )
    asyncio.run(job.grow(shape, cuts))
    return before


def test_a_child_of_a_partition_is_expanded_while_its_siblings_are_still_sampled():
    cuts = AtBoundaries(partition=Cutpoint(interval=1, threshold=0.9))
    asked = before_the_slow_answer(0, TreeShape((3, 2, 2), (1,)), cuts)
    assert sum(len(prefix) > 0 for prefix in asked) >= 2


def test_a_node_is_expanded_while_others_of_its_level_are_still_sampled():
    """The children of the first child are slow; those of the second one have children of their own by then."""
    asked = before_the_slow_answer(1, TreeShape((3, 2, 2), (1,)))
    assert sum(len(prefix) == 2 for prefix in asked) >= 2


def test_a_failing_request_ends_the_whole_tree():
    def fault(prefix):
        if len(prefix) == 2:
            raise RuntimeError("engine died")

    model = toy(seed=1)
    engine = ToyEngine(model, len(PROMPT), fault=fault)
    job = TreeRollout(engine, ToyGrader(model), PROMPT, max_tokens=7, seed=(1,), slot=0)

    async def main():
        with pytest.raises(RuntimeError, match="engine died"):
            await job.grow(SHAPES[0])
        return engine.in_flight

    assert asyncio.run(main()) == 0


@pytest.mark.parametrize(
    ("branching", "lengths"),
    [((), (1,)), ((1, 1), (1,)), ((2, 0), (1,)), ((2, 2), ()), ((2, 2, 2), (0,)), ((2, 2), (1, 1))],
)
def test_what_is_no_shape_is_refused(branching, lengths):
    with pytest.raises(ValueError, match="branching needs|segment lengths are"):
        TreeShape(branching, lengths)


@pytest.mark.parametrize("by_state", [False, True])
@pytest.mark.parametrize("model_seed", range(3))
def test_a_partition_cuts_nodes_and_the_rest_is_the_first_child(model_seed, by_state):
    model, shape = toy(max_tokens=9, seed=model_seed), TreeShape((3, 2, 3), (1,))
    cuts = AtBoundaries(partition=Cutpoint(interval=1, threshold=0.9))
    engine = ToyEngine(model, len(PROMPT), by_state=by_state)
    job = TreeRollout(engine, ToyGrader(model), PROMPT, max_tokens=9, seed=(1, "train", 0), slot=0)
    grown = asyncio.run(job.grow(shape, cuts))
    child_lists, inner = core.children(grown.parent_N), 0
    for node in range(1, len(grown)):
        level = len(grown.path(node))
        response = grown.prefix(node) + grown.tokens(node)
        expected = [np.log(model.probabilities(response[:t])[response[t]]) for t in range(len(response))]
        assert grown.logprobs(node) == pytest.approx(expected[-len(grown.tokens(node)) :])
        if not child_lists[node]:
            assert response[-1] == 0 or len(response) == model.max_tokens
            assert grown.reward_N[node] == model.final_reward(response)
            continue
        inner += 1
        assert len(child_lists[node]) == shape.branching[level]
        # The cut is the partition's of the response that goes on with the first children.
        path, rest = grown.tokens(node), grown.top_logprobs(node) or grown.logprobs(node)
        below = node
        while child_lists[below]:
            below = child_lists[below][0]
            path, rest = path + grown.tokens(below), rest + (grown.top_logprobs(below) or grown.logprobs(below))
        assert cuts.end(np.exp(rest), None) == len(grown.tokens(node))
    assert inner > 0, "some nodes are cut"
    # The first child of a node came with it.
    assert len(engine.requests) == len(grown) - 1 - inner
    assert job.counts.response_tokens == len(grown.token_S) and job.counts.nodes == len(grown) - 1
