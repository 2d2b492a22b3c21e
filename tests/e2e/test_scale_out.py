"""Two Ray nodes, each with a rank of the policy (ZeRO 2, gloo) and an engine, train what one rank and one engine on one node do."""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import stack
import torch

from spo_rlhf import rollouts

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]
NODE = [sys.executable, "-W", "ignore", "-m", "spo_rlhf.cli.ray_node"]
ACTOR, ENGINE = "ray::SegmentPolicyActor", "ray::SegmentRolloutActor"
# Placement on one GPU a node leaves no other way than a rank and an engine on each.
SPREAD = dict(actor__num_nodes=2, ref__num_nodes=2, vllm__num_engines=2)
# Metrics of how the work was split, not of what was computed.
OF_THE_SPLIT = (*stack.VARYING, "micro_batches", "pack/")
CASES = {
    "chain": {},
    "tree": stack.TREE,
    # Truncated responses are not graded, so few have a gradient; the others are left out, one sample a pass: unequal work.
    "unequal": {
        "spo.mc_rollouts": 1,
        "spo.cutpoint_interval": 12,
        "rollout.batch_size": 16,
        "rollout.n_samples_per_prompt": 2,
        "train.micro_batch_size": 1,
        "train.num_episodes": 2,
    },
}


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    return stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=8)


@pytest.fixture(scope="module")
def nodes() -> Iterator[SimpleNamespace]:
    """Two nodes of one logical GPU each, on this machine; `processes`: one for each, above all that the node has started."""
    with tempfile.TemporaryDirectory(prefix="spo-", dir="/tmp") as parent, contextlib.ExitStack() as ended:
        environment = {**stack.environment(), "PYTHONPATH": str(stack.ROOT)}

        def start(name: str, *options: str) -> subprocess.Popen:
            folder = str(Path(parent) / name)
            command = [*NODE, "start", "--temp-dir", folder, "--gpus", "1", "--name", name]
            process = subprocess.Popen([*command, *options], cwd="/", env=environment)
            ended.callback(process.wait, timeout=60)
            ended.callback(process.terminate)
            return process

        head, file = start("one"), Path(parent) / "one" / "address"
        deadline = time.monotonic() + 120
        while not file.exists():
            assert head.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        address = file.read_text()
        other = start("two", "--address", address)
        subprocess.run([*NODE, "wait", "--address", address, "--nodes", "2", "--limit", "120"], check=True)
        yield SimpleNamespace(processes=[head, other], address=address)


def titles(process: subprocess.Popen) -> list[str]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            found.append(child.cmdline()[0])
    return found


def gaps(one: dict, two: dict) -> dict[str, float]:
    """Metric -> relative difference, of all that a step computes."""
    assert one.keys() == two.keys()
    names = [name for name in one if not name.startswith(OF_THE_SPLIT)]
    return {name: abs(one[name] - two[name]) / max(abs(one[name]), 1e-3) for name in names}


@pytest.mark.parametrize("case", CASES)
def test_two_nodes_train_what_one_does(case, task, nodes, tmp_path, monkeypatch):
    alone_dir, spread_dir = tmp_path / "alone", tmp_path / "spread"
    settings = {"ds.zero_stage": 2, "actor.lr_scheduler": "constant"} | CASES[case]
    alone = stack.train(stack.options(task, alone_dir, **settings), alone_dir)

    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    process = stack.start(stack.options(task, spread_dir, **settings, **SPREAD))
    stack.wait_for_events(process, spread_dir, "step", 1)
    for node in nodes.processes:
        here = titles(node)
        assert [sum(title.startswith(kind) for title in here) for kind in (ACTOR, ENGINE)] == [1, 1], here
    spread = stack.finish(process, spread_dir)

    # The same prompts, seeds and weights: what is sampled first is the same, and so are its advantages.
    first = [
        [{**row, "logprobs": []} for row in rollouts.read(folder / "run") if row["step"] == 1]
        for folder in (alone_dir, spread_dir)
    ]
    assert first[0] == first[1] and first[0]
    assert len(alone["steps"]) == len(spread["steps"]) > 1
    differences = gaps(alone["steps"][0], spread["steps"][0])
    largest = max(differences, key=lambda name: differences[name])
    print(
        f"{case}: step 1, {len(differences)} metrics, largest relative difference {differences[largest]:.1e} of {largest}"
    )
    one, two = stack.weights(alone_dir / "model"), stack.weights(spread_dir / "model")
    distance = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    moved = torch.cat([(one[name] - tensor).abs().flatten() for name, tensor in stack.weights(task / "model").items()])
    print(
        f"{case}: final weights, mean difference {distance.mean():.1e}, largest {distance.max():.1e}; moved {moved.mean():.1e}"
    )
    assert differences[largest] < 1e-4
    assert distance.mean() < 1e-3 * moved.mean()
    if case == "unequal":
        kept, passes = alone["steps"][0]["micro_batches"], spread["steps"][0]["micro_batches"]
        print(f"unequal: {kept:g} samples with a gradient of 32; {passes:g} passes of each of two ranks")
        assert kept < 32 and 2 * passes > kept, "a rank made passes without a sample of its own"
