"""What sampling and training cost in seconds, from rates and token counts: a queue of requests, and two workers that overlap.

A model, checked against closed forms and against a published run in tests/benchmarks/test_scaling_model.py. Nothing is measured
here; `scaling.py` feeds it, and docs/scaling.md says with what.

    engine    an iteration gives every request in flight a token and takes  iteration_s + requests x request_s;  a request waits
              for a place, then its prefix is computed as far as no cache holds it; what follows from it is asked when it ends
    overlap   the actor trains batch k while the engines sample batch k + 1, with a bound on how far ahead they are

Letters: S steps. Seconds and tokens throughout.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

#: Tokens of a block of vLLM's prefix cache: what fills none is computed again for every request.
CACHE_BLOCK = 16


@dataclass(frozen=True)
class EngineRate:
    """How fast one engine is. max_in_flight: requests that its KV cache, or its limit of sequences, has room for."""

    iteration_s: float
    request_s: float
    prefill_s: float  # a token
    max_in_flight: int

    def tokens_per_second(self, in_flight: int) -> float:
        """Of all requests together, with so many in flight."""
        return in_flight / (self.iteration_s + in_flight * self.request_s)


def fitted(few: tuple[int, float], many: tuple[int, float], *, prefill_s: float, max_in_flight: int) -> EngineRate:
    """The rate that two measurements say: (requests in flight, tokens per second of all of them).

    Raises ValueError where an iteration with more requests takes less time than one with fewer.
    """
    (few_n, few_rate), (many_n, many_rate) = sorted((few, many))
    request_s = (many_n / many_rate - few_n / few_rate) / (many_n - few_n)
    iteration_s = few_n / few_rate - few_n * request_s
    if request_s < 0 or iteration_s < 0:
        raise ValueError(f"{few} and {many}: no iteration has these speeds, each one longer with more requests")
    return EngineRate(iteration_s, request_s, prefill_s, max_in_flight)


@dataclass(frozen=True)
class Request:
    """Tokens to sample, prefix tokens that no cache holds, and the requests that follow once it has ended."""

    tokens: int
    prefill: int = 0
    then: tuple["Request", ...] = ()


def again(prefix: int, *, first: bool = False) -> int:
    """Tokens of a prefix that are computed: all for the `first` with it, else those that fill no block of the cache."""
    return prefix if first else prefix % CACHE_BLOCK


@dataclass(frozen=True)
class Sampled:
    """What an engine did until nothing was left. full: share of the iterations' seconds with every place taken."""

    seconds: float
    tokens: int
    prefilled: int
    full: float


def sample(requests: Iterable[Request], rate: EngineRate) -> Sampled:
    """One engine works off the requests, first come first served, and what follows from them."""
    waiting, flying = deque(requests), []
    number, clock, seconds, full, tokens, prefilled = itertools.count(), 0, 0.0, 0.0, 0, 0
    while waiting or flying:
        while waiting and len(flying) < rate.max_in_flight:
            one = waiting.popleft()
            prefilled += one.prefill
            tokens += one.tokens
            heapq.heappush(flying, (clock + one.tokens, next(number), one))
        end = flying[0][0]
        took = (end - clock) * (rate.iteration_s + len(flying) * rate.request_s)
        seconds += took
        full += took * (len(flying) >= rate.max_in_flight)
        clock = end
        while flying and flying[0][0] == end:
            waiting.extend(heapq.heappop(flying)[2].then)
    share = full / seconds if seconds else 0.0
    return Sampled(seconds + prefilled * rate.prefill_s, tokens, prefilled, share)


@dataclass(frozen=True)
class Lengths:
    """Lengths of responses: lognormal with this mean and deviation over mean, before they are cut at `longest`."""

    mean: float
    spread: float
    longest: int

    def draw(self, generator: np.random.Generator, number: int) -> list[int]:
        """So many lengths, 1 token at least."""
        variance = math.log1p(self.spread**2)
        drawn = np.exp(generator.normal(math.log(self.mean) - variance / 2, math.sqrt(variance), number))
        return [int(length) for length in np.clip(np.round(drawn), 1, self.longest)]


@dataclass(frozen=True)
class Batch:
    """Work of one step: requests by prompt, and tokens of the samples that are trained, with their prefixes.

    distinct: the same where each prefix stands once (--spo.pack_trees).
    """

    prompts: tuple[tuple[Request, ...], ...]
    samples: int
    trained_tokens: int
    distinct_tokens: int


