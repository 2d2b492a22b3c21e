"""Reading what a run has kept, while it runs or after it was killed."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from spo_rlhf.errors import UserError
from spo_rlhf.rollouts.schema import FOLDER, PATTERN, SCHEMA, Row

# What other bytes than were written make the decompression raise; a file that ends in the middle makes it raise EOFError.
CORRUPT = (zlib.error, gzip.BadGzipFile)
GZIP = b"\x1f\x8b"  # how such a file begins


def files(path: str | Path) -> list[Path]:
    """The files of a run folder, of its folder `rollouts`, or the one file that `path` is; by step.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    found = sorted(path.glob(f"{FOLDER}/{PATTERN}")) or sorted(path.glob(PATTERN))
    if not found:
        below = sorted(path.glob(f"*/{FOLDER}"))
        hint = f"; did you mean {below[0].parent}?" if below else "; was it run with --spo.save_rollouts 0?"
        raise UserError(f"{path}: {'holds no kept rollouts' + hint if path.is_dir() else 'no such run or file'}")
    return found


def read(path: str | Path) -> Iterator[Row]:
    """The rows of a run folder or of one of its files, in the order of step, prompt and sample.

    A last line that was cut off, as a killed run leaves it, is passed over.

    Raises:
        UserError: no such run; compressed data that are corrupt; a line that is no row; a row of a form that this version does not know.
    """
    for file in files(path):
        yield from _rows(file)


def _rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".gz":
        with path.open("rb") as head:
            if (begin := head.read(len(GZIP))) != GZIP:
                if GZIP.startswith(begin):  # cut off even there
                    return
                raise UserError(f"{path}: not compressed by gzip; this is no file of kept rollouts")
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in _lines(lines, path):
            try:
                row = json.loads(line)
            except ValueError:
                if not line.endswith(b"\n"):
                    return
                raise UserError(f"{path}, line {number}: not JSON; this is no file of kept rollouts") from None
            yield _checked(row, path, number)


def _lines(lines: Iterable[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        yield from enumerate(lines, 1)
    except EOFError:
        return
    except CORRUPT as error:
        raise UserError(f"{path}: its compressed data are corrupt ({error}); copy it again, or remove it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _checked(row: Any, path: Path, number: int) -> Row:
    version = cast(Row, row).get("schema") if isinstance(row, dict) else None
    if version != SCHEMA:
        what = "no row of kept rollouts" if version is None else f"rollouts of schema {version}"
        raise UserError(f"{path}, line {number}: {what}; this version of spo_rlhf reads schema {SCHEMA}")
    return cast(Row, row)
