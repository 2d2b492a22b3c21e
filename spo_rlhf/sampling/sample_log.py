"""Samples on disk that survive a kill."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import json_line, named_errors, read_jsonl, write_jsonl

UNUSED = ".unused"  # ends the name of a file with the samples that a log does not need


class SampleLog:
    """Samples, appended as they finish. Opening it repairs a last line that a kill left half written.

    Args:
        path: of the file; its folder is made.
        key: names of the fields that tell samples apart.

    Attributes:
        rows: the samples already there, by key; also those that an earlier `close` has put aside.

    Raises:
        UserError: a row without the key's fields, or a line before the last that is no JSON object.
    """

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self.path, self.key = path, tuple(key)
        self.aside = unused_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_half_line(path)
        stored = [row for file in (self.aside, path) if file.exists() for row in read_jsonl(file)]
        if not all(name in row for row in stored for name in self.key):
            raise UserError(f"{path}: a sample without {', '.join(self.key)}; remove its line, or give --fresh")
        self.rows = {self.key_of(row): row for row in stored}
        self._file: TextIO = open(path, "a", encoding="utf-8")  # noqa: SIM115  until `close`

    def key_of(self, row: dict[str, Any]) -> tuple:
        """The values of the key's fields."""
        return tuple(row[name] for name in self.key)

    def append(self, row: dict[str, Any]) -> None:
        """Add a finished sample, or replace it; it is handed to the operating system before this returns."""
        with named_errors(self.path):
            self._file.write(json_line(row))
            self._file.flush()
        self.rows[self.key_of(row)] = row

    def close(self, order: Sequence[tuple] | None = None) -> list[dict[str, Any]]:
        """Close the file; with `order` (keys) it then holds the samples of these, in this order, so that it does not
        tell in which order they finished. Samples of other keys go to a file beside it and are found there again.

        Returns:
            The samples of `order`.
        """
        self._file.close()
        if order is None:
            return []
        belong = {key: self.rows[key] for key in order if key in self.rows}
        others = [row for key, row in sorted(self.rows.items()) if key not in belong]
        if others:
            write_jsonl(self.aside, others)  # before they leave the other file
        write_jsonl(self.path, belong.values())
        if not others:
            self.aside.unlink(missing_ok=True)
        return list(belong.values())


def unused_file(path: Path) -> Path:
    """Where samples of a log go that no longer belong to it."""
    return path.with_name(f"{path.stem}{UNUSED}{path.suffix}")


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
