"""The problems of a task: from local files, or from the Hugging Face hub. What a task is stands in `spo_rlhf.tasks`."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import AS_WRITTEN
from spo_rlhf.host.rows import RowFaults, answer_fault, is_empty, label_text, read_rows, value_fault
from spo_rlhf.sampling.sample_log import UNUSED
from spo_rlhf.tasks.registry import TASKS
from spo_rlhf.tasks.task import Task

LONGEST_NAME, SHOWN_CHARS = 100, 60
PLAIN_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")


@dataclass(frozen=True)
class Problem:
    """One problem.

    gold_solution: the reference solution, where the data have one with a box; the lenient mode reads its gold there.
    """

    id: str
    text: str
    gold: str
    gold_solution: str | None = None


@dataclass(frozen=True)
class LoadedTask:
    """A task and its problems, ids unique."""

    name: str
    task: Task
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()  # where the data are not those that others measure


def load_tasks(specs: Sequence[str], data_dir: Path | None, limit: int | None = None) -> list[LoadedTask]:
    """`load_task` of each.

    Raises:
        UserError: also where a name is no plain one, or two have one name: its samples would be kept elsewhere than in the
            run's folder, or with those of the other.
    """
    names = [spec.partition("=")[0] for spec in specs]
    for name in names:
        if not PLAIN_NAME.fullmatch(name) or name.endswith(UNUSED):
            raise UserError(
                f"--tasks: {name[:SHOWN_CHARS]!r} names the file of its samples; take at most "
                f"{LONGEST_NAME} letters, digits and . _ -, the first no dot or dash, and not {UNUSED} at the end"
            )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--tasks: {', '.join(twice)} is there twice; name each once (another NAME=PATH.jsonl)")
    return [load_task(spec, data_dir, limit) for spec in specs]


def load_task(spec: str, data_dir: Path | None, limit: int | None = None) -> LoadedTask:
    """Load "math500", or "name=path.jsonl" with the keys problem and answer.

    Raises:
        UserError: unknown task, missing file or keys; the message says what to do.
    """
    name, _, path = spec.partition("=")
    if not path and name not in TASKS:
        raise UserError(f"--tasks: no task {name!r}; known are {', '.join(TASKS)}, or give NAME=PATH.jsonl")
    task = TASKS.get(name, Task("problems of a file"))
    faults, problems, count = RowFaults(), [], 0
    if path or data_dir:
        rows = read_rows(path or _local_file(name, task, Path(data_dir or ".")), faults, blank=True, **AS_WRITTEN)
    else:
        rows = enumerate(_hub_rows(name, task), start=1)
    for line, row in rows:
        if limit is None or count < limit:
            problem = _problem(task, count, row)
            if isinstance(problem, str):
                faults.add(line, problem)
            else:
                problems.append(problem)
        count += 1
    faults.refuse(f"--tasks {name}")
    if not count:
        raise UserError(f"--tasks {spec}: no problems found")
    if len({problem.id for problem in problems}) < len(problems):
        problems = [replace(problem, id=f"{number}/{problem.id}") for number, problem in enumerate(problems)]
    notes = () if path else shape_notes(name, task, problems, whole=limit is None or limit >= count)
    return LoadedTask(name, task, tuple(problems), tuple(notes))


def data_hash(problems: Sequence[Problem]) -> str:
    """Of questions and answers, in their order; the results file holds it."""
    return hashlib.sha256("\0".join(f"{one.text}\1{one.gold}" for one in problems).encode()).hexdigest()[:16]


def shape_notes(name: str, task: Task, problems: Sequence[Problem], *, whole: bool) -> list[str]:
    """What tells the data from those of that name, in lines to show; `whole`: none were left out.

    Raises UserError for an answer that no problem of the task has: the data are of something else.
    """
    if task.answer is not None:
        for number, one in enumerate(problems, start=1):
            if not re.fullmatch(task.answer, one.gold.strip()):
                raise UserError(
                    f"--tasks {name}: row {number} has the answer {one.gold[:40]!r}, which its problems never have"
                )
    if not whole:
        return []
    if task.size is not None and len(problems) != task.size:
        return [f"{name}: {len(problems)} problems, the task has {task.size}; its scores compare with nobody else's"]
    if task.data is not None and data_hash(problems) != task.data:
        return [f"{name}: texts or answers differ from the data that this was tested with (hash {task.data})"]
    return []


def _local_file(name: str, task: Task, data_dir: Path) -> Path:
    for file in task.files:
        if (data_dir / file).exists():
            return data_dir / file
    if not task.files:
        raise UserError(f"--tasks {name}: its record names no local files; give {name}=PATH.jsonl")
    raise UserError(f"--tasks {name}: no {' or '.join(task.files)} in --data-dir {data_dir}")


def _hub_rows(name: str, task: Task) -> list[dict[str, Any]]:
    instead = f"give --data-dir with {task.files[0]}" if task.files else f"give {name}=PATH.jsonl"
    if task.test is None:
        raise UserError(f"--tasks {name}: has no public data set; {instead}")
    import datasets

    data = task.test
    try:
        parts = [datasets.load_dataset(data.dataset, config, split=data.split) for config in data.configs or (None,)]
        return [dict(row) for part in parts for row in part]
    except Exception as error:
        raise UserError(
            f"--tasks {name}: the data set {data.dataset} cannot be loaded ({type(error).__name__}); {instead}"
        ) from error


def _problem(task: Task, number: int, row: dict[str, Any]) -> Problem | str:
    """The problem of a row, or what is wrong with it.

    Rows of local files have problem and answer; those of the hub the data set's own keys.
    """
    problem, answer = (task.test.problem, task.test.answer) if task.test else ("problem", "answer")
    text, gold = row.get("problem", row.get(problem)), row.get("answer", row.get(answer))
    if isinstance(gold, list) and gold and all(isinstance(one, str) for one in gold):
        gold = ", ".join(gold)  # several answers, all of which are asked for
    if not isinstance(text, str) or is_empty(text):
        return 'needs a text "problem" and an "answer"'
    if fault := value_fault("problem", text) or answer_fault("answer", gold):
        return fault
    solution = row.get("solution")
    solution = solution if isinstance(solution, str) and r"\boxed" in solution else None
    return Problem(str(row.get("id", row.get("unique_id", number))), text, label_text(gold), solution)
