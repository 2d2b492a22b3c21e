"""DeepSpeed's Adam for CPUs, broken off and resumed: bit for bit the steps of one that was not, in processes of their own."""

import subprocess
import sys

import pytest
import stack

pytestmark = pytest.mark.e2e
PROGRAM = """
import sys
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from spo_rlhf.host import device
from spo_rlhf.upstream_checkpoints import count_optimizer_steps

kind, first, last, path, counts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5] == "counts"
device.settle("cpu")
generator = torch.Generator().manual_seed(0)
weights = torch.nn.Parameter(1e-3 * torch.randn(100_000, generator=generator))  # small: a last bit of the step is seen
adam = {"fused": FusedAdam, "offloaded": DeepSpeedCPUAdam}[kind]([weights], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
if first:
    saved = torch.load(path, weights_only=True)
    weights.data.copy_(saved["weights"])
    adam.load_state_dict(saved["adam"])
    if counts:
        count_optimizer_steps(adam)
for step in range(first, last):
    weights.grad = torch.randn(len(weights), generator=torch.Generator().manual_seed(step))
    adam.step()
    if step + 1 == 40:
        torch.save({"weights": weights.data, "adam": adam.state_dict()}, path)
print(weights.data.double().sum().item().hex(), weights.data.view(torch.int32).sum().item())
"""


@pytest.mark.parametrize(
    "kind", ["fused", pytest.param("offloaded", marks=pytest.mark.slow)]
)  # it compiles for a minute
def test_a_resumed_adam_makes_the_steps_of_an_unbroken_one(kind, tmp_path):
    def run(first: int, counts: str) -> str:
        words = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            PROGRAM,
            kind,
            str(first),
            "140",
            str(tmp_path / "adam.pt"),
            counts,
        ]
        environment = {**stack.environment(), "DS_ACCELERATOR": "cpu"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, cwd=stack.ROOT)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()[-1]

    unbroken = run(0, "counts")
    assert run(40, "counts") == unbroken
    assert run(40, "nothing") != unbroken, "DeepSpeed has become exact by itself: count_optimizer_steps can go"
