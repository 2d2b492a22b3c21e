"""The labels as the files have them, against what the library that loads them makes of them.

It infers a type of each column: of 007 in a table it makes 7, of a whole number among fractions a rounded one, of texts
that are all dates it makes dates. A reward would compare with another answer than the one in the file.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import AS_WRITTEN, DATA_SUFFIXES, KeyTwice, each_once, parse_json
from spo_rlhf.host.rows import label_text

AS_TEXT = "write it as a text"
AS_COLUMN = "give a Parquet file whose column is of texts"  # nothing is inferred there


class RawLabel(NamedTuple):
    """A label in the form in which the reward would get it from its file itself; None where there is none.

    `remedy`: what keeps it.
    """

    form: str | None
    remedy: str


class RawLabels:
    """The labels of files in the order in which they are loaded one behind the other, or, where `mixed`, in any order.

    Raises UserError for a JSON object with one key twice.
    """

    def __init__(self, files: Sequence[str], key: str, *, mixed: bool):
        self.key, self.mixed = key, mixed or any(Path(file).is_dir() for file in files)
        self.labels: list[RawLabel] = []
        self.complete = True
        for file in (one for name in files for one in _files_of(Path(name))):
            found = _read(file, key)
            if found is None:  # a kind with types of its own, or on a hub: where the next file begins is not known
                self.complete = False
                break
            self.labels += found
        self.forms = {label.form for label in self.labels}

    def fault(self, number: int, value: Any) -> str | None:
        """What is wrong where the row `number`, from 1, was loaded with this label; None where it is as it was."""
        if value is None or value != value:
            return None
        got = _form(value)
        if self.mixed:
            known = not self.complete or got in self.forms
            return None if known else f"has {got!r} as {self.key!r}, which no file has; {AS_TEXT}"
        if number > len(self.labels):
            return "is in no file as it was loaded; save the data as .jsonl" if self.complete else None
        raw = self.labels[number - 1]
        if raw.form is None or raw.form == got:
            return None
        return f"has {raw.form!r} as {self.key!r} and it would reach the reward as {got!r}; {raw.remedy}"


def _form(value: Any) -> str:
    """A text, a number, true or false as `label_text` has it; a list or an object as JSON, which tells 1 from 1.0."""
    text = label_text(value)
    return (
        json.dumps(text, ensure_ascii=False, sort_keys=True, default=repr)
        if isinstance(text, (list, dict))
        else str(text)
    )


def _files_of(path: Path) -> list[Path]:
    """The data files of a folder; a file itself."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in DATA_SUFFIXES) or [path]


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
    except KeyTwice as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, ValueError):
        return None
    return rows if all(isinstance(row, dict) for row in rows) else None


def _list_or_lines(path: Path) -> list[Any]:
    try:
        whole = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=each_once, **AS_WRITTEN)
    except KeyTwice:
        raise
    except ValueError:
        return list(_lines(path))
    return whole if isinstance(whole, list) else [whole]


def _lines(path: Path) -> Iterator[Any]:
    with open(path, "rb") as lines:
        yield from (parse_json(line, **AS_WRITTEN) for line in lines if line.strip())


def _of_json(value: Any) -> RawLabel:
    return RawLabel(None if value is None else _form(value), AS_COLUMN if isinstance(value, str) else AS_TEXT)
