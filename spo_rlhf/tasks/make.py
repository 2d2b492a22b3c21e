"""Making a task: its problems, and a small model that solves a part of them."""

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spo_rlhf.errors import UserError
from spo_rlhf.host import model_folder, processes
from spo_rlhf.host.console import Console, count, duration
from spo_rlhf.host.files import write_json
from spo_rlhf.tasks.registry import TASKS
from spo_rlhf.tasks.task import SelfMade

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

    from spo_rlhf.tasks.warm_up import WarmUpProgress, WarmUpSettings

PROGRAM = "prepare"  # whose lines of progress these are
RECORD = "prepare.json"
# Enough for the warm-up to see hardly any problem twice, and for the tokenizer to see every word often.
SUPERVISED_PROBLEMS, TOKENIZER_PROBLEMS = 32768, 4096
MEASURED_TOKENS = 64  # longest solution of the tasks for which `evaluate_every` was chosen
SPARE_TOKENS = 8  # a response may be this much longer than the longest solution: its end of text, a longer number

Splits = dict[str, list[dict[str, Any]]]


def make(directory: Path, settings: dict[str, Any], console: Console) -> dict[str, Any]:
    """Write the task and the model into an existing directory; return the record. Call `load_libraries` before.

    settings: task (a name in TASKS), seed, train and test (numbers of problems), the task's own settings,
    target_accuracy, max_seconds, warm_up_steps, and where they were asked for warm_up_from, warm_up_optimizer and
    warm_up_average.
    """
    from spo_rlhf.tasks.warm_up import warm_up

    start = time.monotonic()
    task = TASKS[settings["task"]]
    made, template = task.self_made, task.template
    assert made is not None and template is not None, "the command line offers tasks that make their own data alone"
    splits = write_problems(directory, made, settings)
    examples = [(template.format(row["problem"]), row["solution"]) for row in splits["sft"]]
    held_out = [(template.format(row["problem"]), row["answer"]) for row in splits["test"]]
    tokenizer, model = new_model(made, examples, settings["seed"])
    problems = ", ".join(f"{name} {len(rows)}" for name, rows in splits.items())
    console.line(f"{PROGRAM}: problems: {problems}; model: Qwen2 with {count(model.num_parameters())} parameters")
    longest = max(len(tokenizer(row["solution"])["input_ids"]) for row in splits["test"])
    training = warm_up_settings(made, settings, longest)

    def report(progress: "WarmUpProgress") -> None:
        solved = "" if progress.accuracy is None else f", solves {progress.accuracy:.1%} of the held-out problems"
        console.status(
            f"{PROGRAM}: {progress.stage}, step {progress.step}, loss {progress.loss:.3f}{solved}"
            f" (stops at {training.target_accuracy:.0%}, or in {duration(max(0, progress.seconds_left))})"
        )

    end = warm_up(model, tokenizer, examples, held_out, training, report, task.kind)
    save(model, tokenizer, directory / "model")
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


def write_problems(directory: Path, made: SelfMade, settings: dict[str, Any]) -> Splits:
    """Write the files of problems; their rows by the name of the file: test, sft and train."""
    return made.write_task(
        directory,
        settings["seed"],
        settings["train"],
        settings["test"],
        SUPERVISED_PROBLEMS,
        supervised_from=settings.get("warm_up_from"),
        **{name: settings[name] for name in made.settings},
    )


def new_model(
    made: SelfMade, examples: list[tuple[str, str]], seed: int
) -> tuple["Qwen2Tokenizer", "Qwen2ForCausalLM"]:
    """A tokenizer of the task's texts, and a model with random weights."""
    from spo_rlhf.tasks.small_model import build_model, build_tokenizer

    texts = (prompt + solution for prompt, solution in examples[:TOKENIZER_PROBLEMS])
    tokenizer = build_tokenizer(texts, made.vocabulary_size)
    return tokenizer, build_model(tokenizer, seed)


def warm_up_settings(made: SelfMade, settings: dict[str, Any], longest: int) -> "WarmUpSettings":
    """`longest`: tokens of the longest solution. Where it is longer, measuring takes longer and comes less often."""
    from spo_rlhf.tasks.warm_up import WarmUpSettings

    return WarmUpSettings(
        target_accuracy=settings["target_accuracy"],
        max_seconds=settings["max_seconds"],
        max_steps=settings["warm_up_steps"],
        max_new_tokens=longest + SPARE_TOKENS,
        optimizer=settings.get("warm_up_optimizer", "adamw"),
        averaged_steps=settings.get("warm_up_average", 0),
        evaluate_every=round(made.evaluate_every * max(1, longest / MEASURED_TOKENS)),
        seed=settings["seed"],
    )


def save(model: "Qwen2ForCausalLM", tokenizer: "Qwen2Tokenizer", folder: Path) -> None:
    logging.disable(logging.WARNING)  # saving imports DeepSpeed, which says what accelerator it looks for
    model.save_pretrained(folder)
    logging.disable(logging.NOTSET)
    model_folder.uncut(tokenizer)
    tokenizer.save_pretrained(folder)


def reusable(output: Path, settings: dict[str, Any], force: bool) -> dict[str, Any] | None:
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
        names = [name for name in {**settings, **found} if found.get(name) != settings.get(name)]
        changed = ", ".join(f"{name} {found.get(name)} instead of {settings.get(name)}" for name in names)
        raise UserError(f"{output} was made with {changed}: add --force to replace it")
    return record


def load_libraries(interrupted: str) -> None:
    """Import what takes seconds to import, and keep it from writing over the progress; Ctrl-C says `interrupted`."""
    with processes.leaving_on_interrupt(interrupted):
        from transformers.utils import logging as transformers_logging

        import spo_rlhf.tasks.warm_up  # noqa: F401
    transformers_logging.disable_progress_bar()
