"""The one place that reads and writes files: whole or not at all, and errors that name file and line."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

from spo_rlhf.errors import UserError


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that a user wrote.

    Raises:
        UserError: no such file, or a line that is no JSON object; names file and line.
    """
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}, line {number}: not JSON ({error.msg})") from error
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}: not a JSON object")
                yield row
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of one object.

    Raises:
        UserError: missing or unreadable.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or unreadable; is this the folder of a finished run?") from error


def write_json(path: Path, value: Any) -> None:
    """Replace the file in one step."""
    replace_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace the file in one step."""
    replace_text(path, "".join(json_line(row) for row in rows))


def replace_text(path: Path, text: str) -> None:
    """Write the file whole or not at all: beside it, to the disk, then in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def json_line(row: dict[str, Any]) -> str:
    """One row of a JSONL file, its line feed included."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n"


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
def whole_output(target: str) -> Iterator[TextIO]:
    """A text file that reaches ``target`` ('-': standard output) whole, or, on an error, not at all."""
    path = Path(target).resolve()
    if target != "-" and (path.is_file() or not path.exists()):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as sink:
                yield sink
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return
    # Standard output, a pipe or a device cannot be replaced: hold the text back until it is complete.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as sink:
        yield sink
        sink.seek(0)
        with nullcontext(sys.stdout) if target == "-" else path.open("w", encoding="utf-8") as out:
            shutil.copyfileobj(sink, out)
            out.flush()
