"""Make a small task and a small model that solves a part of it: `python -m spo_rlhf.cli.prepare --output DIR`."""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

from spo_rlhf import plugins
from spo_rlhf.errors import UserError
from spo_rlhf.host.arguments import seconds, share, whole
from spo_rlhf.host.command import command_line, run_command
from spo_rlhf.host.console import Console, duration
from spo_rlhf.host.files import whole_or_nothing
from spo_rlhf.tasks.make import PROGRAM, load_libraries, make, reusable
from spo_rlhf.tasks.registry import TASKS
from spo_rlhf.tasks.task import SelfMade, Setting

INTERRUPTED = "interrupted; nothing was kept"
EXAMPLES = r"""writes to DIR: train.jsonl (problems for reinforcement learning), sft.jsonl (for the warm-up), test.jsonl (held out),
model/ (Hugging Face format, with its tokenizer), prepare.json (settings, accuracy, time); no problem is in two files

examples:
  python -m spo_rlhf.cli.prepare --output runs/task
  python -m spo_rlhf.cli.prepare --output runs/random --warm-up-steps 0   # random weights, in seconds
  python -m spo_rlhf.cli.prepare --output runs/long --min-steps 8 --max-steps 12 --warm-up-from 2 --warm-up-optimizer muon \
      --warm-up-average 50 --max-seconds 1800
  python -m spo_rlhf.cli.prepare --output runs/knights --task knights_knaves --max-seconds 900
  python -m spo_rlhf.cli.prepare --output runs/plan --task plan_first --changes 6 --warm-up-from 2 --warm-up-optimizer muon \
      --warm-up-average 20 --max-seconds 1200
"""


def self_made_tasks() -> dict[str, SelfMade]:
    return {name: task.self_made for name, task in TASKS.items() if task.self_made is not None}


def own_settings() -> dict[str, dict[str, Setting]]:
    """Setting -> task -> what it means there, over all tasks: a name may be a setting of several."""
    found: dict[str, dict[str, Setting]] = {}
    for task, made in self_made_tasks().items():
        for name, setting in made.settings.items():
            found.setdefault(name, {})[task] = setting
    return found


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def build_parser() -> argparse.ArgumentParser:
    """The command line. Raises UserError where a task's setting has the name of another option."""
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="directory to make")
    add("--task", choices=self_made_tasks(), default="arithmetic", help="default: %(default)s")
    add("--plugin", action="append", metavar="FILE.py", help="adds tasks of your own; may be repeated")
    add("--force", action="store_true", help="replace a directory made with other settings")
    add("--seed", type=whole(0), default=0, metavar="N", help="default: %(default)s")
    add("--train", type=whole(1), default=8192, metavar="N", help="problems; default: %(default)s")
    add("--test", type=whole(1), default=256, metavar="N", help="problems; default: %(default)s")
    for name, by_task in own_settings().items():
        meaning = "; ".join(f"{task}: {one.help}, default {one.default}" for task, one in by_task.items())
        try:
            add(flag(name), type=whole(min(one.smallest for one in by_task.values())), metavar="N", help=meaning)
        except argparse.ArgumentError:
            raise UserError(
                f"task {', '.join(by_task)}: {flag(name)} is an option already, rename the setting"
            ) from None
    _add_warm_up(parser.add_argument_group("warm-up"))
    return parser


def _add_warm_up(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    target = "of held-out problems solved, where the warm-up ends; default: %(default)s"
    add("--target-accuracy", type=share, default=0.42, metavar="SHARE", help=target)
    add("--max-seconds", type=seconds, default=360.0, metavar="S", help="at most; default: %(default)s")
    add("--warm-up-steps", type=whole(0), metavar="N", help="of supervised training, at most; 0: random weights")
    smaller = (
        "its problems are this large (steps, people) or larger: small ones teach the large ones; default: as asked"
    )
    add("--warm-up-from", type=whole(2), metavar="N", help=smaller)
    muon = "muon: about half the steps where responses are long; default: adamw"
    add("--warm-up-optimizer", choices=("adamw", "muon"), help=muon)
    average = (
        "keep the average of about the last N steps' weights, better where the loss jumps; default: 0, the last weights"
    )
    add("--warm-up-average", type=whole(0), metavar="N", help=average)


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    console = Console()
    command = functools.partial(_command, argv, console)
    return run_command(PROGRAM, command, interrupted=INTERRUPTED, say=console.line)


def _command(argv: list[str], console: Console) -> None:
    plugins.load(plugins.named_in(argv))
    settings = vars(build_parser().parse_args(argv))
    output, force = settings.pop("output"), settings.pop("force")
    del settings["plugin"]
    settle(settings)
    if record := reusable(output, settings, force):
        console.line(f"{PROGRAM}: {output} has these settings and is used as it is; --force makes it again")
    else:
        output.parent.mkdir(parents=True, exist_ok=True)  # fails here, not after minutes
        console.line(f"{PROGRAM}: loading libraries")
        load_libraries(f"{PROGRAM}: {INTERRUPTED}")
        with whole_or_nothing(output) as directory:
            record = make(directory, settings, console)
    show(console, output, record)


def settle(settings: dict[str, Any]) -> None:
    """Keep the chosen task's own settings, filled in. Raises UserError for one of another task, or out of range."""
    chosen = settings["task"]
    made = self_made_tasks()[chosen]
    for name in own_settings():
        if name not in made.settings and settings.pop(name) is not None:
            raise UserError(f"{flag(name)} is not for --task {chosen}")
    for name, setting in made.settings.items():
        if settings[name] is None:
            settings[name] = setting.default
        if settings[name] < setting.smallest:
            raise UserError(f"{flag(name)} {settings[name]}: --task {chosen} needs at least {setting.smallest}")
    values = {name: settings[name] for name in made.settings}
    try:
        made.check(**values)
    except ValueError as error:
        raise UserError(f"{', '.join(map(flag, values))}: {error}") from None
    for name in ("warm_up_from", "warm_up_optimizer", "warm_up_average"):
        if settings[name] is None:
            del settings[name]  # a directory made before there was this option is still the same
    largest = max(values.values(), default=0)
    if settings.get("warm_up_from", 0) > largest:
        raise UserError(f"--warm-up-from {settings['warm_up_from']}: the largest problems have {largest}")


def show(console: Console, output: Path, record: dict[str, Any]) -> None:
    accuracy, target = record["accuracy"], record["settings"]["target_accuracy"]
    console.line(
        f"{PROGRAM}: {output} is ready: the model solves {accuracy:.1%} of {record['settings']['test']} held-out"
        f" problems after {record['steps']} steps, {duration(record['seconds'])} in all"
    )
    if accuracy < target and record["settings"]["warm_up_steps"] is None:
        console.line(f"{PROGRAM}: stopped by --max-seconds before {target:.0%}; allow more, with --force")


if __name__ == "__main__":
    sys.exit(main())
