"""Samples on disk that survive a kill."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from spo_rlhf.host.files import json_line, read_jsonl, write_jsonl


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
        self._file: TextIO = open(path, "a", encoding="utf-8")  # noqa: SIM115  until `close`

    def key_of(self, row: dict[str, Any]) -> tuple:
        """The values of the key's fields."""
        return tuple(row[name] for name in self.key)

    def append(self, row: dict[str, Any]) -> None:
        """Add a finished sample; it is handed to the operating system before this returns."""
        self._file.write(json_line(row))
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
