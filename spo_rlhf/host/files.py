"""The one place that reads and writes files: whole or not at all, and errors that name file and line."""

import errno
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TextIO

from spo_rlhf.errors import UserError

LOCK = ".lock"  # in a folder that has one writer at a time
ROOM = 32 << 20  # bytes: below it a disk is full for anything that writes a log
# What ends in one of these is a data file, also where no folder is named.
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow", ".py")


def is_local(name: str) -> bool:
    """True for a path, False for a name on a hub ("owner/name", "name", "owner/name@folder")."""
    return (
        Path(name).exists()
        or name.startswith(("/", "./", "../", "~"))
        or name.lower().endswith(DATA_SUFFIXES)
        or name.count("/") > 1
    )


class WrittenInt(int):
    """A whole number of a JSON file that knows how it is `written` there: -0 is one."""

    written: str

    def __new__(cls, written: str) -> "WrittenInt":
        number = super().__new__(cls, written)
        number.written = written
        return number


class WrittenFloat(float):
    """Another number of a JSON file that knows how it is `written` there: 1.10, 1e5."""

    written: str

    def __new__(cls, written: str) -> "WrittenFloat":
        number = super().__new__(cls, written)
        number.written = written
        return number


#: For `parse_json` and `read_jsonl`, where the text of a number counts.
AS_WRITTEN: dict[str, Any] = {"parse_int": WrittenInt, "parse_float": WrittenFloat}


def parse_json(line: bytes, **options: Any) -> Any:
    """The value in one line of a JSONL file. `options` go to `json.loads`.

    Raises:
        ValueError: the line holds none; says what to do, and leaves it to the caller to name file and line.
    """
    options = {"object_pairs_hook": each_once} | options
    try:
        return json.loads(line.decode().rstrip(), **options)  # so that a column is one of this line
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno}): give one JSON object a line") from None
    except RecursionError:
        raise ValueError("nested too deeply: give one JSON object a line") from None


class KeyTwice(ValueError):
    """An object of a JSON file has two entries with one key."""


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; `json` by itself would keep the last of two entries with one key. Raises KeyTwice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise KeyTwice(f"an object with the key {twice!r} twice: keep one of the two")
    return found


def read_jsonl(path: Path, **options: Any) -> Iterator[dict[str, Any]]:
    """The rows of a file that a user wrote. Blank lines are passed over. `options` go to `json.loads`.

    Raises:
        UserError: no such file, or a line that is no JSON object; names file and line.
    """
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = parse_json(line, **options)
                except ValueError as error:
                    raise UserError(f"{path}, line {number}: {error}") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}: not a JSON object")
                yield row
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def check_writable(flag: str, folder: str, needed: int = 0) -> None:
    """The folder, or the nearest one above it that exists, can be written into, and its disk has room.

    Args:
        needed: bytes; for less than ROOM, ROOM.

    Raises:
        UserError: names `flag`.
    """
    path = Path(folder).absolute()
    there = next(part for part in (path, *path.parents) if os.path.lexists(part))
    if not there.exists():  # a disk that is not mounted, say
        raise UserError(f"{flag} {folder}: {there} is a link that leads nowhere; mend it, or choose another folder")
    if not there.is_dir():
        raise UserError(f"{flag} {folder}: {there} is a file; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {folder}: {there} is not writable; choose another folder")
    try:
        with tempfile.TemporaryFile(dir=there) as probe:  # quotas and read-only mounts show only so
            probe.write(bytes(1 << 16))
            probe.flush()
    except OSError as error:
        raise UserError(f"{flag} {folder}: {there} cannot be written into ({error.strerror}); choose another") from None
    free, needed = shutil.disk_usage(there).free, max(needed, ROOM)
    if free < needed:
        raise UserError(
            f"{flag} {folder}: {free / 1e6:,.0f} MB are free on its disk and {needed / 1e6:,.0f} MB are needed; "
            "free some, or choose another folder"
        )


