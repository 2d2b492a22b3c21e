"""The scripts under examples/scripts: each passes --dry-run; SPO-chain runs two steps on the real GSM8K."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import stack

SCRIPTS = sorted((stack.ROOT / "examples" / "scripts").glob("*.sh"))
DATA = Path(os.environ.get("SPO_DATA_DIR", stack.ROOT.parent / "shared" / "data"))


def run(script: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(script), *arguments],
        cwd="/",  # scripts find the checkout themselves
        env={**stack.environment(), **variables},
        capture_output=True,
        text=True,
        timeout=stack.LIMIT_S,
    )


@pytest.mark.e2e
@pytest.mark.timeout(300)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_dry_run(script, tmp_path):
    before = sorted(path.name for path in stack.ROOT.iterdir())
    done = run(script, "--dry-run")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.strip(), "a dry run says what it would do"
    assert sorted(path.name for path in stack.ROOT.iterdir()) == before, "a dry run left something behind"


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_spo_chain_on_real_gsm8k(tmp_path):
    train, held_out = DATA / "gsm8k_train.jsonl", DATA / "gsm8k_test.jsonl"
    if not train.exists() or not held_out.exists():
        pytest.skip(f"no GSM8K at {DATA}: put gsm8k_train.jsonl and gsm8k_test.jsonl there, or set SPO_DATA_DIR")
    script = stack.ROOT / "examples" / "scripts" / "train_spo_chain_gsm8k.sh"
    done = run(script, SMOKE="1", DATA=str(train), EVAL_DATA=str(held_out), OUTPUT=str(tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["finished"] and summary["steps"] == 2 and summary["mc_tokens"] > 0
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    official = {
        "spo.partition.interval": 5, "spo.partition.threshold": 0.9, "actor.adam.lr": 1e-6, "algo.kl.init_coef": 1e-4,
        "rollout.temperature": 0.6, "rollout.top_p": 0.9, "train.max_epochs": 2, "data.max_len": 2047,
    }  # fmt: skip
    assert {name: config[name] for name in official} == official
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.e2e
@pytest.mark.timeout(60)
def test_smoke_without_a_local_file_says_what_is_missing(tmp_path):
    script = stack.ROOT / "examples" / "scripts" / "train_spo_chain_gsm8k.sh"
    done = run(script, SMOKE="1", OUTPUT=str(tmp_path))
    assert done.returncode == 2 and "DATA=" in done.stderr and len(done.stderr.splitlines()) == 1
