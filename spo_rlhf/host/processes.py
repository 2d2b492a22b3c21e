"""Ending what this process started: on Ctrl-C nothing may go on running."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn, TextIO

import psutil

GRACE_S = 5.0


def descendants() -> list[psutil.Process]:
    """All processes below this one. Ray's workers and vLLM's engine processes are among them when Ray was started here."""
    return psutil.Process().children(recursive=True)


def end(processes: list[psutil.Process]) -> None:
    """Terminate those that still run, kill those that do not listen. Only processes from `descendants` go in here."""
    running = [process for process in processes if process.is_running()]
    for process in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, deaf = psutil.wait_procs(running, timeout=GRACE_S)
    for process in deaf:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(deaf, timeout=GRACE_S)


@contextlib.contextmanager
def leaving_on_interrupt(message: str, stream: TextIO | None = None) -> Iterator[None]:
    """Ctrl-C in this block says `message` and ends the process with status 130, at once.

    For imports: a KeyboardInterrupt inside one can be caught there and come out as another error, or not at all.
    """

    def leave(signum, frame) -> NoReturn:
        print(f"\n{message}", file=stream or sys.stdout, flush=True)
        os._exit(130)

    previous = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
