"""The labels as the files have them, against what the library that loads them makes of them.

It infers a type of each column: of 007 in a table it makes 7, of a whole number among fractions a rounded one, of texts
that are all dates it makes dates. A reward would compare with another answer than the one in the file.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spo_rlhf.host.files import parse_json
from spo_rlhf.host.rows import label_text

AS_TEXT = "write it as a text"
AS_COLUMN = "give a Parquet file whose column is of texts"  # nothing is inferred there


class RawLabel(NamedTuple):
    """A label as its file has it, as a text; None where it is none that could change. `remedy`: what keeps it."""

    text: str | None
    remedy: str


class RawLabels:
    """The labels of files in the order in which they are loaded one behind the other, or, where `mixed`, in any order."""

    def __init__(self, files: Sequence[str], key: str, *, mixed: bool):
        self.key, self.mixed = key, mixed
        self.labels: list[RawLabel] = []
        self.complete = True
        for file in files:
            found = _read(Path(file), key)
            if found is None:  # a kind with types of its own, or on a hub: where the next file begins is not known
                self.complete = False
                break
            self.labels += found
        self.texts = {label.text for label in self.labels}

    def fault(self, number: int, value: Any) -> str | None:
        """What is wrong where the row `number`, from 1, was loaded with this label; None where it is as it was."""
        got = label_text(value)
        if value is None or value != value or isinstance(value, (list, dict)):
            return None
        if self.mixed:
            known = not self.complete or None in self.texts or got in self.texts
            return None if known else f"has {got!r} as {self.key!r}, which no file has; {AS_TEXT}"
        if number > len(self.labels):
            return "is in no file as it was loaded; save the data as .jsonl" if self.complete else None
        raw = self.labels[number - 1]
        if raw.text is None or raw.text == got:
            return None
        return f"has {raw.text!r} as {self.key!r} and it would reach the reward as {str(got)!r}; {raw.remedy}"


def _read(path: Path, key: str) -> list[RawLabel] | None:
    """None for a kind of file whose columns have types."""
    if not path.is_file() or path.suffix not in (".jsonl", ".json", ".csv"):
        return None
    if path.suffix == ".csv":
        with open(path, encoding="utf-8-sig", newline="") as file:
            return [RawLabel(row.get(key), AS_COLUMN) for row in csv.DictReader(file)]
    rows = _json_rows(path)
    return None if rows is None else list(map(_of_json, (row.get(key) for row in rows)))


def _json_rows(path: Path) -> Iterable[dict[str, Any]] | None:
    """The rows of JSON lines, or of one list; None of what is neither."""
    try:
        rows = list(_lines(path)) if path.suffix == ".jsonl" else _list_or_lines(path)
    except (OSError, ValueError):
        return None
    return rows if all(isinstance(row, dict) for row in rows) else None


def _list_or_lines(path: Path) -> list[Any]:
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return list(_lines(path))
    return whole if isinstance(whole, list) else [whole]


def _lines(path: Path) -> Iterator[Any]:
    with open(path, "rb") as lines:
        yield from (parse_json(line) for line in lines if line.strip())


def _of_json(value: Any) -> RawLabel:
    text = label_text(value)
    if not isinstance(text, str):
        return RawLabel(None, AS_TEXT)
    return RawLabel(text, AS_COLUMN if isinstance(value, str) else AS_TEXT)
