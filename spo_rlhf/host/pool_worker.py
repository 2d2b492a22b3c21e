"""The program of one worker process of `pool.WorkerPool`. Standard library only: it runs before `sys.path` is set.

Talks over one inherited pipe, no other descriptor; what a task prints goes where the caller's errors go. First message in: the
start-up tuple. Then per task one pickled (function, args) in and one answer out: a header, and pickled (succeeded, payload,
resident_bytes), where payload is the pickled value or a one-line error message. The header tells an answer from what a task
may write to descriptors that are not its own.
"""

import ctypes
import os
import pickle
import resource
import signal
import struct
import sys
from multiprocessing.connection import Connection

PR_SET_PDEATHSIG = 1
LENGTH = struct.Struct("!i")  # before a message to the worker, as `Connection` has it
HEADER = struct.Struct("!8sQ")  # MAGIC, bytes that follow
MAGIC = b"spo-pool"
PAGE_BYTES = resource.getpagesize()


def one_line(error: BaseException) -> str:
    """The error's type and text on one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def memory_pages() -> tuple[int, int]:
    """(address space, resident) size of this process in pages."""
    with open("/proc/self/statm") as statm:
        total, resident, *_ = statm.read().split()
    return int(total), int(resident)


def limit_memory(memory_bytes: int) -> None:
    """Allow `memory_bytes` of address space on top of what the initializer's imports already take."""
    limit = memory_pages()[0] * PAGE_BYTES + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies: a task stuck in C code would never notice."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def run(message: bytes) -> tuple[bool, bytes | str]:
    """Run one task; every error, SystemExit included, becomes a message."""
    try:
        function, args = pickle.loads(message)
        return True, pickle.dumps(function(*args))
    except BaseException as error:
        return False, one_line(error)


def answer(fd: int, succeeded: bool, payload: bytes | str) -> None:
    """Send an answer, whole."""
    body = pickle.dumps((succeeded, payload, memory_pages()[1] * PAGE_BYTES))
    message = memoryview(HEADER.pack(MAGIC, len(body)) + body)
    while message:
        message = message[os.write(fd, message) :]


def main(fd: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    pipe = Connection(fd)
    parent_pid, sys.path[:], memory_bytes, initializer = pipe.recv()
    die_with_parent(parent_pid)
    started, payload = run(initializer) if initializer is not None else (True, b"")
    limit_memory(memory_bytes)
    answer(fd, started, payload)
    while True:
        try:
            message = pipe.recv_bytes()
        except EOFError:
            return
        answer(fd, *run(message))


if __name__ == "__main__":
    main(int(sys.argv[1]))
