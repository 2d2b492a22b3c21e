"""The device of a run in a real cluster whose nodes say that they have GPUs: what a worker without one of them does."""

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

@ray.remote(num_cpus=1, num_gpus=0)
class WithoutGpu:
    def tell(self):
        from spo_rlhf import cpu
        return cpu.is_cpu(), device.has_gpu()

print("result", device.current(), *ray.get(WithoutGpu.remote().tell.remote()))
"""


def test_a_worker_without_a_gpu_does_not_adapt_itself_to_the_cpu():
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
        assert "result gpu False False" in done.stdout
    finally:
        cluster.communicate("", timeout=60)
    assert cluster.returncode == 0
