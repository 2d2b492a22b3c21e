"""Ends what a run has started and removes its folders, whatever ended the run; also the program that watches one.

A run's processes carry the path of its folder in their environment (MARK), which children inherit, also those of a
reward, of vLLM and of Ray. A process of its own reads a pipe that the run holds open: when the run ends, `kill -9`
included, the kernel closes it. A folder of a run holds a file that the run and its watcher keep locked: a lock that can be had
proves that both are gone; what it holds (SIGN) proves that the folder is a run's. Standard library only, so that the watcher is small and nothing it needs can break.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

MARK = "SPO_RUN_FOLDER"
PREFIX, LOCK = "spo-", "lock"
SIGN = b"folder of a run of spo_rlhf\n"
SHARED_MEMORY = "/dev/shm"
# From the end of the run: first processes are asked to end, then they are killed; all of it is over within 10 s.
ASKED_S, KILLED_S, POLL_S = 2.0, 7.0, 0.1
TRACKERS_S = 4.0  # of KILLED_S, before the trackers are killed too


def own_folders() -> set[Path]:
    """Where runs of this user may have folders."""
    return {Path(folder) for folder in (tempfile.gettempdir(), os.environ.get("RAY_TMPDIR"), SHARED_MEMORY) if folder}


def lock_folder(folder: Path) -> int:
    """Make the folder's lock file, locked from its first moment on; a descriptor that holds the lock until it is closed."""
    made = folder / f".{LOCK}"
    descriptor = os.open(made, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, SIGN)
    os.rename(made, folder / LOCK)
    return descriptor


def marked(folder: Path) -> set[int]:
    """Processes of this user that belong to the run of the folder, with all that is below them; not this one."""
    return carrying([f"{MARK}={folder}"])


def carrying(marks: Iterable[str]) -> set[int]:
    """Processes of this user, of all where this is root, that were started with one of these in their environment ("NAME=VALUE"),
    with all that is below them; not this one."""
    signs, parents, found, user = {os.fsencode(mark) for mark in marks}, {}, set(), os.getuid()
    for name in os.listdir("/proc"):  # there may be thousands, so as few calls as can be
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):  # it is gone by now, or not ours to read
            if user and os.stat(f"/proc/{name}").st_uid != user:  # what root starts may be another user's by now
                continue
            state, parent = _content(f"/proc/{name}/stat").rpartition(b")")[2].split()[:2]  # a name may be any bytes
            if state in b"ZX":
                continue
            parents[int(name)] = int(parent)
            if not signs.isdisjoint(_content(f"/proc/{name}/environ").split(b"\0")):
                found.add(int(name))
    while below := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= below
    return found - {os.getpid()}


def _content(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def _is_tracker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def end_marked(folder: Path) -> set[int]:
    """End the processes of the run of the folder; those that are still there after ASKED_S + KILLED_S seconds."""
    began, asked = time.monotonic(), set()
    while (left := marked(folder)) and (passed := time.monotonic() - began) < ASKED_S + KILLED_S:
        # Python's own trackers remove the semaphores and the shared memory of others once those are gone, and then end.
        waited_for = left - {pid for pid in left if _is_tracker(pid)} or (
            left if passed >= ASKED_S + TRACKERS_S else set()
        )
        for pid in waited_for:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if passed >= ASKED_S:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in asked:
                    os.kill(pid, signal.SIGTERM)
        asked |= waited_for
        time.sleep(POLL_S)
    return left


def remove_dead(bases: Iterable[Path]) -> list[Path]:
    """Remove the folders of runs of this user that are over, and end what these have left; the folders removed.

    A folder without a lock file of a run's, with a lock that is held, or of another user is nobody's to judge and stays.
    """
    removed = []
    for base in bases:
        for folder in sorted(base.glob(f"{PREFIX}*")):
            with contextlib.suppress(OSError):
                if _is_dead(folder):
                    end_marked(folder)
                    shutil.rmtree(folder, ignore_errors=True)
                    removed.append(folder)
    return removed


def _is_dead(folder: Path) -> bool:
    """A run's, ours, and its lock can be had. Raises OSError."""
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
        return False
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.read(descriptor, len(SIGN) + 1) == SIGN
    finally:
        os.close(descriptor)


def main(folder: Path, lock: int) -> None:
    """Wait for the end of the run, which holds the other end of standard input; then leave nothing of it."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    end_marked(folder)
    os.close(lock)
    remove_dead(own_folders() | {folder.parent})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
