"""Responses that go on after new weights (--train.partial_rollout_enable): parts of one policy each, one behind the other.

New weights end what is in flight where it is, and it is asked for again with what it has so far as its prefix: nothing that
the old weights computed is used by the new ones.
"""

import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from spo_rlhf.core.seeds import derive_seed
from spo_rlhf.rollout.prompt import gather
from spo_rlhf.rollout.protocol import Completion


@dataclass(frozen=True)
class Part:
    """Tokens that one policy sampled in a row. `ended`: by the policy or the token limit, not by new weights."""

    completion: Completion
    ended: bool
    version: int  # of the weights


# (state, number, most tokens, seed) -> so many parts, as `Engine.sample` gives completions
Ask = Callable[[Sequence[int], int, int, int], Awaitable[list[Part]]]


async def completions(ask: Ask, state: Sequence[int], *, n: int, max_tokens: int, seed: int) -> list[Completion]:
    """`n` whole continuations of `state`, each with the version of every token."""
    go_on = functools.partial(_to_its_end, ask, state, max_tokens)
    parts = await ask(state, n, max_tokens, seed)
    return await gather(go_on(part, derive_seed(seed, index)) for index, part in enumerate(parts))


async def _to_its_end(ask: Ask, state: Sequence[int], max_tokens: int, part: Part, seed: int) -> Completion:
    parts, tokens = [part], list(part.completion.token_ids)
    while not parts[-1].ended and len(tokens) < max_tokens:
        [part] = await ask([*state, *tokens], 1, max_tokens - len(tokens), derive_seed(seed, len(parts)))
        parts.append(part)
        tokens += part.completion.token_ids
    return joined(parts)


def joined(parts: Sequence[Part]) -> Completion:
    """The parts of one continuation as one. What new weights ended at the token limit is truncated."""
    each = [part.completion for part in parts]

    def together(name: str) -> list[float] | None:
        known = [values for one in each if (values := getattr(one, name)) is not None]
        return [value for values in known for value in values] if known else None

    return Completion(
        token_ids=[token for one in each for token in one.token_ids],
        logprobs=together("logprobs"),
        truncated=each[-1].truncated or not parts[-1].ended,
        top_logprobs=together("top_logprobs"),
        cached_tokens=each[0].cached_tokens,
        squares=together("squares"),
        versions=[part.version for part in parts for _ in part.completion.token_ids],
    )
