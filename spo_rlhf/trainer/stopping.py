"""On the controller: a run that is asked to end while it trains, as clusters do before they take the machine away."""

import time

from spo_rlhf.trainer.events import Reporter

ASK_INTERVAL_S = 1.0


class StopAsked(Exception):
    """The run is to leave a checkpoint and end; what it says is who asked."""


class StopWatch:
    """Asks whether the run is to end. A step in progress then has as long as whoever asks gives it."""

    def __init__(self, reporter: Reporter):
        self.reporter, self._asked = reporter, -ASK_INTERVAL_S
        self._who, self._deadline = "", float("inf")

    def between_steps(self) -> None:
        """Raise StopAsked where that is wanted."""
        self._ask()
        if self._who:
            raise StopAsked(self._who)

    def within_step(self) -> None:
        """Raise StopAsked where it was wanted long enough ago. Cheap; to be called often."""
        if time.monotonic() - self._asked >= ASK_INTERVAL_S:
            self._ask()
        if time.monotonic() >= self._deadline:
            raise StopAsked(self._who)

    def _ask(self) -> None:
        self._asked = time.monotonic()
        if not self._who and (request := self.reporter.stop_request()):
            self._who, seconds = request
            self._deadline = self._asked + seconds
