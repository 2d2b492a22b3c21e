"""Grade a model's output against the right answer: `Grader` in worker processes with hard limits, `grade_here` in this
process.

Modes:
    strict: the training reward and the headline score. Only a `\\boxed{}` or "####" answer outside an unfinished
        thought counts.
    lenient: the extraction of the harness behind published tables (lighteval's extractive match): a box if there is
        one, else the last expression anywhere in the text, truncated or not.
"""

import os
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from spo_rlhf.graders.extract import MAX_OUTPUT_CHARS, extract
from spo_rlhf.graders.pool import TaskError, WorkerPool

Mode = Literal["strict", "lenient"]
MODES: tuple[Mode, ...] = ("strict", "lenient")
Kind = Literal["math", "roles"]
TIMEOUT_S = 5.0
MEMORY_BYTES = 2 << 30
LENIENT_DIGITS = 5


@dataclass(frozen=True)
class Grade:
    """`extracted` is the answer found in the output, None where there is none; `reason` says in a few words why it is
    (not) correct.
    """

    correct: bool
    extracted: str | None
    reason: str


def grade_here(
    gold: str,
    output: str,
    problem: str | None = None,
    mode: Mode = "strict",
    in_thought: bool = False,
    kind: Kind = "math",
) -> Grade:
    """Grade in this process, without limits on time: for trusted text, or inside a worker.

    Args:
        gold: the right answer; a `\\boxed{}` or "####" in it is looked into.
        output: everything the model wrote.
        problem: the problem, to refuse answers copied from it (strict).
        in_thought: the prompt ended with an open thought, so nothing counts before its end (strict).
        kind: "math", or "roles" for knights and knaves, where the gold lists "NAME is a knight" and so on.
    """
    from spo_rlhf.graders import compare, lenient, roles

    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    if kind == "roles":
        return roles.grade(gold, output, mode == "strict", in_thought)
    if mode == "lenient":
        return lenient.grade(gold, output)
    found = extract(output, in_thought)
    if found.answer is None:
        return Grade(False, None, found.reason)
    gold = gold_answer(gold)
    correct, reason = compare.equal_answers(gold, found.answer, problem)
    if (
        not correct
        and len(found.parts) > 1
        and all(compare.equal_answers(gold, part, problem)[0] for part in found.parts)
    ):
        correct, reason = True, "equal"  # the same value boxed in two forms
    return Grade(correct, found.answer[: compare.MAX_SHOWN_CHARS], reason)


def gold_answer(gold: str) -> str:
    """The answer inside a gold text: what is boxed or after "####", else the whole."""
    if "boxed" in gold or "####" in gold:
        return extract(gold).answer or gold
    return gold


class Grader:
    """Grades in worker processes. No output can hang it: past the limits an answer is wrong, with the reason.

    Works from any thread and any kind of Ray actor. Use as a context manager, or call `close`.
    """

    def __init__(
        self, workers: int | None = None, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        from spo_rlhf.graders import algebra

        self._pool = WorkerPool(algebra.warm_up, workers or max(1, (os.cpu_count() or 2) - 1), timeout_s, memory_bytes)

    def submit(
        self,
        gold: str,
        output: str,
        problem: str | None = None,
        mode: Mode = "strict",
        in_thought: bool = False,
        kind: Kind = "math",
    ) -> Future:
        """A future of a `Grade`; it raises only if the pool is closed before the answer is graded."""
        if len(output) > MAX_OUTPUT_CHARS:  # not worth sending
            output = output[: MAX_OUTPUT_CHARS + 1]
        graded: Future = Future()
        graded.set_running_or_notify_cancel()
        done = self._pool.submit(grade_here, gold, output, problem, mode, in_thought, kind)
        done.add_done_callback(lambda done: _settle(graded, done))
        return graded

    def grade(
        self,
        gold: str,
        output: str,
        problem: str | None = None,
        mode: Mode = "strict",
        in_thought: bool = False,
        kind: Kind = "math",
    ) -> Grade:
        """`submit` and wait."""
        return self.submit(gold, output, problem, mode, in_thought, kind).result()

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _settle(graded: Future, done: Future) -> None:
    error = done.exception()
    if error is None:
        graded.set_result(done.result())
    elif isinstance(error, TaskError):
        graded.set_result(Grade(False, None, str(error)))
    else:
        graded.set_exception(error)
