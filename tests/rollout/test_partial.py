"""Responses that go on after new weights: every token is there once, with its policy, whatever ended it where."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.rollout.partial import Part, completions, joined
from spo_rlhf.rollout.protocol import Completion

WHOLE = [5, 6, 7, 8, 0]


class Weights:
    """An engine whose policy of version v has log-prob -v; new weights come after so many tokens each, the last to stay."""

    def __init__(self, after: list[int], end: int | None = 0):
        self.after, self.end, self.version = list(after), end, 3
        self.asked = []

    async def ask(self, state, n, max_tokens, seed):
        self.asked.append((list(state), n, max_tokens, seed))
        return [self.part(list(state)[1:], max_tokens) for _ in range(n)]

    def part(self, done, max_tokens):
        stop = self.after.pop(0) if self.after else len(WHOLE)
        token_ids = WHOLE[len(done) : len(done) + min(stop, max_tokens)]
        ended = len(done) + len(token_ids) == len(WHOLE) or (len(token_ids) == max_tokens and stop > max_tokens)
        version, self.version = self.version, self.version + (not ended)
        truncated = ended and token_ids[-1] != self.end
        logprobs = [-float(version)] * len(token_ids)
        return Part(Completion(token_ids, logprobs, truncated, top_logprobs=logprobs), ended, version)


def sampled(weights: Weights, max_tokens: int = 9, n: int = 1) -> list[Completion]:
    return asyncio.run(completions(weights.ask, [1], n=n, max_tokens=max_tokens, seed=7))


def test_without_new_weights_it_is_the_request_itself():
    weights = Weights([])
    [one] = sampled(weights)
    assert weights.asked == [([1], 1, 9, 7)]
    assert (one.token_ids, one.versions, one.truncated) == (WHOLE, [3] * 5, False)


def test_it_goes_on_where_it_was_with_what_is_left_of_its_length():
    weights = Weights([2, 0, 1])
    [one] = sampled(weights)
    assert (one.token_ids, one.versions) == (WHOLE, [3, 3, 5, 6, 6])
    assert one.logprobs == one.top_logprobs == [-3.0, -3.0, -5.0, -6.0, -6.0]
    assert [(state[1:], length) for state, _, length, _ in weights.asked] == [
        ([], 9),
        ([5, 6], 7),
        ([5, 6], 7),
        ([5, 6, 7], 6),
    ]
    seeds = [seed for *_, seed in weights.asked]
    assert len(set(seeds)) == 4, "a seed again would draw the same numbers again"


@given(st.lists(st.integers(0, 3), max_size=6), st.integers(1, 7))
def test_no_token_is_lost_or_doubled(after, max_tokens):
    [one] = sampled(Weights(after), max_tokens)
    assert one.token_ids == WHOLE[:max_tokens] and one.truncated == (max_tokens < len(WHOLE))
    assert one.versions is not None and one.logprobs is not None and one.versions == sorted(one.versions)
    assert len(one.versions) == len(one.logprobs) == len(one.token_ids)


def test_what_new_weights_ended_at_the_limit_is_truncated():
    one = joined([Part(Completion([5, 6], [-1.0, -1.0], False), False, 3)])
    assert one.truncated and one.versions == [3, 3] and one.top_logprobs is None
    diagnosed = joined([Part(Completion([5], [-1.0], False, [-0.5], squares=[0.25]), True, 3)])
    assert (diagnosed.top_logprobs, diagnosed.squares) == ([-0.5], [0.25]), "all that was asked for"


@pytest.mark.parametrize("n", [1, 3])
def test_several_go_on_one_by_one(n):
    weights = Weights([1] * n)
    found = sampled(weights, n=n)
    assert [one.token_ids for one in found] == [WHOLE] * n
    assert len({seed for *_, seed in weights.asked}) == n + 1, "each by its own seed"
