"""What happens in a run, from the trainer's actor to the command line: one stream of small dicts.

The trainer may stand on another machine than the command line; a Ray actor in between holds the events until they are fetched.
"""

import time
from typing import Any

import ray

from spo_rlhf.errors import RunStopped

PROGRESS_INTERVAL_S = 1.0


RECORD_LIMIT_S = 60.0  # for the command line to take what was sent
RECORD_POLL_S = 0.05
StopRequest = tuple[str, float]  # who asks, and for how many seconds a step may still go on


class EventBox:
    """Holds events until the command line takes them, and what the command line asks of the trainer."""

    def __init__(self):
        self.events: list[dict[str, Any]] = []
        self.put_in, self.taken, self.recorded = 0, 0, 0
        self.stop: StopRequest | None = None

    def put(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self.put_in += 1

    def take(self, stop: StopRequest | None = None) -> list[dict[str, Any]]:
        """The events since the last call; whoever takes further ones has recorded those before."""
        self.stop = stop or self.stop
        self.recorded = self.taken
        events, self.events = self.events, []
        self.taken += len(events)
        return events

    def waiting(self) -> int:
        """Events that are not known to be recorded."""
        return self.put_in - self.recorded

    def stop_request(self) -> StopRequest | None:
        return self.stop


EventLog = ray.remote(num_cpus=0)(EventBox)


class Reporter:
    """Sends events; `event_log` is None where nobody listens."""

    def __init__(self, event_log=None):
        self.event_log = event_log
        self._stage, self._done, self._total, self._sent = "", 0, None, 0.0

    def send(self, event: str, **values: Any) -> None:
        if self.event_log is not None:
            self.event_log.put.remote({"event": event, "time": time.time(), **values})

    def wait_until_recorded(self) -> None:
        """Until the command line has written down all that was sent: what a checkpoint holds is in the record as well.

        Raises RunStopped where it takes too long.
        """
        deadline = time.monotonic() + RECORD_LIMIT_S
        while self.event_log is not None and ray.get(self.event_log.waiting.remote()):
            if time.monotonic() > deadline:
                raise RunStopped(f"the record of the run has not taken its events for {RECORD_LIMIT_S:g} s")
            time.sleep(RECORD_POLL_S)

    def stop_request(self) -> StopRequest | None:
        """What the command line asks, once it was asked to end."""
        return None if self.event_log is None else ray.get(self.event_log.stop_request.remote())

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