@contextmanager
def only_writer(flag: str, folder: Path, *, beside: bool = False) -> Iterator[None]:
    """Nobody else is `only_writer` of the folder, which is made, within the block, in whatever process or on whatever machine.

    The system itself ends the hold of a process that is killed. Where the folder's file system knows no locks, nothing is held.
    `beside`: the folder may get another name within the block, so what is held, and made, is beside it.

    Raises:
        UserError: somebody else is; names `flag`.
    """
    there = folder.resolve()  # a link and what it leads to are one folder
    lock = there.with_name(f".{there.name}{LOCK}") if beside else there / LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{flag} {folder}: another command writes into it now; wait for its end, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        try:
            yield
        finally:  # not by closing alone: a process that was forked within the block may still have it open
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of one object.

    Raises:
        UserError: missing, unreadable, or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: missing or unreadable; is this the folder of a finished run?") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; copy or make it again")
    return value


def write_json(path: Path, value: Any) -> None:
    """Replace the file in one step."""
    replace_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace the file in one step."""
    replace_text(path, "".join(json_line(row) for row in rows))


def replace_text(path: Path, text: str) -> None:
    """Replace the file in one step; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def json_line(row: dict[str, Any]) -> str:
    """One row of a JSONL file, its line feed included. What UTF-8 cannot hold (half of a surrogate pair) is escaped."""
    line = json.dumps(row, ensure_ascii=False, sort_keys=True)
    return (line if encodable(line) else json.dumps(row, sort_keys=True)) + "\n"


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold a text: not one with a lone surrogate, which JSON can spell as an escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The path of a file to write, which takes the place of `path` when the block ends, and vanishes when it fails.

    What was written is on the disk before it gets its name, so that also a power cut leaves the old file or the new one.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with named_errors(path):
            yield partial
            with open(partial, "rb") as written:
                os.fsync(written.fileno())
            partial.replace(path)
    except OSError as error:
        if error.filename != str(partial) or error.filename2 is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # the user has not heard of `partial`
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Let an OSError of the block that names no file, as that of a full disk, name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def whole_or_nothing(output: Path) -> Iterator[Path]:
    """A directory that takes the place of `output` when the block ends, and vanishes when it fails."""
    output = output.resolve()
    making, replaced = (output.with_name(f".{output.name}.{os.getpid()}.{role}") for role in ("making", "replaced"))
    making.mkdir()
    try:
        yield making
        if output.exists():
            output.rename(replaced)
        making.rename(output)
    finally:
        if replaced.exists() and not output.exists():
            replaced.rename(output)
        shutil.rmtree(making, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def whole_files(output: Path) -> Iterator[Path]:
    """A directory whose files take the places of those with the same names in `output`, which is made, when the block ends.

    They vanish when it fails. What else is in `output` stays.
    """
    making = output / ".saving"
    shutil.rmtree(making, ignore_errors=True)  # of a process that was killed
    making.mkdir(parents=True)
    try:
        with named_errors(output):
            yield making
            for path in making.rglob("*"):
                if path.is_file():
                    with open(path, "rb") as written:
                        os.fsync(written.fileno())
            for path in making.iterdir():
                if path.is_dir():
                    shutil.rmtree(output / path.name, ignore_errors=True)
                path.replace(output / path.name)
    finally:
        shutil.rmtree(making, ignore_errors=True)


@contextmanager
def whole_output(target: str) -> Iterator[TextIO]:
    """A text file that reaches ``target`` ('-': standard output) whole, or, on an error, not at all."""
    path = Path(target).resolve()
    if target != "-" and (path.is_file() or not path.exists()):
        with whole_file(path) as partial, partial.open("w", encoding="utf-8") as sink:
            yield sink
        return
    # Standard output, a pipe or a device cannot be replaced: hold the text back until it is complete.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as sink:
        yield sink
        sink.seek(0)
        with nullcontext(sys.stdout) if target == "-" else path.open("w", encoding="utf-8") as out:
            shutil.copyfileobj(sink, out)
            out.flush()
