"""Nothing that this process started goes on running, and Ctrl-C while libraries load ends it at once."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from spo_rlhf.host import processes

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
# The child that the shell leaves behind is the one that counts.
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DEAF!r}]).wait()"


def runs(process: psutil.Process) -> bool:
    """False also for one that has ended and that nobody has asked for its status."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("program", [DEAF, PARENT], ids=["a child", "a child's child"])
def test_what_does_not_listen_to_sigterm_is_killed(program, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_S", 0.3)
    before = set(processes.descendants())
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "up\n"
    started = [process for process in processes.descendants() if process not in before]
    processes.end(started)
    child.wait(timeout=10)
    assert started and not any(map(runs, started))


def test_what_has_ended_by_itself_is_no_error():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    process = psutil.Process(child.pid)
    child.wait(timeout=60)
    processes.end([process])


def test_an_interrupt_while_libraries_load_ends_the_process_although_an_import_catches_it():
    code = (
        "import time; from spo_rlhf.host.processes import leaving_on_interrupt\n"
        "with leaving_on_interrupt('spo-x: interrupted'):\n"
        "    print('up', flush=True)\n"
        "    try: time.sleep(600)\n"
        "    except BaseException: time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert (process.returncode, rest) == (130, "\nspo-x: interrupted\n")


def test_afterwards_an_interrupt_is_an_exception_again():
    with processes.leaving_on_interrupt("left"):
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        time.sleep(10)
