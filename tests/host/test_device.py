"""Whether a run uses GPUs: every combination of what is asked for, what is here and what the cluster has."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.host import device, ray_node
from spo_rlhf.host.device import CPU, GPU, Cluster, cluster_of, decide

HERE, NONE = True, False
NO_CLUSTER = None
EMPTY, REAL = Cluster(), Cluster(recognised=8.0)
LOGICAL, UNKNOWN = Cluster(logical=2.0), Cluster(unknown=4.0)
MIXED = Cluster(recognised=8.0, logical=2.0)


def node(alive: bool = True, **resources: float) -> dict:
    return {"Alive": alive, "NodeName": "n", "Resources": {"CPU": 8.0, **resources}}


@pytest.fixture(autouse=True)
def as_found(monkeypatch):
    monkeypatch.delenv(device.VARIABLE, raising=False)
    monkeypatch.setattr(device, "_settled", None)


@pytest.mark.parametrize(
    ("asked", "has_gpu", "cluster", "decision"),
    [
        (None, HERE, NO_CLUSTER, GPU),
        (None, NONE, NO_CLUSTER, CPU),
        (None, HERE, REAL, GPU),
        (None, NONE, REAL, GPU),  # started from a login node
        (None, HERE, LOGICAL, CPU),
        (None, NONE, LOGICAL, CPU),
        (None, HERE, UNKNOWN, GPU),
        (None, HERE, EMPTY, CPU),
        (None, NONE, EMPTY, CPU),
        (GPU, HERE, NO_CLUSTER, GPU),
        (GPU, HERE, REAL, GPU),
        (GPU, NONE, REAL, GPU),
        (GPU, NONE, UNKNOWN, GPU),
        (GPU, NONE, EMPTY, GPU),
        *((CPU, has_gpu, cluster, CPU) for has_gpu in (HERE, NONE) for cluster in (NO_CLUSTER, EMPTY, REAL, LOGICAL)),
        (CPU, NONE, UNKNOWN, CPU),
        (CPU, HERE, MIXED, CPU),
    ],
)
def test_the_device_of_a_run(asked, has_gpu, cluster, decision):
    assert decide(asked, has_gpu, cluster) == decision


@pytest.mark.parametrize(
    ("asked", "has_gpu", "cluster", "message"),
    [
        (GPU, NONE, NO_CLUSTER, "SPO_DEVICE=gpu, but torch finds no GPU on this machine"),
        (GPU, HERE, LOGICAL, "SPO_DEVICE=gpu, but the cluster's nodes have no GPU"),
        (None, HERE, MIXED, "8 GPUs and 2 logical ones"),
        (GPU, HERE, MIXED, "set SPO_DEVICE=cpu"),
        (None, NONE, UNKNOWN, "4 GPUs without knowing their model, and this machine has none; set SPO_DEVICE=gpu if"),
    ],
)
def test_what_cannot_be_had_or_told_is_refused_in_one_line(asked, has_gpu, cluster, message):
    with pytest.raises(UserError) as refusal:
        decide(asked, has_gpu, cluster)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_cluster_is_the_sum_of_its_living_nodes_by_kind():
    nodes = [
        node(GPU=4.0, **{"accelerator_type:H100": 1.0}),
        node(GPU=4.0, **{"accelerator_type:A100": 1.0}),
        node(GPU=2.0),
        node(GPU=1.0, spo_cpu=1.0),
        node(GPU=1.0, spo_cpu=1.0, **{"accelerator_type:H100": 1.0}),  # SPO_DEVICE=cpu on a machine with a GPU
        node(),
        node(alive=False, GPU=8.0, **{"accelerator_type:H100": 1.0}),
    ]
    assert cluster_of(nodes) == Cluster(recognised=8.0, unknown=2.0, logical=2.0)
    assert cluster_of([]) == cluster_of([node()]) == EMPTY


def test_what_was_settled_comes_before_the_environment_and_that_before_what_is_here(monkeypatch):
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    assert device.current() == GPU and not device.is_cpu()
    monkeypatch.setenv(device.VARIABLE, CPU)
    assert device.is_cpu() and device.environment() == {"SPO_DEVICE": "cpu"}
    device.settle(GPU)
    assert not device.is_cpu() and device.environment() == {"SPO_DEVICE": "gpu"}
    device.settle(None)
    assert device.is_cpu()


@pytest.mark.parametrize("value", ["cuda", "GPU", "1"])
def test_another_value_of_the_variable_is_refused(value, monkeypatch):
    monkeypatch.setenv(device.VARIABLE, value)
    with pytest.raises(UserError, match=f"SPO_DEVICE={value}: give cpu or gpu"):
        device.current()


def test_an_empty_variable_asks_for_nothing(monkeypatch):
    monkeypatch.setenv(device.VARIABLE, "")
    assert device.asked_for() is None


@pytest.mark.parametrize("told", [CPU, GPU])
def test_a_worker_that_was_told_never_asks_torch(told):
    """In a process of its own, where an import of torch would be seen: a trainer without a GPU on a machine with some."""
    code = (
        "import sys; from spo_rlhf import cpu; from spo_rlhf.host import device;"
        "print(cpu.is_cpu(), device.is_cpu(), 'torch' in sys.modules)"
    )
    environment = {**os.environ, device.VARIABLE: told}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(told == CPU)] * 2 + ["False"]


@pytest.mark.parametrize(
    ("cuda", "driver", "says"),
    [
        (
            None,
            "580.95.05",
            r"torch \S+ is a build without CUDA: bash requirements/install_gpu\.sh, or set SPO_DEVICE=cpu",
        ),
        ("13.0", "550.54.15", r"\(driver 550.54.15\), and torch \S+ for CUDA 13.0 needs driver 580 or later"),
        ("12.8", "470.1", "for CUDA 12.8 needs driver 525 or later"),
        ("13.0", "580.95.05", "for CUDA 13.0 cannot use it: see `nvidia-smi`"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_one_line(monkeypatch, cuda, driver, says):
    import torch

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(device, "has_gpu", lambda: False)
    monkeypatch.setattr(device, "gpu_memory_bytes", lambda: 80 << 30)
    monkeypatch.setattr(device, "_driver_version", lambda: driver)
    line = device.unusable_gpu()
    assert line is not None and re.search(says, line) and "\n" not in line
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.unusable_gpu() is None, "hidden on purpose"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    assert device.unusable_gpu() is None


def test_logical_gpus_are_marked_as_such():
    resources = device.logical_resources(3)
    assert resources["num_gpus"] == 3 and resources["num_cpus"] == 8
    assert cluster_of([node(GPU=float(resources["num_gpus"]), **resources["resources"])]) == Cluster(logical=3.0)


def test_a_node_of_a_batch_job_carries_the_mark_as_ray_reads_it():
    args = argparse.Namespace(temp_dir=Path("/tmp/spo-1.0-0"), address=None, interface=None, name=None)
    command = ray_node.start_command(args, device.logical_resources(2))
    options = dict(part.partition("=")[::2] for part in command if part.startswith("--"))
    assert options["--num-gpus"] == "2" and device.STAND_IN in json.loads(options["--resources"])


@pytest.mark.parametrize(
    ("visible", "gib"),
    [
        (None, 8),
        ("", 8),  # hidden on purpose: nothing is planned for them
        ("1", 80),
        ("2, 1", 80),
        ("0,1", 8),
        ("9", 8),  # there is none: as if nothing were said
        ("GPU-of-2", 141),
        ("MIG-of-1", 10),  # a part of a GPU
        ("GPU-2", None),  # abbreviated: the driver does not know it
    ],
)
def test_the_memory_is_that_of_the_gpus_that_may_be_used(monkeypatch, visible, gib):
    sizes = {0: 8, 1: 80, 2: 141, "GPU-of-2": 141, "MIG-of-1": 10}
    driver = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetHandleByUUID=lambda name: {one: one for one in sizes if isinstance(one, str)}[name],
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=sizes[handle] << 30),
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device.gpu_memory_bytes() == (gib and gib << 30)
