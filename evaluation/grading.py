"""The commands `grade` (a file of answers) and `regrade` (stored samples, without a GPU)."""

import argparse
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from spo_rlhf.errors import UserError
from spo_rlhf.graders.parallel import Grader
from spo_rlhf.graders.roles import stated_roles
from spo_rlhf.graders.verdict import Mode
from spo_rlhf.host.files import read_jsonl, write_jsonl

IN_FLIGHT = 64
T = TypeVar("T")


def in_order(jobs: Iterable[tuple[T, Future]], in_flight: int = IN_FLIGHT) -> Iterator[tuple[T, Any]]:
    """(what, result) of each (what, future), in the input's order, with at most `in_flight` futures started ahead."""
    waiting: deque[tuple[T, Future]] = deque()
    jobs = iter(jobs)
    waiting.extend(itertools.islice(jobs, in_flight))
    while waiting:
        what, future = waiting.popleft()
        result = future.result()
        waiting.extend(itertools.islice(jobs, 1))
        yield what, result


def grade_file(source: Path, target: Path, mode: str, workers: int | None) -> tuple[int, int]:
    """Grade every row {gold, pred, problem?} of `source`; `target` gets the same rows with correct, extracted and
    reason.

    Returns:
        Numbers of rows and of correct ones.
    """
    rows = list(read_jsonl(source))
    for number, row in enumerate(rows, 1):
        for key in ("gold", "pred"):
            if not isinstance(row.get(key), (str, int, float)) or isinstance(row.get(key), bool):
                raise UserError(f'{source}, row {number}: "{key}" must be a text')
    graded = []
    with Grader(workers) as grader:
        jobs = (
            (row, _submit(grader, str(row["gold"]), str(row["pred"]), _text(row.get("problem")), mode)) for row in rows
        )
        for row, grade in in_order(jobs):
            graded.append({**row, "correct": grade.correct, "extracted": grade.extracted, "reason": grade.reason})
    write_jsonl(target, graded)
    return len(graded), sum(row["correct"] for row in graded)


def _submit(grader: Grader, gold: str, output: str, problem: str | None, mode: Mode) -> Future:
    """Grade as roles where the gold answer says who is a knight and who a knave, else as mathematics."""
    return grader.submit(gold, output, problem, mode, kind="roles" if stated_roles(gold) else "math")


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def run_grade(args: argparse.Namespace) -> None:
    if args.file:
        if not args.output or args.gold is not None or args.pred is not None:
            raise UserError("grade --file IN.jsonl needs --output OUT.jsonl, and neither --gold nor --pred")
        total, right = grade_file(Path(args.file), Path(args.output), args.mode, args.workers)
        print(f"{right} of {total} correct ({args.mode}), written to {args.output}")
        return
    if args.gold is None or args.pred is None:
        raise UserError("grade needs --file IN.jsonl --output OUT.jsonl, or --gold X --pred Y")
    with Grader(workers=1) as grader:
        grade = _submit(grader, args.gold, args.pred, args.problem, args.mode).result()
    print(
        json.dumps({"correct": grade.correct, "extracted": grade.extracted, "reason": grade.reason}, ensure_ascii=False)
    )
