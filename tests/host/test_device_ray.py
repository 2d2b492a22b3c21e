"""The device of a run in a real cluster whose nodes say that they have GPUs: what each of its processes takes it for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spo_rlhf.host.device import VARIABLE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[2]
CLUSTER = """
import sys, ray
ray.init(num_cpus=2, num_gpus=2, resources={"accelerator_type:H100": 1}, include_dashboard=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
COMMAND = """
import os, ray
from spo_rlhf.host import device, ray_start

device.settle(device.decide(None, False, device.cluster_of(ray_start.cluster_nodes(os.environ["RAY_ADDRESS"]))))
ray_start.init(runtime_env={"env_vars": device.environment()}, include_dashboard=False, logging_level="ERROR")

# What a run's actors hold of a GPU: the controller nothing, engine and policy a share or a whole one. An engine's core is a child.
CHILD = "from spo_rlhf import cpu; from spo_rlhf.host import device; print(cpu.is_cpu(), device.has_gpu())"

@ray.remote(num_cpus=0)
class Role:
    def tell(self):
        from spo_rlhf import cpu
        import subprocess, sys
        core = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True).stdout.split()
        return [str(cpu.is_cpu()), str(device.has_gpu()), *core]

roles = [Role.options(num_gpus=share).remote() for share in (0, 0.2, 0.6, 1)]
print("result", device.current(), *sum(ray.get([role.tell.remote() for role in roles]), []))
"""


def test_every_actor_and_what_it_starts_has_the_drivers_decision():
    environment = {name: value for name, value in os.environ.items() if name not in (VARIABLE, "RAY_ADDRESS")}
    environment["PYTHONPATH"] = str(ROOT)
    run = [sys.executable, "-c"]
    cluster = subprocess.Popen(
        [*run, CLUSTER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        address = cluster.stdout.readline().strip()
        assert address
        done = subprocess.run(
            [*run, COMMAND], env={**environment, "RAY_ADDRESS": address}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        # Nobody sees a GPU here, and nobody takes the run for one on the CPU.
        assert f"result gpu {' '.join(['False'] * 16)}" in done.stdout
    finally:
        cluster.communicate("", timeout=60)
    assert cluster.returncode == 0
