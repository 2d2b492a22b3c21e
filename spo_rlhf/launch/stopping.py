"""Signals by which a cluster takes a machine back, and what the command does about them: the run saves and ends, or ends at once."""

import _thread
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

PREEMPTED = 75  # EX_TEMPFAIL: the same command may succeed later
# SIGUSR1 is what SLURM is commonly told to warn with before the time limit (sbatch --signal=USR1@300).
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# A terminal that is closed hangs up twice within a millisecond, once by the shell, and a session's end may add SIGTERM.
ONE_S = 1.0  # signals that come within so many seconds are one
_children_are_deaf_to: list[signal.Signals] = []


def _deafen() -> None:
    for number in _children_are_deaf_to:
        signal.signal(number, signal.SIG_IGN)


os.register_at_fork(after_in_child=_deafen)


class Stopping:
    """Takes the signals of a run. Before training begins each ends the run at once, or when Ray has started, where it comes
    meanwhile; and so does a second one after it.

    Args:
        grace_s: seconds for the step in progress, and again for the checkpoint after it.
    """

    def __init__(self, grace_s: float):
        self.grace_s = grace_s
        self.training = False  # there is a trainer that can be asked
        # What started the command may want it deaf to some: nohup ignores SIGHUP.
        self.signals = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self.asked_by: str | None = None
        self._asked_at = 0.0

    def install(self) -> None:
        """Let the signals of this process come here; to be repeated after `ray.init`, which sets its own."""
        for number in self.signals:
            signal.signal(number, self._take)

    @staticmethod
    def ignore(numbers: Iterable[int] = SIGNALS) -> None:
        """Let this process, and what it starts from now on, be deaf to signals."""
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    @contextlib.contextmanager
    def deferred(self, numbers: Iterable[signal.Signals]) -> Iterator[None]:
        """Context in which these signals wait for its end, and what this process starts is deaf to them, now and later.

        Children that Python forks itself ignore them, as Ray's do; the others inherit that they are blocked.
        """
        numbers = [number for number in numbers if number in self.signals]
        for number in numbers:
            signal.signal(number, self._remember)
        _children_are_deaf_to.extend(numbers)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)  # those that wait come now
            _children_are_deaf_to.clear()
            self.install()
        if self.asked_by is not None:
            raise KeyboardInterrupt

    def request(self) -> tuple[str, float] | None:
        """Who asks the trainer to end, and how many seconds a step may still take; None where nobody does."""
        if self.asked_by is None:
            return None
        return self.asked_by, max(0.0, self._asked_at + self.grace_s - time.monotonic())

    def end_overdue(self, interrupt: Callable[[], None] = _thread.interrupt_main) -> None:
        """End the run as Ctrl-C would where step and checkpoint have taken longer than they may."""
        if self.asked_by is not None and self.overdue:
            interrupt()

    @property
    def overdue(self) -> bool:
        """The time for step and checkpoint is over."""
        return time.monotonic() > self._asked_at + 2 * self.grace_s

    def message(self) -> str:
        """Of a run that a signal has ended without a checkpoint of its own."""
        late = self.training and self.overdue
        why = f"before it had written a checkpoint, in twice --spo.grace {self.grace_s:g} s" if late else "at once"
        return f"{self.asked_by} ended the run {why}; nothing is left running. --spo.resume auto goes on from the last checkpoint"

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.asked_by is None:
            self._asked_at, self.asked_by = time.monotonic(), signal.Signals(number).name

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked_by is None:
            self._asked_at = time.monotonic()  # first: another thread looks at both
        elif self.training and time.monotonic() < self._asked_at + ONE_S:
            return
        again, self.asked_by = self.asked_by is not None, signal.Signals(number).name
        if again or not self.training:
            raise KeyboardInterrupt
