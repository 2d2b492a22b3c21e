"""The processes of a run that a test has started: who they are, where they listen, what they hold in shared memory."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from spo_rlhf.host import watcher

ENGINE, CORE = "ray::SegmentRolloutActor", "VLLM::EngineCore"


def of(pid: int) -> list[psutil.Process]:
    """The process and all below it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def named(pid: int, start: str) -> list[psutil.Process]:
    """Those of a run whose title begins so, in the order of their start."""
    found = []
    for process in of(pid):
        try:
            if (process.cmdline() or [""])[0].startswith(start):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda process: process.create_time())


def listeners(processes: list[psutil.Process]) -> list[tuple[str, str]]:
    """(address, process) of every TCP socket that takes connections."""
    found = []
    for process in processes:
        try:
            sockets = process.net_connections("tcp")
            found += [(one.laddr.ip, process.name()) for one in sockets if one.status == psutil.CONN_LISTEN]
        except psutil.NoSuchProcess:
            continue
    return found


def shared_memory(processes: list[psutil.Process]) -> set[Path]:
    """Files in shared memory that they have mapped, by the names they have there."""
    found = set()
    for process in processes:
        try:
            lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        except OSError:
            continue
        paths = {line[line.index("/") :] for line in lines if "/" in line}
        found |= {Path(path) for path in paths if path.startswith(watcher.SHARED_MEMORY) and " (deleted)" not in path}
    return {path for path in found if path.exists()}


def folder_of(process: psutil.Process) -> Path:
    """The run's own folder."""
    return Path(process.environ()[watcher.MARK])


def run(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run."""
    found = []
    for process in processes:
        try:
            if run(process):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def kill(process: psutil.Process, what: str) -> None:
    """Kill it, and say so."""
    os.kill(process.pid, signal.SIGKILL)
    print(f"injected: kill -9 of {what} (process {process.pid})")


def wait_for(condition: Callable[[], object], limit_s: float, what: str, poll_s: float = 0.1) -> float:
    """Seconds until the condition holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, f"not within {limit_s} s: {what}"
        time.sleep(poll_s)
    return time.monotonic() - began