@dataclass(frozen=True)
class Workload:
    """Prompts of a step and what each asks for. method: "group", "chain" or "tree".

    chain: `boundaries` inner borders of a response, equally far, with `continuations` from each. tree: `branching` children by
    level, `segment` tokens a node, the last level to the end; of its nodes at most `most_samples` of the batch are trained.
    """

    method: str
    prompts: int
    prompt_tokens: int
    lengths: Lengths
    responses: int = 1
    boundaries: int = 0
    continuations: int = 0
    branching: tuple[int, ...] = ()
    segment: int = 0
    most_samples: int | None = None

    def batch(self, generator: np.random.Generator) -> Batch:
        """One step's work, its lengths drawn."""
        asked, samples, tokens, distinct = [], 0, 0, 0
        for _ in range(self.prompts):
            requests, lengths_N, prompt_distinct = self._of_a_prompt(generator)
            asked.append(requests)
            samples += len(lengths_N)
            tokens += sum(lengths_N)
            distinct += prompt_distinct
        trained = min(samples, self.most_samples or samples)
        # Which nodes are trained is not known before: those that are count as the mean of all.
        share = trained / samples
        return Batch(tuple(asked), trained, round(share * tokens), round(share * distinct))

    def _of_a_prompt(self, generator: np.random.Generator) -> tuple[tuple[Request, ...], list[int], int]:
        """Requests, tokens of each sample with its prefix, and distinct tokens of all of them."""
        if self.method == "tree":
            lengths_N: list[int] = []
            total = [self.prompt_tokens]
            return tuple(self._children(generator, 0, self.prompt_tokens, lengths_N, total)), lengths_N, total[0]
        lengths = self.lengths.draw(generator, self.responses)
        requests = [
            Request(length, again(self.prompt_tokens, first=number == 0), tuple(self._values(generator, length)))
            for number, length in enumerate(lengths)
        ]
        return tuple(requests), [self.prompt_tokens + one for one in lengths], self.prompt_tokens + sum(lengths)

    def _values(self, generator: np.random.Generator, length: int) -> Iterator[Request]:
        """Continuations from the inner borders: what is left of a response of a new length, in the same proportion."""
        for border in range(1, self.boundaries + 1):
            share = border / (self.boundaries + 1)
            prefill = again(self.prompt_tokens + int(share * length))
            for left in self.lengths.draw(generator, self.continuations):
                yield Request(max(1, round((1 - share) * left)), prefill)

    def _children(
        self, generator: np.random.Generator, level: int, before: int, lengths_N: list[int], total: list[int]
    ) -> Iterator[Request]:
        """A node's children and what follows; adds the tokens of each node's path, and the distinct ones to `total`."""
        last = level + 1 == len(self.branching)
        for place, whole in enumerate(self.lengths.draw(generator, self.branching[level])):
            length = max(1, whole - (before - self.prompt_tokens)) if last else self.segment
            lengths_N.append(before + length)
            total[0] += length
            prefill = again(before, first=level == place == 0)
            then = () if last else tuple(self._children(generator, level + 1, before + length, lengths_N, total))
            yield Request(length, prefill, then)


def generation_s(batch: Batch, engines: int, rate: EngineRate) -> tuple[float, float]:
    """Seconds until the last engine is done, prompts dealt out in turn; and the mean of all engines over that."""
    seconds = [
        sample(itertools.chain.from_iterable(batch.prompts[first::engines]), rate).seconds for first in range(engines)
    ]
    longest = max(seconds)
    return longest, sum(seconds) / (len(seconds) * longest) if longest else 1.0


@dataclass(frozen=True)
class Overlap:
    """Seconds a step once the first is trained, and the shares of that time in which engines and actor do nothing."""

    step_s: float
    engine_idle: float
    actor_idle: float


def overlap(
    generation_S: Sequence[float], training_S: Sequence[float], sync_s: float, *, ahead: int, drain: bool = False
) -> Overlap:
    """Steps in which sampling of a batch may begin while `ahead` earlier batches have not reached the engines' weights.

    0 ahead is synchronous, 1 one step off. Batches are sampled one after another and trained in that order; weights go over
    when a batch is trained, with engines paused, or with `drain` when the batch that is being sampled is whole. In that
    time neither samples nor trains. Constant seconds g, t, s give g + t + s for 0 and max(g, t) + s for 1.
    """
    steps = len(generation_S)
    begun = sampled = trained = 0
    sampling = training = math.inf  # seconds left; inf: nothing is done
    now, first, busy = 0.0, 0.0, [0.0, 0.0]
    while trained < steps:
        if sampling == math.inf and begun < steps and begun - trained <= ahead:
            sampling, begun = generation_S[begun], begun + 1
        if training == math.inf and sampled > trained:
            training = training_S[trained]
        took = min(left for left in (sampling, training) if left > 0)
        if trained:  # what comes before is the start
            busy[0] += took * (sampling < math.inf)
            busy[1] += took * (0 < training < math.inf)
        now, sampling, training = now + took, sampling - took, max(0.0, training - took)
        if sampling <= 0:
            sampling, sampled = math.inf, sampled + 1
        if training == 0 and not (drain and sampling < math.inf):
            now, training, trained = now + sync_s, math.inf, trained + 1
            first = now if trained == 1 else first
    spent = now - first
    if steps < 2 or not spent:
        raise ValueError("overlap needs two steps that take time")
    return Overlap(spent / (steps - 1), 1 - busy[0] / spent, 1 - busy[1] / spent)
