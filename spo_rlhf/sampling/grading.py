"""Rewards beside sampling: a reward file asked from synchronous code, without waiting for it."""

import asyncio
import threading
from concurrent.futures import Future

from spo_rlhf.rollout.protocol import Grade
from spo_rlhf.rollout.reward import FileReward


class BackgroundReward:
    """`FileReward` on an event loop of its own. Use as a context; leaving it ends the reward's processes."""

    def __init__(self, path: str, workers: int, timeout_s: float):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reward-loop", daemon=True)
        self._reward = FileReward(path, workers, timeout_s)

    def __enter__(self) -> "BackgroundReward":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._reward.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def timeouts(self) -> int:
        """Rewards that took too long and count as 0."""
        return self._reward.timeouts

    def submit(self, query: str, prompt: str, label: str) -> "Future[Grade]":
        """Start grading; the future's result raises UserError where the reward file is at fault."""
        return asyncio.run_coroutine_threadsafe(self._reward(query, prompt, label), self._loop)
