"""What happens in a run, from the trainer's actor to the command line: one stream of small dicts.

The trainer may stand on another machine than the command line; a Ray actor in between holds the events until they are fetched.
"""

import time
from typing import Any

import ray

PROGRESS_INTERVAL_S = 1.0


@ray.remote(num_cpus=0)
class EventLog:
    """Holds events until the command line takes them."""

    def __init__(self):
        self.events: list[dict[str, Any]] = []

    def put(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def take(self) -> list[dict[str, Any]]:
        events, self.events = self.events, []
        return events


class Reporter:
    """Sends events; `event_log` is None where nobody listens."""

    def __init__(self, event_log=None):
        self.event_log = event_log
        self._stage, self._done, self._total, self._sent = "", 0, None, 0.0

    def send(self, event: str, **values: Any) -> None:
        if self.event_log is not None:
            self.event_log.put.remote({"event": event, "time": time.time(), **values})

    def note(self, text: str) -> None:
        """Something the user should read."""
        self.send("note", text=text)

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins; `total` counts what `progress` will count."""
        self._stage, self._done, self._total, self._sent = name, 0, total, time.monotonic()
        self.send("stage", stage=name, done=0, total=total)

    def progress(self, stage: str) -> None:
        """One more response of the current stage has come back; sent about once a second."""
        if stage != self._stage:
            return
        self._done += 1
        if time.monotonic() - self._sent >= PROGRESS_INTERVAL_S:
            self._sent = time.monotonic()
            self.send("stage", stage=stage, done=self._done, total=self._total)
