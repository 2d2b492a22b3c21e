"""Following the events of a run while it works: a thread fetches them and hands them on."""

import _thread
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from spo_rlhf.errors import RunStopped

POLL_S = 0.2
LAST_ROUND_S = 10.0  # for the events of the end


class Silence:
    """The limit of all calls that have none of their own: of the policy, the critic, the models beside it, and of Ray itself.

    How long a training step takes nobody knows beforehand, but a run that works tells of it: a stage, a response, a step.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic):
        self.limit_s, self._clock = limit_s, clock
        self._since, self._last = clock(), "its start"

    def heard(self, event: dict[str, Any]) -> None:
        """The run has told of something."""
        self._since = self._clock()
        self._last = " ".join(str(event[name]) for name in ("event", "stage", "step") if name in event)

    def check(self) -> None:
        """Raise RunStopped where it has told of nothing for too long."""
        if self._clock() - self._since > self.limit_s:
            raise RunStopped(
                f"nothing was heard of the run for {self.limit_s:g} s (--spo.stall_timeout), the last was: {self._last}. "
                "A process of it, or the disk, hangs; --spo.resume auto goes on from the last checkpoint"
            )


@contextlib.contextmanager
def following(
    fetch: Callable[[], list[dict[str, Any]]], take: Callable[[dict[str, Any]], None], poll_s: float = POLL_S
) -> Iterator[None]:
    """While the block runs, and once after it, `take` gets each event that `fetch` returns.

    An error of either ends the block as Ctrl-C would and is raised in its place: a run whose record has stopped would go on for
    hours that nobody can look at afterwards. An error of the block itself comes first.
    """
    stop = threading.Event()
    failed: list[Exception] = []

    def follow() -> None:
        try:
            while True:
                last_round = stop.is_set()
                for event in fetch():
                    take(event)
                if last_round:
                    return
                stop.wait(poll_s)
        except Exception as error:
            failed.append(error)
            if not stop.is_set():
                _thread.interrupt_main()

    thread = threading.Thread(target=follow, daemon=True)
    try:
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=LAST_ROUND_S)
    except KeyboardInterrupt:
        if not failed:
            raise
    if failed:
        raise failed[0]
