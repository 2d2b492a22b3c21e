"""Every command that takes a model, with the least arguments that it accepts."""

import stack

from evaluation.__main__ import main as evaluate
from spo_rlhf.cli import diagnose, sample, upstream_trainer
from spo_rlhf.cli.train import main as train


def commands(task, tmp_path):
    """Entry point and arguments of every command that takes a model."""
    files = {
        "model": task / "model",
        "data": task / "train.jsonl",
        "reward": task / "reward.py",
        "output": tmp_path / "out",
    }
    files |= {"input-key": "problem", "label-key": "answer"}
    sampled = [str(part) for name, value in files.items() for part in (f"--{name}", value)]
    offline = {"model.model_name_or_path": task / "model", "data.dataset": task / "rows.jsonl", "train.batch_size": 4}
    offline |= {"train.micro_batch_size": 2, "spo.run_dir": tmp_path / "run", "ckpt.output_dir": tmp_path / "out"}
    supervised = {**offline, "data.input_key": "prompt", "data.output_key": "response"}
    preferred = {**offline, "data.prompt_key": "prompt"}
    flags = {name: [str(part) for pair in values.items() for part in (f"--{pair[0]}", pair[1])] for name, values in (
        ("sft", supervised), ("dpo", preferred))}  # fmt: skip
    evaluated = ["run", "--model", str(task / "model"), "--tasks", f"mine={task / 'train.jsonl'}"]
    return {
        "spo-train": (train, stack.options(task, tmp_path)),
        "spo-train --dry-run": (train, [*stack.options(task, tmp_path), "--dry-run"]),
        "spo-sample": (sample.main, sampled),
        "spo-sample --dry-run": (sample.main, [*sampled, "--dry-run"]),
        "spo-diagnose": (diagnose.main, sampled),
        "spo-diagnose --dry-run": (diagnose.main, [*sampled, "--dry-run"]),
        "spo-eval": (evaluate, [*evaluated, "--output", str(tmp_path / "out"), "--contexts", "400"]),
        "sft": (upstream_trainer.main, ["sft", *flags["sft"]]),
        "dpo": (upstream_trainer.main, ["dpo", *flags["dpo"]]),
    }


COMMANDS = (
    "spo-train",
    "spo-train --dry-run",
    "spo-sample",
    "spo-sample --dry-run",
    "spo-diagnose",
    "spo-diagnose --dry-run",
    "spo-eval",
    "sft",
    "dpo",
)
