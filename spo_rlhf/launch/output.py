"""What a command says of a run: its configuration as text, its output in a log, the error that ended it in one line."""

import contextlib
import errno
import io
import logging
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO, cast

from spo_rlhf.config import SpoConfig
from spo_rlhf.core import options
from spo_rlhf.errors import Preempted, RunStopped, UserError
from spo_rlhf.host.command import INTERRUPTED, WRONG_INPUT
from spo_rlhf.host.console import Console
from spo_rlhf.host.live import console_for
from spo_rlhf.launch.deaths import dead_process
from spo_rlhf.launch.stopping import PREEMPTED

OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EFBIG}
LOG_BYTES, LOG_POLL_S = 64 << 20, 5.0
OF_THE_START = ("identity", "resume_from", "damaged", "newest")  # launch/resume.py


def plain(value: Any) -> Any:
    """Nested namespaces as dicts; the configuration as the options that give it."""
    if isinstance(value, SpoConfig):
        return options.values(value)
    if hasattr(value, "__dict__"):
        return {name: plain(part) for name, part in vars(value).items()}
    return value


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, names joined by dots."""
    flat = {}
    for name, value in tree.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def resolved(args: SimpleNamespace) -> dict[str, Any]:
    """The configuration of a run, flat, without what is known of its start and its checkpoints."""
    return flatten({name: value for name, value in plain(args).items() if name not in OF_THE_START})


@contextlib.contextmanager
def output_to(path: str | Path) -> Iterator[Console]:
    """Append all that this process, its libraries and Ray's workers print to a file; yields a console on the real terminal.

    A file above LOG_BYTES becomes `older(path)` and begins anew, so that both together have a bound.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    console: Console | None = None
    with _bounded(Path(path)), _open_log(path) as log, os.fdopen(os.dup(1), "w", encoding="utf-8") as terminal:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            # Both the file descriptors, for other processes and libraries, and Python's own streams, wherever they lead.
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                console = console_for(terminal)
                yield console
        finally:
            if console is not None:
                console.close()
            _leave(log)
            for number, target in zip(saved, (1, 2)):
                os.dup2(number, target)
                os.close(number)


def older(path: Path) -> Path:
    """Where the part of a log goes that is too much for its file."""
    return path.with_name(f"{path.name}.1")


@contextlib.contextmanager
def _bounded(path: Path) -> Iterator[None]:
    """Within the block a log that grows is cut off. Many processes have it open, for appending, so it cannot be renamed."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(LOG_POLL_S):
            with contextlib.suppress(OSError):  # a full disk takes no copy; then it takes no more of the log either
                if path.stat().st_size > LOG_BYTES:
                    shutil.copyfile(path, older(path))
                    os.truncate(path, 0)

    thread = threading.Thread(target=watch, name="log-bound", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class _Dropping(io.FileIO):
    """A log: what a full disk does not take of it is lost, and whoever writes goes on."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _open_log(path: str | Path) -> TextIO:
    # Without a buffer, which would keep what was not taken and raise at its end.
    return io.TextIOWrapper(cast(Any, _Dropping(path, "a")), encoding="utf-8", errors="replace", write_through=True)


def _leave(stream: TextIO) -> None:
    """Let log handlers that were made while `stream` was standard error write to what it is now: Ray's would to a closed file.

    They are looked up by their loggers as well: logging's own list loses those that are there when a library configures its logs by
    a dictionary, as vLLM does.
    """
    loggers = [logging.getLogger(), *vars(logging.Logger.manager)["loggerDict"].values()]
    listed = [reference() for reference in vars(logging)["_handlerList"]]
    for handler in {*listed, *(handler for logger in loggers for handler in getattr(logger, "handlers", ()))}:
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
            handler.setStream(sys.stderr)


def attempt(work: Callable[[], object], log: str | Path, interrupted: str = "interrupted") -> tuple[int, str]:
    """Exit status of `work()`, and in one line what ended it, empty where nothing did. The traceback is printed."""
    try:
        work()
    except KeyboardInterrupt:
        return INTERRUPTED, interrupted
    except Exception as error:
        traceback.print_exc()
        return explain(root_cause(error), log)
    return 0, ""


def root_cause(error: BaseException) -> BaseException:
    """The error that a Ray task raised, beneath what Ray wrapped around it."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    return error


def explain(error: BaseException, log: str | Path) -> tuple[int, str]:
    """Exit status and message, one line, for the error that ended a run."""
    first_line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, UserError):
        return WRONG_INPUT, f"error: {first_line}"
    if isinstance(error, Preempted):
        return PREEMPTED, first_line
    if isinstance(error, RunStopped):
        return 1, f"stopped: {first_line}"
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        named = f"{error.filename}: " if error.filename else ""
        return 1, f"error: {named}{error.strerror} (log: {log})"
    if died := dead_process(str(error), log):
        return 1, f"error: {died}"
    return 1, f"error: {type(error).__name__}: {first_line} (log: {log})"
