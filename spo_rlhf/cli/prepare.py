"""Make a small task and a small model that solves a part of it: `python -m spo_rlhf.cli.prepare --output DIR`."""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from spo_rlhf.errors import UserError
from spo_rlhf.host import processes
from spo_rlhf.host.arguments import seconds, share, whole
from spo_rlhf.host.command import refuse_in_one_line
from spo_rlhf.host.console import Console, count, duration
from spo_rlhf.host.files import whole_or_nothing, write_json
from spo_rlhf.tasks import arithmetic, knights_knaves

PROGRAM = "prepare"
RECORD = "prepare.json"
INTERRUPTED = f"{PROGRAM}: interrupted; nothing was kept"
# Enough for the warm-up to see hardly any problem twice, and for the tokenizer to see every word often.
SUPERVISED_PROBLEMS, TOKENIZER_PROBLEMS = 32768, 4096
MEASURED_TOKENS = 64
SPARE_TOKENS = 8  # a response may be this much longer than the longest solution: its end of text, a longer number


@dataclass(frozen=True)
class Task:
    """A task: its module (with `PROMPT_TEMPLATE` and `write_task`) and what is its own.

    settings: names and defaults. check: raises ValueError for values out of range. kind: of its answers, for the grader.
    evaluate_every: steps of the warm-up between two measurements, where the longest solution has MEASURED_TOKENS; more
    where it is longer, for then measuring takes longer as well.
    """

    module: ModuleType
    settings: dict[str, int]
    check: Callable[..., None]
    kind: str
    vocabulary_size: int = 512
    evaluate_every: int = 40


TASKS = {
    "arithmetic": Task(arithmetic, {"min_steps": 2, "max_steps": 6}, arithmetic.check_steps, "math"),
    "knights_knaves": Task(
        knights_knaves,
        {"people": 3},
        knights_knaves.check_people,
        "roles",
        vocabulary_size=768,  # for fifty names; with 512 a sequence is a fifth longer
        evaluate_every=50,
    ),
}
EXAMPLES = r"""writes to DIR: train.jsonl (problems for reinforcement learning), sft.jsonl (for the warm-up), test.jsonl (held out),
model/ (Hugging Face format, with its tokenizer), prepare.json (settings, accuracy, time); no problem is in two files

examples:
  python -m spo_rlhf.cli.prepare --output runs/task
  python -m spo_rlhf.cli.prepare --output runs/random --warm-up-steps 0   # random weights, in seconds
  python -m spo_rlhf.cli.prepare --output runs/long --min-steps 8 --max-steps 12 --warm-up-from 2 --warm-up-optimizer muon \
      --warm-up-average 50 --max-seconds 1800
  python -m spo_rlhf.cli.prepare --output runs/knights --task knights_knaves --max-seconds 900
"""


def prepare(directory: Path, settings: dict, console: Console) -> dict:
    """Write the task and the model into an existing directory; return the record. Call `load_libraries` before."""
    from spo_rlhf.tasks.small_model import build_model, build_tokenizer
    from spo_rlhf.tasks.warm_up import WarmUpProgress, WarmUpSettings, warm_up

    start = time.monotonic()
    task = TASKS[settings["task"]]
    own = {name: settings[name] for name in task.settings}
    splits = task.module.write_task(
        directory,
        settings["seed"],
        settings["train"],
        settings["test"],
        SUPERVISED_PROBLEMS,
        supervised_from=settings.get("warm_up_from"),
        **own,
    )
    template = task.module.PROMPT_TEMPLATE
    examples = [(template.format(row["problem"]), row["solution"]) for row in splits["sft"]]
    held_out = [(template.format(row["problem"]), row["answer"]) for row in splits["test"]]
    texts = (prompt + solution for prompt, solution in examples[:TOKENIZER_PROBLEMS])
    tokenizer = build_tokenizer(texts, task.vocabulary_size)
    model = build_model(tokenizer, settings["seed"])
    problems = ", ".join(f"{name} {len(rows)}" for name, rows in splits.items())
    console.line(f"{PROGRAM}: problems: {problems}; model: Qwen2 with {count(model.num_parameters())} parameters")
    longest = max(len(tokenizer(row["solution"])["input_ids"]) for row in splits["test"])
    training = WarmUpSettings(
        target_accuracy=settings["target_accuracy"],
        max_seconds=settings["max_seconds"],
        max_steps=settings["warm_up_steps"],
        max_new_tokens=longest + SPARE_TOKENS,
        optimizer=settings.get("warm_up_optimizer", "adamw"),
        averaged_steps=settings.get("warm_up_average", 0),
        evaluate_every=round(task.evaluate_every * max(1, longest / MEASURED_TOKENS)),
        seed=settings["seed"],
    )

    def report(progress: WarmUpProgress) -> None:
        solved = "" if progress.accuracy is None else f", solves {progress.accuracy:.1%} of the held-out problems"
        console.status(
            f"{PROGRAM}: {progress.stage}, step {progress.step}, loss {progress.loss:.3f}{solved}"
            f" (stops at {training.target_accuracy:.0%}, or in {duration(max(0, progress.seconds_left))})"
        )

    end = warm_up(model, tokenizer, examples, held_out, training, report, task.kind)
    logging.disable(logging.WARNING)  # saving imports DeepSpeed, which says what accelerator it looks for
    model.save_pretrained(directory / "model")
    logging.disable(logging.NOTSET)
    tokenizer.save_pretrained(directory / "model")
    record = {
        "settings": settings,
        "warm_up": asdict(training),
        "parameters": model.num_parameters(),
        "accuracy": end.accuracy,
        "steps": end.step,
        "seconds": round(time.monotonic() - start, 3),
    }
    write_json(directory / RECORD, record)
    return record


