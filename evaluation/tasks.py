"""The tasks: where their problems come from and how their answers are graded. Adding a task is one entry in TASKS."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import read_jsonl


@dataclass(frozen=True)
class Task:
    """A named data set.

    files: names of local files to look for in --data-dir, in this order.
    dataset, config, split: the Hugging Face data set used without --data-dir; "" where there is none.
    problem, answer: keys of a row. kind: which grader. prompt: the preset used unless --prompt says otherwise.
    """

    files: tuple[str, ...]
    dataset: str = ""
    config: str | None = None
    split: str = "test"
    problem: str = "problem"
    answer: str = "answer"
    kind: str = "math"
    prompt: str = "boxed"


TASKS: dict[str, Task] = {
    "gsm8k": Task(("gsm8k_test.jsonl", "gsm8k.jsonl"), "openai/gsm8k", "main", problem="question"),
    "math500": Task(("math500.jsonl",), "HuggingFaceH4/MATH-500"),
    "aime24": Task(("aime24.jsonl",), "HuggingFaceH4/aime_2024", split="train"),
    "amc23": Task(("amc23.jsonl",), "math-ai/amc23", problem="question"),
    "math": Task(("math_test.jsonl", "math.jsonl"), "EleutherAI/hendrycks_math", answer="solution"),
    "knights_knaves": Task(
        ("kk_3ppl_test.jsonl", "knights_knaves.jsonl"),
        "K-and-K/knights-and-knaves",
        "test",
        split="3ppl",
        problem="quiz",
        answer="solution_text_format",
        kind="roles",
        prompt="roles",
    ),
    "arithmetic": Task(("test.jsonl", "arithmetic.jsonl"), prompt="arithmetic"),
}
MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


@dataclass(frozen=True)
class Problem:
    """One problem. `gold_solution` is the reference solution where the data have one: the lenient mode reads its gold
    from there.
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


def load_task(spec: str, data_dir: Path | None, limit: int | None = None) -> LoadedTask:
    """Load "math500", or "name=path.jsonl" with the keys problem and answer.

    Raises:
        UserError: unknown task, missing file or keys; the message says what to do.
    """
    name, _, path = spec.partition("=")
    if path:
        task = TASKS.get(name, Task(()))
        rows = list(read_jsonl(Path(path)))
    elif name in TASKS:
        task = TASKS[name]
        rows = _local_rows(name, task, data_dir) if data_dir else _hub_rows(name, task)
    else:
        raise UserError(f"--tasks: no task {name!r}; known are {', '.join(TASKS)}, or give NAME=PATH.jsonl")
    if not rows:
        raise UserError(f"--tasks {spec}: no problems found")
    problems = tuple(_problem(name, task, number, row) for number, row in enumerate(rows[:limit]))
    if len({problem.id for problem in problems}) < len(problems):
        problems = tuple(
            Problem(f"{number}/{p.id}", p.text, p.gold, p.gold_solution) for number, p in enumerate(problems)
        )
    return LoadedTask(name, task, problems)


def _local_rows(name: str, task: Task, data_dir: Path) -> list[dict[str, Any]]:
    for file in task.files:
        if (data_dir / file).exists():
            return list(read_jsonl(data_dir / file))
    raise UserError(f"--tasks {name}: no {' or '.join(task.files)} in --data-dir {data_dir}")


def _hub_rows(name: str, task: Task) -> list[dict[str, Any]]:
    if not task.dataset:
        raise UserError(f"--tasks {name}: has no public data set; give --data-dir with {task.files[0]}")
    import datasets

    configs = MATH_SUBJECTS if name == "math" else (task.config,)
    try:
        return [
            dict(row) for config in configs for row in datasets.load_dataset(task.dataset, config, split=task.split)
        ]
    except Exception as error:
        raise UserError(
            f"--tasks {name}: the data set {task.dataset} cannot be loaded ({type(error).__name__}); "
            f"give --data-dir with {task.files[0]}"
        ) from error


def _problem(name: str, task: Task, number: int, row: dict[str, Any]) -> Problem:
    """Rows of local files have problem and answer; those of the hub the data set's own keys."""
    text = row.get("problem", row.get(task.problem))
    gold = row.get("answer", row.get(task.answer))
    if (
        not isinstance(text, str)
        or not isinstance(gold, (str, int, float))
        or isinstance(gold, bool)
        or text == ""
        or gold == ""
    ):
        raise UserError(f'--tasks {name}: row {number + 1} needs a text "problem" and an "answer"')
    solution = row.get("solution")
    solution = solution if isinstance(solution, str) and r"\boxed" in solution else None
    return Problem(str(row.get("id", row.get("unique_id", number))), text, str(gold), solution)
