"""Tasks of reasoning-gym (https://github.com/open-thought/reasoning-gym): its generators make the data, its scorers the reward.

Needs `pip install reasoning-gym`. Make the problems, then train with this very file as the reward::

    python -m spo_rlhf.tasks.gym_tasks --task leg_counting --train 2000 --test 200 --output runs/legs
    spo-train --data.prompt_dataset runs/legs/train.jsonl --data.input_key problem --data.label_key label \\
        --eval.dataset runs/legs/test.jsonl --reward.remote_url spo_rlhf/tasks/gym_tasks.py ...

An answer stands between <answer> and </answer>, the last such pair of the response; every problem asks for that. A row's label
holds the problem as its generator made it, since many scorers look at more than the answer. Scores are in [0, 1]; a scorer's share
of a point for a wrong answer that has the right form is not given (`PARTIAL`).
"""

import argparse
import functools
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.arguments import whole
from spo_rlhf.host.command import OneLineParser, run_command
from spo_rlhf.host.files import write_jsonl
from spo_rlhf.tasks.queries import response_of

PROGRAM = "python -m spo_rlhf.tasks.gym_tasks"
ASKS = "\n\nGive the final answer between <answer> and </answer>."
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
PARTIAL = 0.05  # scores up to this one are consolation for a form


def library() -> Any:
    """The package. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("reasoning_gym")
    except ImportError:
        raise UserError("reasoning-gym is not installed: pip install reasoning-gym") from None


def problems(task: str, count: int, seed: int, **settings: Any) -> Iterator[dict[str, Any]]:
    """Rows with problem, answer and label. Raises UserError for an unknown task, or settings that it does not take."""
    gym = library()
    try:
        data = gym.create_dataset(task, size=count, seed=seed, **settings)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"--task {task}: {' '.join(str(error).split())[:200]}") from None
    for number in range(count):
        entry = data[number]
        yield {
            "id": f"{task}/{seed}/{number}",
            "problem": entry["question"] + ASKS,
            "answer": str(entry["answer"]),
            "label": json.dumps({"task": task, "entry": entry}, default=str),
        }


def write_task(output: Path, task: str, train: int, test: int, seed: int, settings: dict[str, Any]) -> tuple[int, int]:
    """Write train.jsonl and test.jsonl, which share no problem; how many each has."""
    held_out = list({row["problem"]: row for row in problems(task, test, seed + 1, **settings)}.values())
    known = {row["problem"] for row in held_out}
    rows = [row for row in problems(task, train, seed, **settings) if row["problem"] not in known]
    if not rows:
        raise UserError(f"--task {task}: it has no other problems than those held out; ask for fewer with --test")
    write_jsonl(output / "train.jsonl", rows)
    write_jsonl(output / "test.jsonl", held_out)
    return len(rows), len(held_out)


@functools.cache
def scorer(task: str) -> Any:
    """The scorer of a task: called as (answer, entry)."""
    return library().get_score_answer_fn(task)


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict:
    """Score responses: lists of B texts to {"rewards": B floats, "scores": B floats, "extra_logs": {}}.

    Raises ValueError for a label that is none of `problems`, and where a query does not contain its prompt.
    """
    rewards = [
        score(response_of(query, prompt), label) for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]
    return {"rewards": rewards, "scores": list(rewards), "extra_logs": {}}


def score(response: str, label: str) -> float:
    """Score in [0, 1] of a response's last answer; 0 without one."""
    try:
        made = json.loads(label)
        task, entry = made["task"], made["entry"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            f"the label {label[:60]!r} holds no problem of reasoning-gym: use --data.label_key label"
        ) from None
    answers = ANSWER.findall(response)
    if not answers:
        return 0.0
    value = float(scorer(task)(answers[-1].strip(), entry))
    return value if value > PARTIAL else 0.0


def build_parser() -> argparse.ArgumentParser:
    """The command line; its errors are UserError."""
    parser = OneLineParser(prog=PROGRAM, description="Problems of reasoning-gym as train.jsonl and test.jsonl.")
    add = parser.add_argument
    add("--task", required=True, metavar="NAME", help="a data set of reasoning-gym")
    add("--output", type=Path, required=True, metavar="DIR")
    add("--train", type=whole(1), default=2000, metavar="N", help="problems to train on (default: %(default)s)")
    add("--test", type=whole(1), default=200, metavar="N", help="problems held out (default: %(default)s)")
    add("--seed", type=whole(0), default=0, metavar="N", help="(default: %(default)s)")
    add("--settings", type=json.loads, default={}, metavar="JSON", help='of the data set, as {"max_animals": 4}')
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, 2 for the user's mistake."""

    def run() -> None:
        args = build_parser().parse_args(argv)
        train, test = write_task(args.output, args.task, args.train, args.test, args.seed, args.settings)
        print(f"{args.output}: {train} problems to train on, {test} held out")

    return run_command(PROGRAM, run)


if __name__ == "__main__":
    sys.exit(main())
