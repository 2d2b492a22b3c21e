"""Commands that run for minutes, their output in a log and its last line on the terminal, one or several at a time."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import common

from spo_rlhf.errors import UserError
from spo_rlhf.host.console import Console, duration


class Terminated(KeyboardInterrupt):
    """By SIGTERM, which does not reach the commands by itself as Ctrl-C does."""


def raise_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, by `Terminated`."""

    def terminated(*_: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminated)


class Board:
    """The last line of every command going on, in one status line; safe to use from several threads.

    stopped: what interrupted the benchmark, so that the commands that end with it are no failures.
    """

    def __init__(self, console: Console):
        self.console, self.lock = console, threading.Lock()
        self.current: dict[str, str] = {}
        self.stopped: KeyboardInterrupt | None = None

    def line(self, text: str) -> None:
        with self.lock:
            self.console.line(text)

    def update(self, label: str, text: str | None) -> None:
        """What a command does now; None: it has ended."""
        with self.lock:
            self.current.pop(label, None)
            if text is not None:
                self.current[label] = text
            if self.current:
                self.console.status("   ".join(f"{label}  {text}" for label, text in sorted(self.current.items())))


def run_logged(
    command: list[str],
    log: Path,
    board: Board,
    label: str,
    parallel: int = 1,
    started: Callable[[int], object] | None = None,
) -> None:
    """Run one command with its output in a log. Ctrl-C reaches it as well, SIGTERM is passed on.

    parallel: how many run at a time, to share the cores. started: called with the number of the process.

    Raises:
        UserError: it failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    cores = max(1, (os.cpu_count() or 1) // parallel)
    environment = {"OMP_NUM_THREADS": str(cores), **os.environ} if parallel > 1 else None
    start = time.monotonic()
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=common.ROOT, env=environment)
        try:
            if started:
                started(process.pid)
            while process.poll() is None:
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                board.update(label, f"{duration(time.monotonic() - start)}  {lines[-1][:90] if lines else ''}")
                if isinstance(board.stopped, Terminated):
                    process.terminate()
                    break
                time.sleep(1)
        except Terminated:
            process.terminate()
            raise
        finally:
            process.wait()
            board.update(label, None)
    if process.returncode:
        raise UserError(f"{label} ended with status {process.returncode}; see {log}")
