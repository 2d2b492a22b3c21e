"""Grading in worker processes with hard limits."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from spo_rlhf import plugins
from spo_rlhf.graders import algebra
from spo_rlhf.graders.extract import MAX_OUTPUT_CHARS
from spo_rlhf.graders.kinds import KINDS
from spo_rlhf.graders.verdict import Mode, Question, Verdict
from spo_rlhf.host import code
from spo_rlhf.host.pool import TaskError, WorkerPool

TIMEOUT_S = 5.0
MEMORY_BYTES = 2 << 30


class Grader:
    """Grades in worker processes. No output can hang it: past the limits an answer is wrong, with the reason.

    Works from any thread and any kind of Ray actor. Use as a context manager, or call `close`.
    """

    def __init__(
        self, workers: int | None = None, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self._used: set[str] = set()
        self._written: set[str] = set()
        self._telling = threading.Lock()
        self._pool = WorkerPool(start_worker, workers or max(1, (os.cpu_count() or 2) - 1), timeout_s, memory_bytes)

    def submit(self, question: Question, output: str, mode: Mode = "strict") -> Future:
        """A future of a `Verdict`; it raises only if the pool is closed before the answer is graded.

        Raises ValueError for an unknown mode or kind of answer.
        """
        grade = KINDS.choose(question.kind).in_mode(mode)
        if len(output) > MAX_OUTPUT_CHARS:  # not worth sending
            output = output[: MAX_OUTPUT_CHARS + 1]
        graded: Future = Future()
        graded.set_running_or_notify_cancel()
        done = self._pool.submit(_grade_and_tell, grade, question, output)
        done.add_done_callback(lambda done: self._settle(graded, done))
        return graded

    def grade(self, question: Question, output: str, mode: Mode = "strict") -> Verdict:
        """`submit` and wait."""
        return self.submit(question, output, mode).result()

    def files(self) -> set[Path]:
        """What has graded by now: modules of the user's and of this project, and files that they read."""
        with self._telling:
            return {Path(file) for file in self._used - self._written}

    def _settle(self, graded: Future, done: Future) -> None:
        """Hand on the verdict of a worker. Runs in the pool's threads."""
        error = done.exception()
        if error is None:
            verdict, (used, written) = done.result()
            with self._telling:
                self._used |= used
                self._written |= written
            graded.set_result(verdict)
        elif isinstance(error, TaskError):
            graded.set_result(Verdict(False, None, str(error)))
        else:
            graded.set_exception(error)

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_worker() -> None:
    """What a worker does before its first answer: load the user's files, and the computer algebra."""
    code.watch()
    plugins.load_from_environment()
    algebra.warm_up()


def _grade_and_tell(
    grade: Callable[[Question, str], Verdict], question: Question, output: str
) -> tuple[Verdict, tuple[set[str], set[str]]]:
    return grade(question, output), code.used()
