"""A run around the algorithm, as far as it can be seen without one: its device, its plan as text, why it ends."""

from types import SimpleNamespace

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.host import device, ray_start
from spo_rlhf.launch import run
from spo_rlhf.launch.output import explain, root_cause

GPU_NODE = {"Alive": True, "Resources": {"GPU": 8.0, "accelerator_type:H100": 1.0}}
CPU_NODE = {"Alive": True, "Resources": {"GPU": 2.0, device.STAND_IN: 1.0}}


@pytest.fixture
def asks(monkeypatch):
    """A machine without a GPU, and the nodes of a cluster in `nodes`; notes which addresses were asked."""
    asked = SimpleNamespace(nodes=[], addresses=[])

    def cluster_nodes(address):
        asked.addresses.append(address)
        return asked.nodes

    monkeypatch.setattr(device, "has_gpu", lambda: False)
    monkeypatch.setattr(ray_start, "cluster_nodes", cluster_nodes)
    monkeypatch.setattr(device, "_settled", None)
    for name in (device.VARIABLE, "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return asked


def test_a_command_without_a_gpu_uses_those_of_the_cluster(asks, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    asks.nodes = [GPU_NODE]
    assert run.settle_device(ask_cluster=True) == [] and device.current() == device.GPU
    assert asks.addresses == ["head:6379"] and device.environment() == {"SPO_DEVICE": "gpu"}


def test_a_cluster_of_logical_gpus_runs_on_the_cpu_also_from_a_machine_with_one(asks, monkeypatch):
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    asks.nodes = [CPU_NODE]
    run.settle_device(ask_cluster=True)
    assert device.is_cpu()


def test_without_a_cluster_nobody_is_asked_and_every_run_decides_anew(asks, monkeypatch):
    for here, decision in ((False, device.CPU), (True, device.GPU)):
        monkeypatch.setattr(device, "has_gpu", lambda here=here: here)
        run.settle_device(ask_cluster=True)
        assert device.current() == decision
    assert asks.addresses == []


def test_a_dry_run_connects_to_nothing_and_says_so(asks, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    [note] = run.settle_device(ask_cluster=False)
    assert "a run asks the cluster of RAY_ADDRESS" in note and device.is_cpu()
    monkeypatch.setenv(device.VARIABLE, device.GPU)  # what would run elsewhere
    assert run.settle_device(ask_cluster=False) == [] and not device.is_cpu()
    assert asks.addresses == []


def test_too_few_devices_are_said_before_ray_would_wait_for_them():
    run.check_devices(2, "head:6379", 2.0)
    with pytest.raises(UserError, match="RAY_ADDRESS head:6379: the cluster has 1 GPUs and the run needs 2; add nodes"):
        run.check_devices(2, "head:6379", 1.0)
    with pytest.raises(UserError, match="this machine has 0 GPUs and the run needs 1; ask for fewer"):
        run.check_devices(1, None, 0.0)


class WrappedByRay(Exception):
    def __init__(self, cause):
        super().__init__("a task failed\nwith a long trace")
        self.cause = cause


def test_the_error_that_a_worker_raised_is_said_in_one_line():
    error = root_cause(WrappedByRay(WrappedByRay(UserError("--spo.x 1: too small\nmore"))))
    assert explain(error, "train.log") == (2, "error: --spo.x 1: too small")
    error = root_cause(WrappedByRay(ValueError("first\nsecond")))
    assert explain(error, "train.log") == (1, "error: ValueError: first (log: train.log)")
    assert explain(RuntimeError(), "here") == (1, "error: RuntimeError:  (log: here)")
