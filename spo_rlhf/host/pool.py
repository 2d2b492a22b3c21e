"""A pool of worker processes in which no task can hang, eat the memory or take the caller down.

Every task has a hard limit: past it the worker is killed with all that it started, and a fresh worker takes its place. What left
its process group, or its parent, is known by a mark in its environment, another one of each worker.
Alarms cannot do that (they need the main thread, and C code such as GMP ignores them). One thread of the caller looks
after one worker process, so the pool works alike from the main thread, other threads, and synchronous, threaded and
asynchronous Ray actors.

Why not a library: pebble and concurrent.futures share one pipe and its locks among workers, so a worker that dies at
the wrong moment (out of memory, between two tasks) breaks the whole pool for good; their spawned workers import the
caller's main module again, which in a trainer means seconds of torch and vLLM for every replaced worker.
"""

import contextlib
import os
import pickle
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from spo_rlhf.host import watcher
from spo_rlhf.host.pool_worker import HEADER, LENGTH, MAGIC

START_LIMIT_S = 120.0
MARK = "SPO_POOL_WORKER_"  # and a name of each worker: one inside of another has both
STRAYS_S, STRAYS_POLL_S = 1.0, 0.01  # to be gone once they are killed
WORKER_PROGRAM = Path(__file__).with_name("pool_worker.py")


class TaskError(Exception):
    """The task raised, its worker died or could not start, or the pool was closed; the message is one line."""


class TaskTimeout(TaskError):
    """The task was killed because it ran past the pool's limit."""


class WorkerDied(TaskError):
    """The worker ended while it had the task: killed, out of memory, a crash in C code."""


class _NotReady(TaskError):
    """The start of a worker ran past its limit."""


