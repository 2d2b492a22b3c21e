"""RestEM and DPO as scripts: sampled, selected, trained for two steps, sampled again, all with the real stack."""

import json
import subprocess
from pathlib import Path

import pytest
import stack
import torch

from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.verdict import Question

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]
SCRIPTS = stack.ROOT / "examples" / "scripts"


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """Where the first script makes the task and the model that the others take as well."""
    return tmp_path_factory.mktemp("smoke") / "task"


def run(name: str, task: Path, output: Path, **variables: str) -> str:
    environment = {**stack.environment(), "SMOKE": "1", "SMOKE_TASK": str(task), "OUTPUT": str(output), **variables}
    done = subprocess.run(
        ["bash", SCRIPTS / name], cwd="/", env=environment, capture_output=True, text=True, timeout=1400
    )
    logs = "".join(path.read_text(errors="replace")[-2000:] for path in output.rglob("*.log"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + logs
    return done.stdout


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_training(task: Path, output: Path) -> None:
    """Two optimizer steps with a gradient, from the initial model, and a model that is another one and loads."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    summary = json.loads((output / "summary.json").read_text())
    config = json.loads((output / "config.json").read_text())
    assert summary["finished"] and summary["steps"] == 2
    assert all(row["metrics"]["grad_norm"] > 0 for row in rows(output / "metrics.jsonl"))
    official = {"adam.lr": 1e-6, "adam.betas": [0.9, 0.999], "max_norm": 1.0, "lr_scheduler": "linear"}
    assert {name: config[name] for name in official} == official
    assert config["model.model_name_or_path"] == str(task / "model")
    before, after = stack.weights(task / "model"), stack.weights(output / "model")
    assert all(not torch.equal(before[name].float(), after[name].float()) for name in before)
    assert "Not measured in training." in (output / "model" / "README.md").read_text(encoding="utf-8")
    AutoModelForCausalLM.from_pretrained(output / "model")
    AutoTokenizer.from_pretrained(output / "model")


def check_samples(folder: Path, prompts: int, responses: int) -> dict:
    samples = rows(folder / "samples.jsonl")
    assert len(samples) == prompts * responses
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_restem(task, tmp_path, name):
    rounds = {"gsm8k": 2, "math": 1}[name]
    stdout = run(f"train_restem_{name}.sh", task, tmp_path, ITERATIONS=str(rounds))
    for number in range(1, rounds + 1):
        folder = tmp_path / f"round_{number}"
        summary = check_samples(folder / "samples", 48, 8)
        correct = rows(folder / "samples" / "correct.jsonl")
        assert 16 <= len(correct) == summary["selected"]
        assert all(
            row["reward"] == 1 and grade_here(Question(row["label"]), row["response"]).correct for row in correct
        )
        assert len({(row["id"], row["response"]) for row in correct}) == len(correct)
        check_training(task, folder)
        assert json.loads((folder / "config.json").read_text())["spo.sequence_mean"] is True
        check_samples(folder / "validation", 16, 1)
        assert f"round {number}: reward" in stdout
    if rounds == 2:  # the second round samples from what the first one trained
        models = [
            json.loads((tmp_path / f"round_{n}" / "samples" / "manifest.json").read_text())["model"] for n in (1, 2)
        ]
        assert models == [str(task / "model"), str(tmp_path / "round_1" / "model")]
    assert (tmp_path / "model").resolve().parent.parent == tmp_path.resolve()
    check_samples(tmp_path / "evaluation", 32, {"gsm8k": 16, "math": 1}[name])


@pytest.mark.parametrize(("name", "beta"), [("gsm8k", 0.3), ("math", 0.1)])
def test_dpo(task, tmp_path, name, beta):
    run(f"train_dpo_{name}.sh", task, tmp_path)
    check_samples(tmp_path / "samples", 64, 8)
    pairs = rows(tmp_path / "samples" / "pairs.jsonl")
    assert len(pairs) >= 16
    for row in pairs:
        assert (
            grade_here(Question(row["label"]), row["chosen"]).correct
            and not grade_here(Question(row["label"]), row["rejected"]).correct
        )
    check_training(task, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model.beta"], config["spo.dpo_positive"]) == (beta, 50)
    check_samples(tmp_path / "evaluation", 32, {"gsm8k": 16, "math": 1}[name])
