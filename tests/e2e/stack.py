"""What the tests of the real stack share: a small random model, a reward that does not need a good one, and spo-train as a subprocess."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import documented

from spo_rlhf.tasks import arithmetic, small_model

ROOT = Path(__file__).parents[2]
LIMIT_S = 600
COIN_REWARD = ROOT / "examples" / "scripts" / "lib" / "coin_reward.py"
# Changes to `options` for SPO-tree: small trees, and one optimizer step an iteration.
TREE = {
    "spo.mode": "tree",
    "spo.mc_rollouts": None,
    "spo.tree_branching": "4,4,3",
    "spo.tree_segment_tokens": 6,
    "rollout.batch_size": 4,
    "rollout.n_samples_per_prompt": 2,
    "rollout.micro_batch_size": 4,
    "train.batch_size": 8,
    "train.micro_batch_size": 4,
}


def make_task(directory: Path, *, train: int, test: int) -> Path:
    """train.jsonl, test.jsonl, model/ (random weights, its own tokenizer) and reward.py in `directory`."""
    rows = arithmetic.generate(0, train)
    held_out = arithmetic.generate(1, test, exclude=frozenset(row["problem"] for row in rows))
    directory.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows), ("test", held_out)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    tokenizer = small_model.build_tokenizer(row["problem"] + row["solution"] for row in rows)
    tokenizer.save_pretrained(directory / "model")
    small_model.build_model(tokenizer, seed=0, hidden_size=64, layers=2).save_pretrained(directory / "model")
    shutil.copy(COIN_REWARD, directory / "reward.py")
    return directory


def options(task: Path, run_dir: Path, **changes) -> list[str]:
    """Arguments of a small run; `changes` has option names with __ for dots, None to leave one out, True for a bare flag."""
    values = {
        "actor.model_name_or_path": task / "model",
        "data.prompt_dataset": task / "train.jsonl",
        "data.input_key": "problem",
        "data.label_key": "answer",
        "data.input_template": arithmetic.PROMPT_TEMPLATE,
        "data.max_len": 320,
        "reward.remote_url": task / "reward.py",
        "rollout.batch_size": 8,
        "rollout.n_samples_per_prompt": 4,
        "rollout.micro_batch_size": 8,
        "rollout.max_new_tokens": 24,
        "train.batch_size": 32,
        "train.micro_batch_size": 8,
        "actor.adam.lr": 1e-3,
        "actor.lr_warmup_ratio": 0,
        "algo.kl.init_coef": 0,
        "actor.num_gpus_per_node": 1,
        "ref.num_gpus_per_node": 1,
        "vllm.num_engines": 1,
        "train.colocate_all": True,
        "spo.mc_rollouts": 3,
        "spo.run_dir": run_dir / "run",
        "ckpt.output_dir": run_dir / "model",
        "ckpt.path": run_dir / "checkpoints",
    }
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    arguments = []
    for name, value in values.items():
        if value is not None:
            several = value if isinstance(value, (list, tuple)) else [value]
            arguments += [f"--{name}", *([] if value is True else map(str, several))]
    return arguments


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def start(arguments: list[str]) -> subprocess.Popen:
    """spo-train in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "spo_rlhf.cli.train", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def events(run_dir: Path, name: str) -> list[dict]:
    """The events of this name that the run has recorded so far: "plan", "step", "eval"."""
    path = run_dir / "run" / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []  # a line may be half written
    return [event for event in map(json.loads, lines) if event["event"] == name]


def wait_for_events(process: subprocess.Popen, run_dir: Path, name: str, count: int) -> None:
    """Until the run has recorded so many events of this name."""
    deadline = time.monotonic() + LIMIT_S
    while len(events(run_dir, name)) < count:
        assert process.poll() is None, process.stdout.read() + process.stderr.read()
        assert time.monotonic() < deadline, f"no {count} events {name!r} after {LIMIT_S} s"
        time.sleep(0.5)


def finish(
    process: subprocess.Popen, run_dir: Path, status: int = 0, own_metrics: frozenset[str] = frozenset()
) -> dict:
    """The run when it has ended: {"summary", "steps", "evals", "config", "stdout"}.

    Fails with the end of its log where the exit status is another, where a traceback reached the terminal, and for a
    logged metric that docs/metrics.md does not have, `own_metrics` of a plugin excepted.
    """
    stdout, stderr = process.communicate(timeout=LIMIT_S)
    log = run_dir / "run" / "train.log"
    tail = log.read_text(encoding="utf-8", errors="replace")[-3000:] if log.exists() else ""
    assert process.returncode == status, f"exit status {process.returncode}\n{stdout}\n{stderr}\n{tail}"
    assert "Traceback" not in stdout + stderr
    logged = {name for event in (*events(run_dir, "step"), *events(run_dir, "eval")) for name in event["metrics"]}
    assert documented.undocumented(logged - own_metrics) == set()
    return {
        "summary": json.loads((run_dir / "run" / "summary.json").read_text(encoding="utf-8")),
        "config": json.loads((run_dir / "run" / "config.json").read_text(encoding="utf-8")),
        "steps": [event["metrics"] for event in events(run_dir, "step")],
        "evals": [event["metrics"] for event in events(run_dir, "eval")],
        "stdout": stdout,
    }


def train(arguments: list[str], run_dir: Path, own_metrics: frozenset[str] = frozenset()) -> dict:
    """Run spo-train to its end; as `finish`."""
    return finish(start(arguments), run_dir, own_metrics=own_metrics)


# Metrics of what the engine computes together, which no two runs do alike.
VARYING = ("timing/", "rollout/logprob_gap_", "rollout/cached_tokens", "rollout/cache_hit_rate")


def assert_same_run(one_dir: Path, one: dict, two_dir: Path, two: dict) -> None:
    """The same rollouts, metrics and evaluations, and the same weights of the saved model, bit for bit."""
    import torch

    from spo_rlhf import rollouts

    assert len(one["steps"]) == len(two["steps"]) > 0
    for step, (first, second) in enumerate(zip(one["steps"], two["steps"], strict=True), start=1):
        assert first.keys() == second.keys(), step
        same = [name for name in first if not name.startswith(VARYING)]
        differ = {name: (first[name], second[name]) for name in same if first[name] != second[name]}
        assert not differ, f"step {step}: {differ}"
    assert one["evals"] == two["evals"]
    kept, again = ([{**row, "logprobs": []} for row in rollouts.read(folder / "run")] for folder in (one_dir, two_dir))
    assert kept == again
    first, second = weights(one_dir / "model"), weights(two_dir / "model")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def weights(directory: Path) -> dict:
    """Tensors of a saved model by name."""
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")
