"""`spo-eval export`: a finished run as logs of Inspect (https://inspect.aisi.org.uk), for its viewer and what else reads them.

A log a task, as JSON. Each response is a sample, the n-th of its problem in epoch n; each grading mode at each context limit is a
scorer, `strict@2048`, so that nothing of the run is averaged away. Nothing of Inspect is imported; a
test opens the logs with its own reader.
"""

import argparse
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.results import summarize
from evaluation.stored import stored_run
from spo_rlhf.errors import UserError
from spo_rlhf.graders.verdict import MODES
from spo_rlhf.host.files import read_json, write_json

VERSION = 2  # of the log format
RIGHT, WRONG = "C", "I"  # as Inspect's scorers say it
SUFFIX = ".json"


def run_export(args: argparse.Namespace) -> None:
    for path in export(args.folder, args.output or args.folder / "inspect"):
        print(path)


def export(folder: Path, output: Path) -> list[Path]:
    """Write the logs of a finished run; their paths. Raises UserError: the folder holds no finished run."""
    settings, known, rows = stored_run(folder)
    results = read_json(folder / "results.json")
    made = datetime.fromtimestamp((folder / "results.json").stat().st_mtime, UTC).isoformat()
    paths = []
    for task in known:
        if not rows[task]:
            raise UserError(f"{folder}: no samples of {task}; run the evaluation again")
        groups = sorted({row["context"] for row in rows[task]})
        for context in groups:
            mine = [row for row in rows[task] if row["context"] == context]
            name = task if len(groups) == 1 else f"{task}-{context}"
            log = task_log(name, mine, settings.model, results, made)
            paths.append(output / f"{name}{SUFFIX}")
            write_json(paths[-1], log)
    return paths


def task_log(name: str, rows: list[dict[str, Any]], model: str, results: dict[str, Any], made: str) -> dict[str, Any]:
    """A log of Inspect's of the samples of one task.

    Args:
        results: the results file of the run.
        made: when it was written, ISO 8601.
    """
    limits = sorted({int(limit) for row in rows for limit in row["grades"]})
    settings, ids = results["settings"], list(dict.fromkeys(row["id"] for row in rows))
    epochs = max(row["sample"] for row in rows) + 1
    identity = hashlib.sha256(f"{model}\0{name}\0{made}".encode()).hexdigest()[:22]
    return {
        "version": VERSION,
        "status": "success",
        "eval": {
            "eval_id": identity,
            "run_id": identity,
            "task_id": identity,
            "created": made,
            "task": name,
            "dataset": {"name": name, "samples": len(ids), "sample_ids": ids, "shuffled": False},
            "model": model,
            "model_generate_config": {
                "temperature": settings["temperature"],
                "top_p": settings["top_p"],
                "seed": settings["seed"],
                "max_tokens": max(limits),
            },
            "config": {"epochs": epochs},
            "packages": results["versions"],
            "metadata": {"spo_eval": settings},
        },
        "plan": {"name": "plan", "steps": [{"solver": "generate"}]},
        "results": {
            "total_samples": len(rows),
            "completed_samples": len(rows),
            "scores": [score_of_all(rows, limit, mode) for limit in limits for mode in MODES],
        },
        "stats": {"started_at": made, "completed_at": made, "model_usage": {model: usage(rows)}},
        "samples": [sample(row, model) for row in rows],
    }


def score_of_all(rows: list[dict[str, Any]], limit: int, mode: str) -> dict[str, Any]:
    """The accuracy of a mode under a limit, with its interval beside it."""
    point = summarize(rows, limit)
    low, high = point[mode]["interval"]
    return {
        "name": scorer(mode, limit),
        "scorer": scorer(mode, limit),
        "scored_samples": point["samples"],
        "metrics": {"accuracy": {"name": "accuracy", "value": point[mode]["pass@1"]}},
        "metadata": {"interval_95": [low, high], "truncated": point["truncated"]},
    }


def scorer(mode: str, limit: int | str) -> str:
    return f"{mode}@{limit}"


def sample(row: dict[str, Any], model: str) -> dict[str, Any]:
    """One response as a sample of Inspect's."""
    answer = {"role": "assistant", "content": row["response"], "source": "generate", "model": model}
    stop = "stop" if row["finished"] else "max_tokens"
    return {
        "id": row["id"],
        "epoch": row["sample"] + 1,
        "input": row["prompt"],
        "target": row["gold"],
        "messages": [{"role": "user", "content": row["prompt"], "source": "input"}, answer],
        "output": {"model": model, "choices": [{"message": answer, "stop_reason": stop}], "usage": usage([row])},
        "scores": {
            scorer(mode, limit): {
                "value": RIGHT if cut[mode]["correct"] else WRONG,
                "answer": cut[mode]["extracted"],
                "explanation": cut[mode]["reason"],
                "metadata": {"tokens": cut["tokens"], "truncated": cut["truncated"]},
            }
            for limit, cut in row["grades"].items()
            for mode in MODES
        },
        "metadata": {"problem": row["problem"], "kind": row["kind"]},
    }


def usage(rows: list[dict[str, Any]]) -> dict[str, int]:
    read, written = (sum(row[f"{what}_tokens"] for row in rows) for what in ("prompt", "response"))
    return {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
