"""The two trainings of the soak: their commands, the reward files that make them alike, and what they have recorded."""

import argparse
from pathlib import Path
from typing import Any

import study

from spo_rlhf.host.files import read_json, replace_text
from spo_rlhf.launch import history
from spo_rlhf.tasks import arithmetic

UNBROKEN, BROKEN = "unbroken", "broken"
HELD_OUT, PROMPTS, RESPONSES = 128, 8, 4
SAVE_EVERY, EVALUATIONS = 5, 4
REWARD = '''"""The grader of the task; one response in {every}, chosen by its text, {what}."""

import hashlib
import time

from spo_rlhf.tasks.math_reward import reward_func as graded


def reward_func(queries, prompts, labels):
    for query in queries:
        if int(hashlib.sha256(query.encode()).hexdigest(), 16) % {every} == 0:
            with open({hits!r}, "a") as file:
                file.write("1\\n")
            {answer}
    return graded(queries, prompts, labels)
'''


def prepare_command(args: argparse.Namespace) -> list[str]:
    """Data and a model that solves a part of it."""
    sizes = {"train": PROMPTS * args.steps, "test": HELD_OUT, "min-steps": 2, "max-steps": 2}
    sizes |= {"output": args.output / "task", "max-seconds": args.warm_up_seconds}
    return [*study.program("prepare"), *study.flags(sizes)]


def train_command(args: argparse.Namespace, run: str) -> list[str]:
    """spo-train, the same for both runs but for folders and reward file."""
    task, folder = args.output / "task", args.output / run
    options = {
        "actor.model_name_or_path": task / "model",
        "data.prompt_dataset": task / "train.jsonl",
        "eval.dataset": task / "test.jsonl",
        "data.input_key": "problem",
        "data.label_key": "answer",
        "data.input_template": arithmetic.PROMPT_TEMPLATE,
        "data.max_len": 192,
        "data.max_samples": PROMPTS * args.steps,
        "reward.remote_url": folder / "reward.py",
        "rollout.batch_size": PROMPTS,
        "rollout.n_samples_per_prompt": RESPONSES,
        "rollout.micro_batch_size": PROMPTS * RESPONSES,
        "rollout.max_new_tokens": 64,
        "train.batch_size": PROMPTS * RESPONSES,
        "train.micro_batch_size": PROMPTS * RESPONSES,
        "train.num_episodes": 1,
        "train.seed": 42 + args.seed,
        "actor.adam.lr": 1e-4,
        "actor.lr_scheduler": "constant",
        "actor.lr_warmup_ratio": 0,
        "algo.kl.init_coef": 0,
        "actor.num_gpus_per_node": 1,
        "vllm.num_engines": 2,
        "eval.temperature": 0,
        "eval.n_samples_per_prompt": 1,
        "eval.steps": max(1, args.steps // EVALUATIONS),
        "ckpt.save_steps": 2 if args.quick else SAVE_EVERY,
        "ckpt.best_metric_key": "none",
        "spo.mc_rollouts": 2,
        "spo.cutpoint_interval": 3,
        "spo.reward_timeout": 10,
        "spo.max_reward_failures": 0.2,
        "spo.engine_timeout": 120,
        "spo.max_engine_restarts": 1000,
        "spo.resume": "auto",
        "spo.run_dir": folder / "run",
        "ckpt.output_dir": folder / "model",
        "ckpt.path": folder / "checkpoints",
    }
    return [*study.program("train"), *study.flags(options)]


def write_reward(args: argparse.Namespace, run: str) -> None:
    """The run's reward file."""
    folder = args.output / run
    folder.mkdir(parents=True, exist_ok=True)
    what, answer = ("hangs", "time.sleep(3600)")
    if run == UNBROKEN:
        what, answer = ("gets 0", 'return {"rewards": [0.0], "scores": [0.0], "extra_logs": {}}')
    text = REWARD.format(every=args.hangs, what=what, hits=str(folder / "hits"), answer=answer)
    replace_text(folder / "reward.py", text)


def last_step(folder: Path, started: float = 0.0) -> int:
    """The last step that the run has recorded, of the start at that time or a later one; 0 before the first."""
    step, counts = 0, False
    for event in history.read_events(folder / "run", print):
        if event["event"] == "plan":
            counts = event["started"] >= started
        elif event["event"] == "step" and counts:
            step = event["step"]
    return step


def read_run(folder: Path) -> dict[str, Any]:
    """summary, metrics of the steps, evaluations."""
    events = history.read_events(folder / "run", print)
    of = {kind: [event["metrics"] for event in events if event["event"] == kind] for kind in ("step", "eval")}
    return {"summary": read_json(folder / "run" / "summary.json"), "steps": of["step"], "evals": of["eval"]}
