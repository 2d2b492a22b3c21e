"""Sample n responses to each prompt, grade them meanwhile, store each with its grade, resume where a run stopped."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from spo_rlhf.rollout.protocol import TRUNCATED, Grade
from spo_rlhf.rollout.reward import NOT_GRADED, FileReward
from spo_rlhf.sampling.engine import Request, Response, SamplingEngine
from spo_rlhf.sampling.manifest import prompt_keys, request_seed
from spo_rlhf.sampling.sample_log import SampleLog

SAMPLE_KEY = ("prompt_hash", "sample")


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as text and tokens, with what its responses are graded by.

    `id`, the row's own or else its number, is for the reader: its tokens are what its samples are found by.
    """

    id: int | str
    text: str
    label: str
    token_ids: list[int]


def own_ids(ids: Iterable[Any]) -> list[int | str]:
    """What rows are called: their own ids, or their numbers, from 0; both, N/ID, where two have one name."""
    names = [
        number if own is None else own if isinstance(own, (int, str)) else str(own) for number, own in enumerate(ids)
    ]
    if len({str(name) for name in names}) == len(names):
        return names
    return [f"{number}/{name}" for number, name in enumerate(names)]


@dataclass(frozen=True)
class Limits:
    """Responses per prompt, their longest length, and the longest prompt and response together, in tokens."""

    responses: int
    max_new_tokens: int
    max_len: int


@dataclass
class Progress:
    """Where a run stands; `tokens` and `seconds` are those of this run, without the start of the engine."""

    stored: int
    total: int
    new: int = 0
    tokens: int = 0
    reward_sum: float = 0.0
    seconds: float = 0.0
    graded_again: int = 0  # stored samples whose label, or what grades them, has changed

    @property
    def seconds_left(self) -> float:
        return self.seconds / max(self.new, 1) * (self.total - self.stored)


def sample_keys(prompts: Sequence[TokenizedPrompt], limits: Limits) -> dict[tuple, TokenizedPrompt]:
    """The key of every sample there is to be, in order, with its prompt."""
    keys = prompt_keys(prompt.token_ids for prompt in prompts)
    return {(key, sample): prompt for key, prompt in zip(keys, prompts) for sample in range(limits.responses)}


def requests(prompts: Sequence[TokenizedPrompt], limits: Limits, seed: int, known: dict[tuple, Any]) -> list[Request]:
    """Requests of the samples not in `known`. A seed follows from the run's, the prompt and the sample alone."""
    return [
        Request(
            key,
            prompt.token_ids,
            min(limits.max_new_tokens, limits.max_len - len(prompt.token_ids)),
            request_seed(seed, *key),
        )
        for key, prompt in sample_keys(prompts, limits).items()
        if key not in known
    ]


def correct_grades(
    keys: dict[tuple, TokenizedPrompt],
    reward: FileReward,
    grader: Callable[[], str],
    log: SampleLog,
    check: Callable[[], None],
) -> int:
    """Give stored samples the row number and label that their prompts have now; how many were graded again, for their label
    or because something else than `grader`, or nothing, has graded them.
    """
    graded: list[tuple[dict[str, Any], Future[Grade] | None]] = []
    before = grader()
    for key, prompt in keys.items():
        row = log.rows.get(key)
        if row is None or (row["id"], row["label"], row.get("grader")) == (prompt.id, prompt.label, before):
            continue
        again = (row["label"], row.get("grader")) != (prompt.label, before) and not row["truncated"]
        future = reward.submit(prompt.text + row["response"], prompt.text, prompt.label) if again else None
        graded.append(({**row, "id": prompt.id, "label": prompt.label, "grader": before}, future))
    for row, future in graded:
        if future is not None:
            grade = future.result()
            row |= {"reward": grade.reward, "grader": named(grader(), grade)}
        log.append(row)
        check()
    return sum(future is not None for _, future in graded)


def named(grader: str, grade: Grade) -> str | None:
    """What a stored grade is of; None where there was no answer in time."""
    return None if grade is NOT_GRADED else grader


def has_grade(row: dict[str, Any]) -> bool:
    """Whether the reward of a stored sample says something of it: it was cut, or graded in time."""
    return row["truncated"] or row["grader"] is not None


def collect(
    prompts: Sequence[TokenizedPrompt],
    limits: Limits,
    seed: int,
    start_engine: Callable[[], SamplingEngine],
    decode: Callable[[Sequence[int]], str],
    reward: FileReward,
    grader: Callable[[], str],
    log: SampleLog,
    report: Callable[[Progress], None],
    check: Callable[[], None],
) -> Progress:
    """Fill `log` with the samples that are missing, and grade those again whose label has changed, or that were not graded by
    `grader`, which names what grades behind `reward`, as far as it is known by then. A truncated response has reward 0 and is not graded.
    One whose reward had no answer in time is stored with reward 0 and without a grader, so the next call grades it again.

    `check` is called after every grade, and may raise. `start_engine` is called where something is missing, and what it returns is closed. Whatever ends this early, what
    was graded by then is in the log. Raises UserError where the reward file is at fault.
    """
    keys = sample_keys(prompts, limits)
    missing = requests(prompts, limits, seed, log.rows)
    progress = Progress(stored=len(keys) - len(missing), total=len(keys))
    progress.graded_again = correct_grades(keys, reward, grader, log, check)
    if not missing:
        return progress
    waiting: list[tuple[Response, Future[Grade] | None]] = []

    def store(*, wait: bool = False) -> None:
        ready = [entry for entry in waiting if wait or entry[1] is None or entry[1].done()]
        for entry in ready:
            response, future = entry
            grade = TRUNCATED if future is None else future.result()
            log.append(_row(keys[response.key], response, decode, grade, grader()))
            waiting.remove(entry)
            progress.stored, progress.new = progress.stored + 1, progress.new + 1
            progress.tokens += len(response.token_ids)
            progress.reward_sum += grade.reward
            check()
        progress.seconds = time.monotonic() - start
        report(progress)

    engine = start_engine()
    start = time.monotonic()
    try:
        for response in engine.generate(missing):
            prompt = keys[response.key]
            future = None
            if response.finished:
                future = reward.submit(prompt.text + decode(response.token_ids), prompt.text, prompt.label)
            waiting.append((response, future))
            store()
        store(wait=True)
    finally:
        engine.close()
    return progress


def _row(
    prompt: TokenizedPrompt, response: Response, decode: Callable[[Sequence[int]], str], grade: Grade, grader: str
) -> dict[str, Any]:
    return {
        "id": prompt.id,
        "prompt_hash": response.key[0],
        "sample": response.key[1],
        "prompt": prompt.text,
        "label": prompt.label,
        "response": decode(response.token_ids),
        "reward": grade.reward,
        "truncated": not response.finished,
        "tokens": len(response.token_ids),
        "grader": named(grader, grade),
    }
