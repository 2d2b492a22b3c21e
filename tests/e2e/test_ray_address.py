"""spo-train in a Ray cluster that it did not start: it works there, and leaves the cluster as it was."""

import contextlib
import os
import signal
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

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]
NODE = [sys.executable, "-W", "ignore", "-m", "spo_rlhf.cli.ray_node"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SimpleNamespace]:
    """A cluster of one node with one device, its processes in another folder than the run."""
    with tempfile.TemporaryDirectory(prefix="spo-", dir="/tmp") as parent:
        temp_dir = Path(parent) / "node"
        environment = {**stack.environment(), "PYTHONPATH": str(stack.ROOT)}
        node = subprocess.Popen([*NODE, "start", "--temp-dir", str(temp_dir), "--gpus", "1"], cwd="/", env=environment)
        try:
            address = temp_dir / "address"
            deadline = time.monotonic() + 120
            while not address.exists():
                assert node.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
            yield SimpleNamespace(node=node, address=address.read_text())
            started = psutil.Process(node.pid).children(recursive=True)
        finally:
            node.terminate()
            status = node.wait(timeout=60)
        assert status == 0 and not temp_dir.exists()
        assert [process for process in started if process.is_running()] == []


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    return stack.make_task(tmp_path_factory.mktemp("task"), train=64, test=8)


def working(cluster: SimpleNamespace) -> list[str]:
    """What runs in the cluster besides Ray itself: busy workers and what they started."""
    titles = []
    for process in psutil.Process(cluster.node.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            titles.append(process.cmdline()[0])
    services = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
    return [title for title in titles if title.startswith(("ray::", "VLLM::")) and not title.startswith(services)]


def test_sigterm_ends_the_run_and_leaves_the_cluster(cluster, task, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    # Relative paths mean the folder where spo-train was called.
    relative = {
        name: os.path.relpath(task / file, stack.ROOT)
        for name, file in (("reward__remote_url", "reward.py"), ("data__prompt_dataset", "train.jsonl"))
    }
    process = stack.start(stack.options(task, tmp_path, train__num_episodes=50, **relative))
    stack.wait_for_events(process, tmp_path, "step", 1)
    assert working(cluster)
    os.kill(process.pid, signal.SIGTERM)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in stdout.splitlines()[-1]
    # Ray ends the run's actors when it hears that the run has left.
    deadline = time.monotonic() + 15
    while (left := working(cluster)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
    done = subprocess.run(
        [*NODE, "wait", "--address", cluster.address, "--nodes", "1", "--limit", "30"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "1 nodes, 1 GPUs" in done.stdout, done.stderr


def test_a_cluster_with_too_few_gpus_is_said_at_once(cluster, task, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    options = stack.options(task, tmp_path, actor__num_gpus_per_node=2, ref__num_gpus_per_node=2, vllm__num_engines=2)
    process = stack.start(options)
    stdout, stderr = process.communicate(timeout=stack.LIMIT_S)
    assert process.returncode == 2, stdout + stderr
    assert "the cluster has 1 GPUs and the run needs 2" in stdout.splitlines()[-1]
