"""One optimizer step of the real actor on DeepSpeed: the same weights for any split over micro-batches and gloo ranks.

And the same with logits in chunks, where samples without a gradient are left out, and where shared prefixes are computed once.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import stack
import torch

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


LEVELS = ("token", "segment")


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    return stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=8)


@pytest.fixture(scope="module")
def results(task, tmp_path_factory) -> Path:
    """A folder for each case with what every rank of every layout came to, all from one process that loads the stack."""
    folder = tmp_path_factory.mktemp("results")
    script = stack.ROOT / "tests" / "e2e" / "deepspeed_splits.py"
    # As spo-train does it: with another ninja DeepSpeed would compile its operators again, here and in the next training.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [sys.executable, str(script), str(task), str(folder), *LEVELS, "idle", "packed"],
        capture_output=True,
        text=True,
        env={**stack.environment(), "PATH": path},
        cwd=stack.ROOT,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("level", LEVELS)
def test_a_step_does_not_depend_on_the_split(level, task, results):
    runs = {path.stem: torch.load(path, weights_only=False) for path in (results / level).glob("*.pt")}
    assert len(runs) == 8
    reference = runs["1-8-0"]
    initial = stack.weights(task / "model")
    assert reference["weights"].dtype == torch.float32
    moved = torch.cat([tensor.flatten() for tensor in initial.values()]).numel()
    assert reference["weights"].numel() == moved and reference["status"]["actor_grad_norm"] > 0
    for name, run in runs.items():
        torch.testing.assert_close(run["log_probs"], reference["log_probs"], rtol=1e-6, atol=1e-5)
        assert all(torch.isfinite(torch.as_tensor(value)) for value in run["status"].values()), name
        assert ("is_filter_ratio" in run["status"]) == (level == "segment")
        metrics = {metric for metric in reference["status"] if metric.startswith("ratio/")}
        for metric in {"actor_grad_norm", "policy_loss", "ppo_clip_ratio", "ppo_kl", "kl", *metrics}:
            assert run["status"][metric] == pytest.approx(reference["status"][metric], rel=1e-5), (name, metric)
        # Adam's first step is the sign of the gradient where it is tiny, so single weights may differ by a little more.
        assert (run["weights"] - reference["weights"]).abs().mean() < 1e-7, name


def test_samples_without_a_gradient_can_be_left_out(results):
    """The same weights to the last digits, from fewer passes; a rank with less to compute makes as many calls."""
    runs = {path.stem: torch.load(path, weights_only=False) for path in (results / "idle").glob("*.pt")}
    reference = runs["1-8-0"]
    assert reference["status"]["actor_grad_norm"] > 0
    passes = {name: run["status"]["micro_batches"] for name, run in runs.items()}
    # 3 of 8 samples have a gradient: 2 micro-batches of 2 instead of 4; on two ranks 2 of 1 instead of 4.
    assert passes == {"1-8-0": 1, "1-2-0": 2, "2-1-0": 2, "2-1-1": 2}
    for name, run in runs.items():
        assert run["status"]["actor_grad_norm"] == pytest.approx(reference["status"]["actor_grad_norm"], rel=1e-6)
        assert (run["weights"] - reference["weights"]).abs().mean() < 1e-7, name


def test_packed_samples_train_the_same_weights(results):
    """The log-prob pass, and a step of two packed sequences, on one rank and on two."""
    runs = {path.stem: torch.load(path, weights_only=False) for path in (results / "packed").glob("*.pt")}
    reference = runs.pop("1-8-0")
    assert set(runs) == {"1-4-0", "2-4-0", "2-4-1"} and reference["status"]["actor_grad_norm"] > 0
    for name, run in runs.items():
        torch.testing.assert_close(run["log_probs"], reference["log_probs"], rtol=1e-5, atol=1e-5)
        for metric in ("actor_grad_norm", "policy_loss", "kl", "ratio/max"):
            assert run["status"][metric] == pytest.approx(reference["status"][metric], rel=1e-5), (name, metric)
        assert (run["weights"] - reference["weights"]).abs().mean() < 1e-7, name
        assert run["status"]["pack/tokens"] < 0.8 * run["status"]["pack/unpacked_tokens"], name
        assert run["status"]["pack/repeated"] >= 1 and run["status"]["micro_batches"] == (2 if name[0] == "1" else 1)
