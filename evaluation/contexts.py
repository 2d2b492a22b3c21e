"""Every context length from one pass.

A causal model's first n tokens do not depend on the limit it runs under, so a response cut after n tokens is
distributed as a response of a run with limit n. One generation at the longest context therefore gives the score at
every shorter one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spo_rlhf.errors import UserError
from spo_rlhf.graders.verdict import MODES

Budget = Literal["total", "response"]
CURVE_POINTS_PER_DOUBLING = 2
CURVE_SHORTEST = 64


@dataclass(frozen=True)
class Cut:
    """A response under a context limit: the tokens and characters that remain, and whether the limit stopped it."""

    context: int
    tokens: int
    chars: int
    truncated: bool


def response_budget(context: int, prompt_tokens: int, budget: Budget) -> int:
    """Response tokens that a context leaves, at least 0. "total" counts the prompt, as the paper's runs did."""
    return max(0, context - prompt_tokens) if budget == "total" else context


def curve_contexts(contexts: Sequence[int]) -> list[int]:
    """The given contexts, and for a curve a grid below the longest, CURVE_POINTS_PER_DOUBLING to a doubling."""
    grid, length = set(contexts), float(max(contexts))
    while length >= CURVE_SHORTEST:
        grid.add(round(length))
        length /= 2 ** (1 / CURVE_POINTS_PER_DOUBLING)
    return sorted(grid)


def cut_response(
    token_ids: Sequence[int],
    text: str,
    finished: bool,
    prompt_tokens: int,
    contexts: Sequence[int],
    budget: Budget,
    decode: Callable[[Sequence[int]], str],
) -> list[Cut]:
    """The response under each context limit.

    Args:
        token_ids: T response tokens, the end-of-text token included if it was sampled.
        text: the whole response.
        finished: the model ended the response by itself.
        decode: token ids to text; called on prefixes.
    """
    cuts = []
    for context in contexts:
        room = response_budget(context, prompt_tokens, budget)
        if room >= len(token_ids):
            cuts.append(Cut(context, len(token_ids), len(text), not finished))
        else:
            cuts.append(Cut(context, room, _common_prefix(decode(token_ids[:room]), text), True))
    return cuts


def _common_prefix(start: str, text: str) -> int:
    """Characters of `text` that `start` agrees with: a character cut in the middle of its bytes does not count."""
    if text.startswith(start):
        return len(start)
    return next(i for i, (a, b) in enumerate(zip(start + "\0", text + "\1")) if a != b)


def grades_needed(cuts: Sequence[Cut]) -> dict[int, Cut]:
    """One cut per distinct text, by its length in characters: contexts that show the same text share their grades."""
    return {cut.chars: cut for cut in cuts}


def check_graded(file: Path, rows: Iterable[dict[str, Any]], contexts: Sequence[int], separate: bool) -> None:
    """Stored samples have their grades in every mode under every limit that they are to be graded at.

    Args:
        file: of the samples, for the message.
        contexts: those limits; of samples of `separate` contexts, each its own alone.

    Raises:
        UserError: one has not, so the results would leave it out or be made of something else.
    """
    for row in rows:
        grades = row.get("grades")
        wanted = [row["context"]] if separate else contexts
        if not isinstance(grades, dict) or not all(_is_whole(grades.get(str(context))) for context in wanted):
            raise UserError(
                f"{file}: sample {row['sample']} of problem {row.get('id')} has not the grades of the limits "
                f"{', '.join(map(str, wanted))}; remove its line, and it is sampled again by the same `run`"
            )


def _is_whole(cut: Any) -> bool:
    """What `as_rows` stores of one context."""
    if not isinstance(cut, dict) or not all(isinstance(cut.get(name), int) for name in ("tokens", "chars")):
        return False
    return all(isinstance(cut.get(mode), dict) and isinstance(cut[mode].get("correct"), bool) for mode in MODES)


def as_rows(cuts: Sequence[Cut], grades: dict[int, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is stored per context: tokens, characters, truncated, and the grades by mode."""
    return {
        str(cut.context): {"tokens": cut.tokens, "chars": cut.chars, "truncated": cut.truncated, **grades[cut.chars]}
        for cut in cuts
    }
