"""Rewards in a pool of processes, each with a time limit; never in the event loop of the engine."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence

from spo_rlhf.errors import UserError
from spo_rlhf.host.pool import TaskError, TaskTimeout, WorkerPool
from spo_rlhf.rollout import reward_worker
from spo_rlhf.rollout.protocol import Grade


class FileReward:
    """`reward_func(queries, prompts, labels)` of a .py file, OpenRLHF's contract for `--reward.remote_url FILE.py`.

    It returns a dict with `rewards` and, if it likes, `scores` and `extra_logs`, one number per query (lists or tensors).
    A reward that takes longer than `timeout_s` counts as 0 (`timeouts` counts them); one that raises or returns something
    else is a UserError, since training on a wrong reward helps nobody.
    """

    def __init__(self, path: str, workers: int, timeout_s: float):
        self.path, self.timeouts = path, 0
        self._pool = WorkerPool(functools.partial(reward_worker.load, path), workers=workers, timeout_s=timeout_s)

    async def __call__(self, query: str, prompt: str, label: str) -> Grade:
        future = self._pool.submit(reward_worker.grade, query, prompt, label)
        try:
            return Grade(*await asyncio.wrap_future(future))
        except TaskTimeout:
            self.timeouts += 1
            return Grade(reward=0.0, score=0.0)
        except TaskError as error:
            raise UserError(f"--reward.remote_url {self.path}: {error}") from None

    def close(self) -> None:
        self._pool.close()


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
