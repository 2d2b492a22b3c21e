"""The command `grade`: a file of answers, or one."""

import argparse
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from spo_rlhf.errors import UserError
from spo_rlhf.graders.kinds import KINDS, kind_of
from spo_rlhf.graders.parallel import Grader
from spo_rlhf.graders.verdict import Mode, Question
from spo_rlhf.host.files import json_line, write_jsonl
from spo_rlhf.host.rows import RowFaults, answer_fault, read_rows

IN_FLIGHT = 64
AUTO = "auto"  # as --kind: each gold text's own, see `kind_of`
T = TypeVar("T")


def in_order(jobs: Iterable[tuple[T, Future[Any]]], in_flight: int = IN_FLIGHT) -> Iterator[tuple[T, Any]]:
    """(what, result) of each (what, future), in the input's order, with at most `in_flight` futures started ahead."""
    waiting: deque[tuple[T, Future[Any]]] = deque()
    jobs = iter(jobs)
    waiting.extend(itertools.islice(jobs, in_flight))
    while waiting:
        what, future = waiting.popleft()
        result = future.result()
        waiting.extend(itertools.islice(jobs, 1))
        yield what, result


def grade_file(source: Path, target: Path, mode: Mode, workers: int | None, kind: str = AUTO) -> tuple[int, int]:
    """Grade every row {gold, pred, problem?} of a file into another.

    `target` gets the rows of `source` with correct, extracted and reason.

    Returns:
        The numbers of rows and of correct ones.
    """
    rows, faults = [], RowFaults()
    for number, row in read_rows(source, faults, blank=True):
        rows.append(row)
        if not isinstance(row.get("pred"), (str, bool, int, float)):
            faults.add(number, 'needs a text "pred"')
        elif fault := answer_fault("gold", row.get("gold")):
            faults.add(number, fault)
    faults.refuse(str(source))
    if not rows:
        raise UserError(f"{source}: it has no rows")
    graded = []
    with Grader(workers) as grader:
        jobs = (
            (row, grader.submit(question(str(row["gold"]), row.get("problem"), kind), str(row["pred"]), mode))
            for row in rows
        )
        for row, grade in in_order(jobs):
            graded.append({**row, "correct": grade.correct, "extracted": grade.extracted, "reason": grade.reason})
    write_jsonl(target, graded)
    return len(graded), sum(row["correct"] for row in graded)


def question(gold: str, problem: Any, kind: str) -> Question:
    """The question of a row; with kind "auto", of the kind that claims the gold text."""
    return Question(gold, None if problem is None else str(problem), kind_of(gold) if kind == AUTO else kind)


def run_grade(args: argparse.Namespace) -> None:
    if args.kind != AUTO and args.kind not in KINDS:
        raise UserError(f"--kind: unknown answer kind {args.kind!r}; give {AUTO}, or one of {', '.join(KINDS)}")
    if args.file:
        if not args.output or args.gold is not None or args.pred is not None:
            raise UserError("grade --file IN.jsonl needs --output OUT.jsonl, and neither --gold nor --pred")
        total, right = grade_file(args.file, args.output, args.mode, args.grade_workers, args.kind)
        print(f"{right} of {total} correct ({args.mode}), written to {args.output}")
        return
    if args.gold is None or args.pred is None:
        raise UserError("grade needs --file IN.jsonl --output OUT.jsonl, or --gold X --pred Y")
    if fault := answer_fault("gold", args.gold):
        raise UserError(f"--gold: {fault}")
    with Grader(workers=1) as grader:
        grade = grader.grade(question(args.gold, args.problem, args.kind), args.pred, args.mode)
    print(json_line({"correct": grade.correct, "extracted": grade.extracted, "reason": grade.reason}), end="")
