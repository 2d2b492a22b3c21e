"""Logs for Inspect: what its reader needs is there with the right types, and where it is installed, it reads them."""

import importlib.util
import json

import pytest

from evaluation import stored
from evaluation.__main__ import main
from evaluation.settings import RunSettings, write_settings
from spo_rlhf.host.files import write_jsonl

# Fields that Inspect's reader (0.3.285) requires, or that its viewer shows, with their JSON types.
FIELDS = {
    "": {"version": int, "status": str, "eval": dict, "plan": dict, "results": dict, "stats": dict, "samples": list},
    "eval": {"created": str, "task": str, "dataset": dict, "model": str, "config": dict, "packages": dict},
    "eval.dataset": {"name": str, "samples": int, "sample_ids": list, "shuffled": bool},
    "results": {"total_samples": int, "completed_samples": int, "scores": list},
    "results.scores.0": {"name": str, "scorer": str, "metrics": dict},
    "results.scores.0.metrics.accuracy": {"name": str, "value": float},
    "stats": {"started_at": str, "completed_at": str, "model_usage": dict},
    "samples.0": {
        "id": str,
        "epoch": int,
        "input": str,
        "target": str,
        "messages": list,
        "output": dict,
        "scores": dict,
    },
    "samples.0.scores.strict@64": {"value": str, "answer": str, "explanation": str, "metadata": dict},
    "samples.0.output": {"model": str, "choices": list, "usage": dict},
    "samples.0.output.choices.0": {"message": dict, "stop_reason": str},
}


def grade(correct: bool) -> dict:
    mode = {"correct": correct, "extracted": "4" if correct else "5", "reason": "compared as numbers"}
    return {"chars": 9, "tokens": 3, "truncated": not correct, "strict": mode, "lenient": mode}


@pytest.fixture
def finished(tmp_path):
    """A finished run of two problems with two samples each, at two contexts."""
    rows = [
        {
            "prompt_hash": f"{problem}",
            "sample": sample,
            "context": 64,
            "prompt": f"What is {problem}?",
            "response": "So \\boxed{4}",
            "finished": sample == 0,
            "prompt_tokens": 5,
            "response_tokens": 7,
            "task": "sums",
            "id": f"p{problem}",
            "problem": f"{problem}?",
            "gold": "4",
            "gold_solution": None,
            "kind": "math",
            "grades": {"32": grade(False), "64": grade(sample == 0)},
        }
        for problem in (1, 2)
        for sample in (0, 1)
    ]
    settings = RunSettings(model="runs/mine/model", tasks=("sums=x.jsonl",), contexts=(32, 64), samples=2)
    write_jsonl(tmp_path / "samples" / "sums.jsonl", rows)
    write_settings(settings, tmp_path)
    stored.write_results(settings, tmp_path, {"sums": {"kind": "math", "problems": 2}}, {"sums": rows})
    return tmp_path


def at(value, path: str):
    """What stands at a path of keys and places; keys may hold dots no more than those of FIELDS do."""
    for part in path.split(".") if path else []:
        value = value[int(part) if part.isdecimal() else part]
    return value


def test_the_log_has_what_a_reader_needs(finished, capsys):
    assert main(["export", str(finished)]) == 0
    (path,) = capsys.readouterr().out.split()
    log = json.loads((finished / "inspect" / "sums.json").read_text())
    assert path == str(finished / "inspect" / "sums.json")
    for place, fields in FIELDS.items():
        for name, kind in fields.items():
            assert type(at(log, place)[name]) is kind, (place, name)
    assert [one["name"] for one in log["results"]["scores"]] == ["strict@32", "lenient@32", "strict@64", "lenient@64"]
    assert [(one["id"], one["epoch"]) for one in log["samples"]] == [("p1", 1), ("p1", 2), ("p2", 1), ("p2", 2)]
    assert [one["output"]["choices"][0]["stop_reason"] for one in log["samples"]] == ["stop", "max_tokens"] * 2
    accuracy = {one["name"]: one["metrics"]["accuracy"]["value"] for one in log["results"]["scores"]}
    assert accuracy["strict@32"] == 0 and accuracy["strict@64"] == 0.5


@pytest.mark.skipif(
    importlib.util.find_spec("inspect_ai") is None, reason="inspect_ai is not installed (pip install inspect_ai)"
)
def test_inspects_own_reader_opens_it(finished):
    from inspect_ai.log import read_eval_log, read_eval_log_sample

    assert main(["export", str(finished), "--output", str(finished / "logs")]) == 0
    log = read_eval_log(str(finished / "logs" / "sums.json"))
    assert log.status == "success" and log.eval.config.epochs == 2 and len(log.samples) == 4
    assert log.results.scores[2].metrics["accuracy"].value == 0.5
    sample = read_eval_log_sample(str(finished / "logs" / "sums.json"), id="p2", epoch=2)
    assert sample.scores["strict@64"].value == "I" and sample.output.completion == "So \\boxed{4}"
    assert sample.output.stop_reason == "max_tokens"


def test_a_folder_without_a_run_is_one_line(tmp_path, capsys):
    assert main(["export", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
