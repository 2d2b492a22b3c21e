"""What is known of the tasks, for people and for scripts: `python -m spo_rlhf.tasks show NAME`."""

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.command import command_line, run_command
from spo_rlhf.tasks.registry import TASKS
from spo_rlhf.tasks.task import HubData, Task

PROGRAM = "python -m spo_rlhf.tasks"
EXAMPLES = """\
examples:
  python -m spo_rlhf.tasks list
  python -m spo_rlhf.tasks show gsm8k                            # everything, as JSON
  python -m spo_rlhf.tasks show gsm8k --field train.problem      # "question"
  python -m spo_rlhf.tasks show math500 --field test --field reward
  eval "$(python -m spo_rlhf.tasks show math --shell --field template --field train.prompt_dataset)"
                                                                 # sets $template and $train_prompt_dataset
"""


def as_data(name: str, task: Task) -> dict[str, Any]:
    """A task's record as JSON has it: texts, lists and objects; functions are left out."""
    made = task.self_made
    return {
        "name": name,
        "description": task.description,
        "files": list(task.files),
        "test": _hub(task.test),
        "train": _hub(task.train),
        "template": task.template,
        "prompt": asdict(task.asked),
        "kind": task.kind,
        "reward": str(task.reward),
        "settings": {key: setting.default for key, setting in made.settings.items()} if made else None,
    }


def _hub(data: HubData | None) -> dict[str, Any] | None:
    return None if data is None else {**asdict(data), "prompt_dataset": data.prompt_dataset}


def field_of(data: dict[str, Any], path: str) -> Any:
    """The value at "template" or "train.problem". Raises UserError where there is no such field."""
    value: Any = data
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            known = ", ".join(value) if isinstance(value, dict) else "nothing"
            raise UserError(f"--field {path}: {data['name']} has no {key!r} there, but {known}")
        value = value[key]
    return value


def as_shell(path: str, value: Any) -> str:
    """An assignment that a shell can evaluate, trailing newlines included; nothing is an empty text."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{path.replace('.', '_')}={shlex.quote(text)}"


def build_parser() -> argparse.ArgumentParser:
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="names and descriptions")
    sub = commands.add_parser("show", help="one task's record")
    sub.add_argument("name", metavar="NAME")
    sub.add_argument(
        "--field",
        action="append",
        metavar="F",
        help="only this one, such as template or train.problem; may be repeated",
    )
    sub.add_argument("--shell", action="store_true", help="assignments for eval, in place of JSON; needs --field")
    return parser


def show(args: argparse.Namespace) -> None:
    """Print a task, or some of its fields. Raises UserError."""
    if args.name not in TASKS:
        raise UserError(f"no task {args.name!r}; known are {', '.join(TASKS)}")
    if args.shell and not args.field:
        raise UserError("--shell needs --field")
    data = as_data(args.name, TASKS[args.name])
    values = {path: field_of(data, path) for path in args.field or []}
    if args.shell:
        print("\n".join(as_shell(path, value) for path, value in values.items()))
        return
    shown = data if not values else values if len(values) > 1 else next(iter(values.values()))
    print(json.dumps(shown, indent=2, ensure_ascii=False))


def list_tasks() -> None:
    for name, task in TASKS.items():
        print(f"{name}: {task.description}")


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, or 2 for wrong usage (one line on stderr)."""

    def command() -> None:
        args = build_parser().parse_args(argv)
        if args.command == "list":
            list_tasks()
        else:
            show(args)

    return run_command(PROGRAM, command)


if __name__ == "__main__":
    sys.exit(main())
