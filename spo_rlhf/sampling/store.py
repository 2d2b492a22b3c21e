"""Results on disk: JSON lines that survive a kill, and JSON files that are never half written."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
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
    _replace(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace the file in one step."""
    _replace(path, "".join(_line(row) for row in rows))


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n"


class SampleLog:
    """Samples, appended as they finish. Opening it repairs a last line that a kill left half written.

    Args:
        path: of the file; its folder is made.
        key: names of the fields that tell samples apart, the problem's id first.

    Attributes:
        rows: the samples already there, by key.
    """

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self.path, self.key = path, tuple(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_half_line(path)
        self.rows = {self.key_of(row): row for row in read_jsonl(path)} if path.exists() else {}
        self._file: TextIO = open(path, "a", encoding="utf-8")

    def key_of(self, row: dict[str, Any]) -> tuple:
        """The values of the key's fields."""
        return tuple(row[name] for name in self.key)

    def append(self, row: dict[str, Any]) -> None:
        """Add a finished sample; it is handed to the operating system before this returns."""
        self._file.write(_line(row))
        self._file.flush()
        self.rows[self.key_of(row)] = row

    def close(self, order: Sequence | None = None) -> None:
        """Close the file; with `order` (problem ids) also sort it, so that it does not tell in which order samples
        finished.
        """
        self._file.close()
        if order is not None:
            rank = {problem: number for number, problem in enumerate(order)}
            keys = sorted(self.rows, key=lambda key: (rank.get(key[0], len(rank)), key))
            write_jsonl(self.path, (self.rows[key] for key in keys))


def _cut_half_line(path: Path) -> None:
    """Drop what follows the last complete line. Also a complete last line that is no JSON (zeros after a power cut)
    goes.
    """
    if not path.exists():
        return
    data = path.read_bytes()
    kept = data[: data.rfind(b"\n") + 1]
    while kept:
        last = kept[kept[:-1].rfind(b"\n") + 1 :]
        try:
            json.loads(last)
            break
        except ValueError:
            kept = kept[: len(kept) - len(last)]
    if len(kept) < len(data):
        with open(path, "r+b") as file:
            file.truncate(len(kept))