class WorkerPool:
    """Processes that run importable functions, each call within `timeout_s` seconds and `memory_bytes` bytes.

    Args:
        initializer: called once in every new worker before its first task, for instance to import modules or to load a
            user's file; pickled by reference (use functools.partial for arguments). Has `start_limit_s` seconds.
        workers: number of processes.
        timeout_s: limit of one task in seconds, counted from when a worker takes it up; the time spent waiting is not.
        start_limit_s: limit of a worker's start, the initializer included, in seconds.
        memory_bytes: address space (RLIMIT_AS) a worker may use on top of what the initializer took. A worker whose
            resident memory stays above half of it is replaced between two tasks.

    Functions and arguments are pickled, so a function must be importable by name; one defined in the caller's
    `__main__` is not.
    """

    def __init__(
        self,
        initializer: Callable[[], Any] | None = None,
        workers: int = 1,
        timeout_s: float = 10.0,
        memory_bytes: int = 4 << 30,
        start_limit_s: float = START_LIMIT_S,
    ) -> None:
        if workers < 1 or timeout_s <= 0 or memory_bytes <= 0 or start_limit_s <= 0:
            raise ValueError("workers, timeout_s, memory_bytes and start_limit_s must be positive")
        start_message = None if initializer is None else pickle.dumps((initializer, ()))
        # A copy, made here: a process that starts from the live environment reads it while other threads (vLLM's start
        # among them) may change it and move it, and then does not start ("Bad address").
        environment = dict(os.environ)
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._keepers = [
            _Keeper(self._tasks, start_message, environment, timeout_s, memory_bytes, start_limit_s)
            for _ in range(workers)
        ]
        # Ends the workers when the pool is garbage collected or the interpreter exits, whichever is first.
        self._finalizer = weakref.finalize(self, _close, self._tasks, self._keepers)

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        """Queue `function(*args)`. The future's result is the value, or raises TaskTimeout or TaskError.

        Raises:
            RuntimeError: the pool is closed. pickle.PicklingError, AttributeError, TypeError: the function or an
            argument cannot be pickled.
        """
        if not self._finalizer.alive:
            raise RuntimeError("the worker pool is closed")
        future: Future = Future()
        self._tasks.put((future, pickle.dumps((function, args))))
        return future

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are alive now."""
        return [keeper.process.pid for keeper in self._keepers if keeper.process is not None]

    def close(self) -> None:
        """Kill every worker and wait for it; unfinished futures raise TaskError. Safe to call twice."""
        self._finalizer()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(tasks: queue.SimpleQueue, keepers: list["_Keeper"]) -> None:
    for keeper in keepers:
        keeper.closing.set()
        tasks.put(None)
    marks = [keeper.mark for keeper in keepers if keeper.process is not None]
    if marks:  # of all at once: there may be many workers, and many processes to look at
        _kill_marked(marks)
    for keeper in keepers:
        keeper.kill(strays_too=False)
    _end_marked(marks)
    for keeper in keepers:
        keeper.thread.join()
    while True:
        try:
            item = tasks.get_nowait()
        except queue.Empty:
            return
        if item is not None and item[0].set_running_or_notify_cancel():
            item[0].set_exception(TaskError("the worker pool was closed"))


def _kill_marked(marks: Iterable[str]) -> bool:
    """Kill the workers with these marks, all that they started, and what is below that; whether there was any."""
    found: set[int] = set()
    with contextlib.suppress(
        OSError
    ):  # no /proc, or no descriptor left to read it: the process group is killed all the same
        found = watcher.carrying(marks)
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)


def _end_marked(marks: Collection[str]) -> None:
    """The same until there is none: what was found may have started more."""
    deadline = time.monotonic() + STRAYS_S
    while marks and _kill_marked(marks) and time.monotonic() < deadline:
        time.sleep(STRAYS_POLL_S)


class _Keeper:
    """Starts, feeds, watches and replaces one worker process, from one thread."""

    def __init__(
        self,
        tasks: queue.SimpleQueue,
        start_message: bytes | None,
        environment: dict[str, str],
        timeout_s: float,
        memory_bytes: int,
        start_limit_s: float,
    ) -> None:
        self.tasks = tasks
        self.start_message = start_message
        self.environment = environment
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes
        self.start_limit_s = start_limit_s
        self.process: subprocess.Popen | None = None
        self.mark = ""  # of its environment
        self.pipe: Connection | None = None
        self.resident_bytes = 0
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.serve, name="worker-pool", daemon=True)
        self.thread.start()

    def serve(self) -> None:
        start_error, tried = self.start(), True
        while (item := self.tasks.get()) is not None and not self.closing.is_set():
            future, message = item
            if not future.set_running_or_notify_cancel():
                continue
            if tried and isinstance(start_error, _NotReady):
                pass  # the first task tells of a start that took all its time; it does not wait for a second one
            elif self.process is None or self.process.poll() is not None:
                self.kill()
                start_error = self.start()
            tried = False
            try:
                if start_error is not None:
                    raise start_error
                value = self.run(message)
            except Exception as error:  # whatever it is: without this thread every task would wait for ever
                if not isinstance(error, TaskError):
                    self.kill()
                    error = TaskError(f"no answer from a worker: {type(error).__name__}: {error}")
                future.set_exception(TaskError("the worker pool was closed") if self.closing.is_set() else error)
            else:
                future.set_result(value)
            del future, message, item
        if item is not None:
            self.tasks.put(item)  # closing: `_close` answers it
        self.kill()

    def start(self) -> TaskError | None:
        """Start a worker and run the initializer in it; returns what went wrong, if anything did."""
        try:
            ours, theirs = Pipe()
            with theirs, self.lock:
                if self.closing.is_set():
                    return TaskError("the worker pool was closed")
                self.pipe = ours
                os.set_blocking(ours.fileno(), False)
                name = MARK + uuid.uuid4().hex
                self.mark = f"{name}=1"
                self.process = subprocess.Popen(
                    [sys.executable, "-P", str(WORKER_PROGRAM), str(theirs.fileno())],
                    env=self.environment | {name: "1"},
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    start_new_session=True,
                )
            self.write(pickle.dumps((os.getpid(), sys.path, self.memory_bytes, self.start_message)), self.start_limit_s)
            self.receive(self.start_limit_s)
        except TaskTimeout:
            self.kill()
            return _NotReady(f"a worker was not ready within {self.start_limit_s:g} s")
        except Exception as error:
            self.kill()
            return TaskError(f"a worker could not start: {error}")
        return None

    def run(self, message: bytes) -> Any:
        assert self.pipe is not None, "a worker that runs has started"
        try:
            self.write(message, self.timeout_s)
            value = self.receive(self.timeout_s)
        except OSError as error:
            raise WorkerDied(f"the worker died before the task (exit code {self.kill()})") from error
        except TaskTimeout:
            self.kill()
            raise
        if self.resident_bytes > self.memory_bytes // 2:
            self.kill()
        return value

    def receive(self, limit_s: float) -> Any:
        """The value in the worker's next answer."""
        assert self.pipe is not None, "a worker that answers has started"
        deadline = time.monotonic() + limit_s
        try:
            magic, length = HEADER.unpack(self.read(HEADER.size, limit_s, deadline))
            if magic != MAGIC:
                self.kill()
                raise WorkerDied("the task wrote into the pipe of its worker's answers; the worker was replaced")
            succeeded, payload, self.resident_bytes = pickle.loads(self.read(length, limit_s, deadline))
        except (EOFError, OSError) as error:
            raise WorkerDied(f"the worker died (exit code {self.kill(grace_s=1.0)})") from error
        if not succeeded:
            raise TaskError(payload)
        try:
            return pickle.loads(payload) if payload else None
        except Exception as error:
            raise TaskError(f"the result cannot be unpickled: {type(error).__name__}") from error

    def write(self, message: bytes, limit_s: float) -> None:
        """Send a message as `Connection.send_bytes` does, to a worker that may take none. Raises OSError, TaskTimeout."""
        assert self.pipe is not None, "a worker that is asked has started"
        deadline, left = time.monotonic() + limit_s, memoryview(LENGTH.pack(len(message)) + message)
        ready = select.poll()
        ready.register(self.pipe.fileno(), select.POLLOUT)
        while left:
            if not ready.poll(1000 * max(0.0, deadline - time.monotonic())):
                raise TaskTimeout(f"timeout: the task was not taken within {limit_s:g} s")
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(self.pipe.fileno(), left) :]

    def read(self, size: int, limit_s: float, deadline: float) -> bytes:
        """So many bytes of the worker's answer. Raises EOFError, OSError, TaskTimeout."""
        assert self.pipe is not None, "a worker that answers has started"
        parts, missing = [], size
        while missing:
            if not self.pipe.poll(max(0.0, deadline - time.monotonic())):
                raise TaskTimeout(f"timeout: no result within {limit_s:g} s")
            part = os.read(self.pipe.fileno(), min(missing, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def kill(self, grace_s: float = 0.0, *, strays_too: bool = True) -> int | None:
        """End the worker and whatever it started, after `grace_s` seconds to end by itself; returns its exit code.

        Without `strays_too` what has left its process group is somebody else's to end.
        """
        with self.lock:
            process, self.process = self.process, None
            if process is None:
                return None
            if grace_s:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(grace_s)
            if strays_too:
                _kill_marked([self.mark])  # while the worker is there: what has no mark is known by its parents
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
            if strays_too:
                _end_marked([self.mark])
            return status
