"""Signals that take a machine back: asked while training, the run saves and ends; before, and a second time, it ends at once."""

import os
import signal
import subprocess
import sys

import pytest

from spo_rlhf.errors import RunStopped
from spo_rlhf.launch import stopping
from spo_rlhf.launch.stopping import SIGNALS, Stopping
from spo_rlhf.trainer import events
from spo_rlhf.trainer.events import EventBox
from spo_rlhf.trainer.stopping import StopAsked, StopWatch


@pytest.fixture
def installed():
    # Also where the tests themselves were started deaf to some, as nohup does.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    one = Stopping(grace_s=60)
    one.install()
    yield one
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_that_the_command_was_started_deaf_to_stays_unheard():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        one = Stopping(grace_s=60)
        Stopping.ignore()  # as while Ray starts
        one.install()
        os.kill(os.getpid(), signal.SIGHUP)
        assert one.asked_by is None
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_while_ray_starts_is_remembered_and_ends_the_run_when_it_has_started(installed, number):
    done = []
    with pytest.raises(KeyboardInterrupt), installed.deferred((signal.SIGHUP, signal.SIGUSR1)):
        os.kill(os.getpid(), number)
        done.append("Ray has started")
    assert done and installed.message().startswith(f"{number.name} ended the run at once")
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_one_that_another_thread_takes_meanwhile_is_remembered_too(installed):
    with pytest.raises(KeyboardInterrupt), installed.deferred([signal.SIGHUP]):
        installed._remember(signal.SIGHUP, None)
    assert installed.asked_by == "SIGHUP"


def test_without_a_signal_nothing_has_changed_and_an_error_of_the_start_comes_first(installed):
    with installed.deferred([signal.SIGHUP]):
        pass
    assert signal.getsignal(signal.SIGHUP) == installed._take and not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(ValueError, match="no start"), installed.deferred([signal.SIGHUP]):
        os.kill(os.getpid(), signal.SIGHUP)
        raise ValueError("no start")
    assert installed.asked_by == "SIGHUP"


@pytest.mark.parametrize("forks", [True, False])
def test_what_is_started_meanwhile_is_deaf_and_what_comes_later_is_not(installed, forks):
    program = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print('lives')"]
    options: dict = {"preexec_fn": int} if forks else {}
    with installed.deferred([signal.SIGHUP]):
        deaf = subprocess.run(program, **options, stdout=subprocess.PIPE, check=True)
        states = subprocess.run(["cat", "/proc/self/status"], **options, stdout=subprocess.PIPE, text=True, check=True)
    assert deaf.stdout == b"lives\n"
    masks = dict(line.split(":\t") for line in states.stdout.splitlines() if line.startswith("Sig"))
    of_hangup = 1 << (signal.SIGHUP - 1)
    assert int(masks["SigBlk"], 16) & of_hangup and bool(int(masks["SigIgn"], 16) & of_hangup) == forks
    assert subprocess.run(program, **options, check=False).returncode == -signal.SIGHUP


def test_what_the_command_was_started_deaf_to_is_not_remembered():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        with Stopping(grace_s=60).deferred([signal.SIGHUP]):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_training_ends_the_run_at_once(installed, number):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert installed.message().startswith(f"{number.name} ended the run at once")


def test_a_signal_while_training_asks_and_a_second_one_ends(installed, monkeypatch):
    installed.training, now = True, stopping.time.monotonic()
    assert installed.request() is None
    os.kill(os.getpid(), signal.SIGTERM)
    who, seconds = installed.request()
    assert who == "SIGTERM" and 59 < seconds <= 60 and not installed.overdue
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now + 2)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGHUP)


def test_a_terminal_that_is_closed_hangs_up_twice_and_asks_once(installed):
    installed.training = True
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert installed.request()[0] == "SIGHUP"


def test_a_checkpoint_that_takes_too_long_is_not_waited_for(installed, monkeypatch):
    installed.training, interrupted = True, []
    installed.end_overdue(lambda: interrupted.append(1))
    now = stopping.time.monotonic()
    os.kill(os.getpid(), signal.SIGUSR1)
    for later in (30, 119, 121):
        monkeypatch.setattr(stopping.time, "monotonic", lambda later=later: now + later)
        installed.end_overdue(lambda later=later: interrupted.append(later))
    assert interrupted == [121] and "twice --spo.grace 60 s" in installed.message()
    assert installed.request() == ("SIGUSR1", 0)


class Asks:
    """A reporter whose command line asks after some calls."""

    def __init__(self, request, after=0):
        self.request, self.calls, self.after = request, 0, after

    def stop_request(self):
        self.calls += 1
        return self.request if self.calls > self.after else None


def test_a_step_goes_on_until_its_time_is_over(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("spo_rlhf.trainer.stopping.time.monotonic", lambda: now[0])
    watch = StopWatch(Asks(("SIGTERM", 5.0), after=1))
    watch.between_steps()
    watch.within_step()
    assert watch.reporter.calls == 1, "asked once a second at most"
    now[0] += 1
    watch.within_step()
    now[0] += 4.9
    watch.within_step()
    now[0] += 0.1
    with pytest.raises(StopAsked, match="SIGTERM"):
        watch.within_step()
    assert watch.reporter.calls == 2


def test_between_two_steps_there_is_no_waiting():
    with pytest.raises(StopAsked):
        StopWatch(Asks(("SIGHUP", 60.0))).between_steps()
    StopWatch(Asks(None)).between_steps()


def test_events_are_recorded_when_further_ones_are_asked_for():
    box = EventBox()
    box.put({"event": "step"})
    assert box.waiting() == 1
    assert box.take() == [{"event": "step"}] and box.waiting() == 1, "handed over, not yet written"
    box.put({"event": "eval"})
    assert box.take(("SIGTERM", 3.0)) == [{"event": "eval"}] and box.waiting() == 1
    assert box.take() == [] and box.waiting() == 0
    assert box.stop_request() == ("SIGTERM", 3.0), "and it stays asked"


def test_a_record_that_takes_nothing_any_more_stops_the_run(monkeypatch):
    monkeypatch.setattr(events, "RECORD_LIMIT_S", 0.1)
    monkeypatch.setattr("ray.get", lambda ref: ref)
    box = EventBox()
    remote = type("Handle", (), {"waiting": type("Method", (), {"remote": staticmethod(box.waiting)})})
    events.Reporter(remote).wait_until_recorded()
    box.put({"event": "step"})
    with pytest.raises(RunStopped, match="the record"):
        events.Reporter(remote).wait_until_recorded()
