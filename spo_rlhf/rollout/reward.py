"""Rewards in a pool of processes, each with a time limit; never in the event loop of the engine."""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.pool import TaskTimeout, WorkerDied, WorkerPool
from spo_rlhf.host.rows import label_text
from spo_rlhf.rollout import reward_worker
from spo_rlhf.rollout.protocol import Grade

IMPORT_LIMIT_S = 60.0  # for the reward file to be imported
# For an address: a server lets requests wait for their turn, which a time of one reward does not know of.
ADDRESS_LIMIT_S = 180.0
AT_LEAST = 64  # rewards that a share is taken of: one slow start among few is no reason to stop
NOT_GRADED = Grade(reward=0.0, score=0.0, answered=False)  # this very object: there was no answer


@dataclass
class RewardCounts:
    """Rewards that were asked for, and those of them that are 0 since there was no answer."""

    rewards: int = 0
    timeouts: int = 0  # past their time limit
    crashes: int = 0  # whose process died

    def add(self, other: "RewardCounts", times: int = 1) -> "RewardCounts":
        """These and `times` the others."""
        return RewardCounts(
            *(mine + times * theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))
        )


def too_many(counts: RewardCounts, share: float) -> bool:
    """More than `share` of the rewards, or of AT_LEAST where there are fewer, had no answer."""
    return counts.timeouts + counts.crashes > share * max(counts.rewards, AT_LEAST)


class FileReward:
    """`reward_func(queries, prompts, labels)` of a .py file, OpenRLHF's contract for `--reward.remote_url FILE.py`.

    It returns a dict with `rewards` and, if it likes, `scores` and `extra_logs`, one number per query (lists or tensors), and
    `steps`, one list per query (rollout/steps.py).
    A reward that takes longer than `timeout_s` counts as 0 (`NOT_GRADED`; `counts.timeouts` counts them); one that raises or returns
    something else is a UserError, since training on a wrong reward helps nobody. Use as a context, or `close` it.

    `supervised`: whoever asks looks after numbers that are not finite and after `counts`, so such a number is handed on and
    a reward whose process dies counts as 0 (`counts.crashes`); else both are a UserError.
    """

    def __init__(self, path: str, workers: int, timeout_s: float, *, supervised: bool = False):
        self.path, self.supervised, self.counts = path, supervised, RewardCounts()
        self._used: set[str] = set()
        self._written: set[str] = set()
        self._counting = threading.Lock()
        self._pool = WorkerPool(
            functools.partial(reward_worker.start, path),
            workers=workers,
            timeout_s=timeout_s,
            start_limit_s=IMPORT_LIMIT_S,
        )

    def submit(self, query: str, prompt: str, label: Any) -> "Future[Grade]":
        """Start grading. The future's result is the grade, or raises UserError where the reward file is at fault.

        Cancelling it takes it out of the queue.
        """
        graded: Future[Grade] = Future()
        answer = self._pool.submit(reward_worker.grade_and_tell, query, prompt, label_text(label), not self.supervised)
        answer.add_done_callback(functools.partial(self._settle, graded))

        def give_up(future: "Future[Grade]") -> None:
            if future.cancelled():
                answer.cancel()

        graded.add_done_callback(give_up)
        return graded

    async def __call__(self, query: str, prompt: str, label: str) -> Grade:
        return await asyncio.wrap_future(self.submit(query, prompt, label))

    def _settle(self, graded: "Future[Grade]", answer: "Future[Any]") -> None:
        """Make a grade of what a reward process answered. Runs in the pool's threads."""
        if not graded.set_running_or_notify_cancel():
            return
        error = answer.exception()
        timed_out = isinstance(error, TaskTimeout)
        crashed = isinstance(error, WorkerDied) and self.supervised
        with self._counting:
            self.counts = self.counts.add(RewardCounts(1, timed_out, crashed))
        if error is None:
            grade, (used, written) = answer.result()
            with self._counting:
                self._used |= used
                self._written |= written
            graded.set_result(Grade(*grade))
        elif timed_out or crashed:
            graded.set_result(NOT_GRADED)
        else:
            graded.set_exception(UserError(f"--reward.remote_url {self.path}: {error}"))

    def files(self) -> set[Path]:
        """What has graded by now beside the reward file: modules of the user's and of this project, and files that were read."""
        with self._counting:
            found = self._used - self._written
        return {Path(file) for file in found} - {Path(self.path).resolve(), Path(self.path).absolute()}

    def close(self) -> None:
        """End the reward processes; grades that are not there yet raise UserError. Safe to call twice."""
        self._pool.close()

    def __enter__(self) -> "FileReward":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AddressReward:
    """A reward at an address, `--reward.remote_url http://...`, by the same contract.

    `fetch(query, prompt, label)` asks there, several times if need be, and raises RuntimeError when it gives up. One without an
    answer by then (`counts.crashes`), or after `limit_s` seconds (`counts.timeouts`), counts as 0.
    """

    def __init__(self, fetch: Callable[[str, str, str], Awaitable[Any]], address: str, timeout_s: float):
        self.fetch, self.address, self.counts = fetch, address, RewardCounts()
        self.limit_s = max(timeout_s, ADDRESS_LIMIT_S)

    async def __call__(self, query: str, prompt: str, label: str) -> Grade:
        """Raises UserError for an answer that is none."""
        try:
            result = await asyncio.wait_for(self.fetch(query, prompt, label_text(label)), self.limit_s)
        except TimeoutError:
            self.counts = self.counts.add(RewardCounts(rewards=1, timeouts=1))
            return NOT_GRADED
        except RuntimeError:
            self.counts = self.counts.add(RewardCounts(rewards=1, crashes=1))
            return NOT_GRADED
        self.counts = self.counts.add(RewardCounts(rewards=1))
        try:
            if not isinstance(result, dict) or "rewards" not in result:
                raise reward_worker.RewardFileError('it must answer with an object that has "rewards"')
            reward = reward_worker.only_number(result["rewards"], "rewards", finite=False)
            scores = result.get("scores")
            score = reward if scores is None else reward_worker.only_number(scores, "scores", finite=False)
        except reward_worker.RewardFileError as error:
            raise UserError(f"--reward.remote_url {self.address}: {error}") from None
        return Grade(reward, score)


class PromptGrader:
    """Grades responses to one prompt, given as token ids: decodes them and asks `reward(query, prompt, label)`.

    The query is the prompt's own text followed by the decoded response, so that it always starts with the prompt.
    """

    def __init__(
        self,
        reward: Callable[[str, str, str], Awaitable[Grade]],
        decode: Callable[[Sequence[int]], str],
        prompt: str,
        label: str,
    ):
        self.reward, self.decode, self.prompt, self.label = reward, decode, prompt, label

    async def grade(self, response_ids: Sequence[int]) -> Grade:
        return await self.reward(self.prompt + self.decode(response_ids), self.prompt, self.label)
