"""Ending what this process started: on Ctrl-C nothing may go on running."""

import contextlib

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
