"""Sample n responses to each prompt, grade them meanwhile, store each with its grade, resume where a run stopped."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from spo_rlhf.core.seeds import derive_seed
from spo_rlhf.rollout.protocol import TRUNCATED, Grade
from spo_rlhf.rollout.reward import FileReward
from spo_rlhf.sampling.engine import Request, Response, SamplingEngine
from spo_rlhf.sampling.sample_log import SampleLog

SAMPLE_KEY = ("id", "sample")


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as text and tokens, with what its responses are graded by. `id`: the number of its row in the data."""

    id: int
    text: str
    label: str
    token_ids: list[int]


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

    @property
    def seconds_left(self) -> float:
        return self.seconds / max(self.new, 1) * (self.total - self.stored)


def requests(prompts: Sequence[TokenizedPrompt], limits: Limits, seed: int, known: dict[tuple, Any]) -> list[Request]:
    """Requests of the samples not in `known`. A seed follows from the run's, the prompt and the sample alone."""
    return [
        Request(
            (prompt.id, sample),
            prompt.token_ids,
            min(limits.max_new_tokens, limits.max_len - len(prompt.token_ids)),
            derive_seed(seed, "sample", prompt.id, sample),
        )
        for prompt in prompts
        for sample in range(limits.responses)
        if (prompt.id, sample) not in known
    ]


def collect(
    prompts: Sequence[TokenizedPrompt],
    limits: Limits,
    seed: int,
    start_engine: Callable[[], SamplingEngine],
    decode: Callable[[Sequence[int]], str],
    reward: FileReward,
    log: SampleLog,
    report: Callable[[Progress], None],
) -> Progress:
    """Fill `log` with the samples that are missing. A truncated response has reward 0 and is not graded.

    `start_engine` is called where something is missing, and what it returns is closed. Whatever ends this early, what
    was graded by then is in the log. Raises UserError where the reward file is at fault.
    """
    missing = requests(prompts, limits, seed, log.rows)
    progress = Progress(stored=len(log.rows), total=len(log.rows) + len(missing))
    if not missing:
        return progress
    of_id = {prompt.id: prompt for prompt in prompts}
    waiting: list[tuple[Response, Future[Grade] | None]] = []

    def store(*, wait: bool = False) -> None:
        ready = [entry for entry in waiting if wait or entry[1] is None or entry[1].done()]
        for entry in ready:
            response, future = entry
            grade = TRUNCATED if future is None else future.result()
            log.append(_row(of_id[response.key[0]], response, decode, grade.reward))
            waiting.remove(entry)
            progress.stored, progress.new = progress.stored + 1, progress.new + 1
            progress.tokens += len(response.token_ids)
            progress.reward_sum += grade.reward
        progress.seconds = time.monotonic() - start
        report(progress)

    engine = start_engine()
    start = time.monotonic()
    try:
        for response in engine.generate(missing):
            prompt = of_id[response.key[0]]
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
    prompt: TokenizedPrompt, response: Response, decode: Callable[[Sequence[int]], str], reward: float
) -> dict[str, Any]:
    return {
        "id": prompt.id,
        "sample": response.key[1],
        "prompt": prompt.text,
        "label": prompt.label,
        "response": decode(response.token_ids),
        "reward": reward,
        "truncated": not response.finished,
        "tokens": len(response.token_ids),
    }
