"""What is wrong with rows of data that a user wrote, told together."""

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import encodable, parse_json

SHOWN = 5  # rows that an error names
BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and marks without a form: fillers, Braille without a dot


class RowFaults:
    """What is wrong with rows, the first few of them in words."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.count = 0

    def add(self, number: int, fault: str, place: str = "row") -> None:
        """Row `number`, from 1, has this fault."""
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{place} {number} {fault}")

    def refuse(self, what: str) -> None:
        """Raise UserError where any row has a fault; `what` names flag or file."""
        if self.count:
            more = [f"and {self.count - SHOWN} more rows"] if self.count > SHOWN else []
            raise UserError(f"{what}: {'; '.join([*self.shown, *more])}")


def read_rows(
    path: str | Path, faults: RowFaults, *, blank: bool = False, **options: Any
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, from 1, and object of every line of a JSONL file; lines without one go to `faults`.

    blank: lines with nothing in them are passed over. `options` go to `json.loads`.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if blank and not line.strip():
                    continue
                try:
                    row = parse_json(line, **options)
                except ValueError as error:
                    faults.add(number, f"is {error}", "line")
                    continue
                if isinstance(row, dict):
                    yield number, row
                else:
                    faults.add(number, "is not a JSON object", "line")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def label_text(label: Any) -> Any:
    """The label as reward functions get it: a number, true or false of the data as text; anything else as it is.

    A number that was read `AS_WRITTEN` is the text that its file has.
    """
    return getattr(label, "written", str(label)) if isinstance(label, (bool, int, float)) else label


def value_fault(key: str, value: Any) -> str | None:
    """What is wrong with a value that is there: an infinite number, or a text that UTF-8 cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"has {value} as {key!r}; write it as a text, or drop the row"
    if isinstance(value, (list, Mapping)) and not _is_finite(value):
        return f"holds an infinite number, or none, in {key!r}; write it as a text, or drop the row"
    return half_surrogate(key, value)


def half_surrogate(key: str, value: Any) -> str | None:
    """What is wrong with a value that UTF-8 cannot hold."""
    if isinstance(value, (str, list, Mapping)) and not encodable(
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    ):
        return f"holds half of a surrogate pair in {key!r}, which no tokenizer takes; mend or drop it"
    return None


def is_empty(value: Any) -> bool:
    """Whether nothing stands in a text, a list or an object: white space and signs without a form are nothing."""
    if isinstance(value, str):
        return all(sign.isspace() or sign in BLANK or unicodedata.category(sign) in ("Cf", "Cc") for sign in value)
    if isinstance(value, (list, Mapping)):
        return all(map(is_empty, value.values() if isinstance(value, Mapping) else value))
    return value is None


def _is_finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, default=str)
    except ValueError:
        return False
    return True


def answer_fault(key: str, value: Any) -> str | None:
    """What is wrong with a right answer: a text, a finite number, true or false is none."""
    if not isinstance(value, (str, bool, int, float)) or (isinstance(value, str) and is_empty(value)):
        return f"needs a text or a number as {key!r}"
    return no_answer(key, value) or value_fault(key, value)


def no_answer(key: str, value: Any) -> str | None:
    """What is wrong with "nan" as a right answer: programs write it for one that is missing."""
    if isinstance(value, str) and value.strip().lower() == "nan":
        return f"has {value.strip()!r} as {key!r}, which is no answer; fill it, or drop the row"
    return None