def reusable(output: Path, settings: dict, force: bool) -> dict | None:
    """The record of a finished directory with these settings. Raises UserError for one that must not be replaced."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    try:
        record = json.loads((output / RECORD).read_text(encoding="utf-8"))
        found = dict(record["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        # Not made here, so not ours to delete, not even with --force.
        raise UserError(f"{output} exists and holds no {RECORD}: choose another --output") from None
    if force:
        return None
    if found != settings:
        names = [name for name in settings if found.get(name) != settings[name]]
        changed = ", ".join(f"{name} {found.get(name)} instead of {settings[name]}" for name in names)
        raise UserError(f"{output} was made with {changed}: add --force to replace it")
    return record


def load_libraries() -> None:
    """Import what takes seconds to import, and keep it from writing over the progress."""

    with processes.leaving_on_interrupt(INTERRUPTED):
        from transformers.utils import logging as transformers_logging

        import spo_rlhf.tasks.warm_up  # noqa: F401
    transformers_logging.disable_progress_bar()


def show(console: Console, output: Path, record: dict) -> None:
    accuracy, target = record["accuracy"], record["settings"]["target_accuracy"]
    console.line(
        f"{PROGRAM}: {output} is ready: the model solves {accuracy:.1%} of {record['settings']['test']} held-out"
        f" problems after {record['steps']} steps, {duration(record['seconds'])} in all"
    )
    if accuracy < target and record["settings"]["warm_up_steps"] is None:
        console.line(f"{PROGRAM}: stopped by --max-seconds before {target:.0%}; allow more, with --force")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory to make")
    parser.add_argument("--task", choices=TASKS, default="arithmetic", help="default: %(default)s")
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N", help="default: %(default)s")
    parser.add_argument("--train", type=whole(1), default=8192, metavar="N", help="problems; default: %(default)s")
    parser.add_argument("--test", type=whole(1), default=256, metavar="N", help="problems; default: %(default)s")
    parser.add_argument("--min-steps", type=whole(2), metavar="N", help="a problem of arithmetic; default: 2")
    parser.add_argument("--max-steps", type=whole(2), metavar="N", help="a problem of arithmetic; default: 6")
    parser.add_argument("--people", type=whole(2), metavar="N", help="a problem of knights_knaves; default: 3")
    parser.add_argument(
        "--target-accuracy",
        type=share,
        default=0.42,
        metavar="SHARE",
        help="of held-out problems solved, where the warm-up ends; default: %(default)s",
    )
    parser.add_argument(
        "--max-seconds", type=seconds, default=360.0, metavar="S", help="of warm-up, at most; default: %(default)s"
    )
    parser.add_argument(
        "--warm-up-steps", type=whole(0), metavar="N", help="of supervised training, at most; 0: random weights"
    )
    parser.add_argument(
        "--warm-up-from",
        type=whole(2),
        metavar="N",
        help="the warm-up's problems have from N steps, or people, on: short ones teach the long ones sooner; default: as asked",
    )
    parser.add_argument(
        "--warm-up-optimizer",
        choices=("adamw", "muon"),
        help="muon: about half the steps where responses are long; default: adamw",
    )
    parser.add_argument(
        "--warm-up-average",
        type=whole(0),
        metavar="N",
        help="keep the average of about the last N steps' weights, better where the loss jumps; default: 0, the last weights",
    )
    parser.add_argument("--force", action="store_true", help="replace a directory made with other settings")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage, 130 when interrupted."""
    parser = build_parser()
    refuse_in_one_line(parser)
    console = Console()
    try:
        settings = vars(parser.parse_args(argv))
        output, force = settings.pop("output"), settings.pop("force")
        _settle(settings)
        if record := reusable(output, settings, force):
            console.line(f"{PROGRAM}: {output} has these settings and is used as it is; --force makes it again")
        else:
            output.parent.mkdir(parents=True, exist_ok=True)  # fails here, not after minutes
            console.line(f"{PROGRAM}: loading libraries")
            load_libraries()
            with whole_or_nothing(output) as directory:
                record = prepare(directory, settings, console)
        show(console, output, record)
        return 0
    except (UserError, OSError) as error:  # OSError: a directory that cannot be written, a full disk
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        console.line(INTERRUPTED)
        return 130


def _settle(settings: dict) -> None:
    """Keep the task's own settings, filled in. Raises UserError for one of another task, or out of range."""
    chosen = settings["task"]
    flags = {name: f"--{name.replace('_', '-')}" for task in TASKS.values() for name in task.settings}
    own = TASKS[chosen].settings
    for name, flag in flags.items():
        if name not in own and settings.pop(name) is not None:
            raise UserError(f"{flag} is not for --task {chosen}")
    settings.update({name: default if settings[name] is None else settings[name] for name, default in own.items()})
    values = [settings[name] for name in own]
    try:
        TASKS[chosen].check(*values)
    except ValueError as error:
        raise UserError(f"{', '.join(flags[name] for name in own)}: {error}") from None
    for name in ("warm_up_from", "warm_up_optimizer", "warm_up_average"):
        if settings[name] is None:
            del settings[name]  # a directory made before there was this option is still the same
    if settings.get("warm_up_from", 0) > max(values):
        raise UserError(f"--warm-up-from {settings['warm_up_from']}: the largest problems have {max(values)}")


if __name__ == "__main__":
    sys.exit(main())
