"""Events are handed on while a block works and once after it; what fails there ends the block."""

import threading
import time

import pytest

from spo_rlhf.errors import RunStopped
from spo_rlhf.launch.follow import Silence, following


class Source:
    """Events that come one by one; raises `error` once they are at an end."""

    def __init__(self, *events: dict, error: Exception | None = None):
        self.events, self.error = list(events), error

    def __call__(self) -> list[dict]:
        if not self.events and self.error:
            raise self.error
        return [self.events.pop(0)] if self.events else []


def wait_for(true) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_events_arrive_while_the_block_works_and_the_last_ones_after_it():
    taken, source = [], Source({"event": "a"})
    with following(source, taken.append, poll_s=0.01):
        wait_for(lambda: taken)
        time.sleep(0.05)
        source.events = [{"event": "b"}]
    assert taken == [{"event": "a"}, {"event": "b"}]


def test_an_error_while_an_event_is_taken_ends_the_block_and_is_raised():
    def take(event):
        raise ValueError(f"unknown event {event['event']!r}")

    began = time.monotonic()
    with pytest.raises(ValueError, match="unknown event 'stpe'"):
        with following(Source({"event": "stpe"}), take, poll_s=0.01):
            for _ in range(3000):  # a run of half a minute
                time.sleep(0.01)
    assert time.monotonic() - began < 15


def test_an_error_in_the_last_round_is_raised_too():
    source = Source()
    with pytest.raises(OSError, match="disk full"):
        with following(source, lambda event: None, poll_s=60):
            time.sleep(0.05)
            source.error = OSError("disk full")


def test_the_block_s_own_error_comes_first():
    source = Source()
    with pytest.raises(RuntimeError, match="the policy died"):
        with following(source, lambda event: None, poll_s=60):
            time.sleep(0.05)
            source.error = ConnectionError("and took Ray with it")
            raise RuntimeError("the policy died")


def test_ctrl_c_stays_ctrl_c():
    taken = []
    with pytest.raises(KeyboardInterrupt):
        with following(Source({"event": "a"}), taken.append, poll_s=0.01):
            wait_for(lambda: taken)
            raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("Thread") and thread.daemon]


def test_a_run_that_tells_of_nothing_for_too_long_is_stopped_with_what_it_told_last():
    now = 0.0
    silence = Silence(10.0, clock=lambda: now)
    now = 10.0
    silence.check()
    silence.heard({"event": "stage", "stage": "train", "done": 0, "total": None})
    now = 20.0
    silence.check()
    now = 20.1
    with pytest.raises(RunStopped, match=r"^nothing was heard of the run for 10 s .*, the last was: stage train\. "):
        silence.check()
