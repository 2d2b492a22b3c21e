"""spo-train: on one GPU engine and policy share it and weights go over by CUDA IPC, on two by NCCL, in buckets as well; every method
takes steps.
"""

import math
from pathlib import Path

import pytest
import shapes
import stack
import torch
from transformers import AutoTokenizer

pytestmark = pytest.mark.gpu
STEPS = 4
GPU = {
    "vllm.enforce_eager": True,
    "vllm.gpu_memory_utilization": 0.3,
    "actor.adam.lr": 1e-5,
    "rollout.batch_size": 16,
    "rollout.n_samples_per_prompt": 8,
    "rollout.micro_batch_size": 32,
    "train.batch_size": 128,
    "train.micro_batch_size": 32,
    "rollout.max_new_tokens": 96,
    "data.max_samples": 16 * STEPS,
    "train.num_episodes": 1,
}
SLEEP = {"vllm.enable_sleep": True, "ds.enable_sleep": True}
RUNS = {
    "chain": {"spo.mode": "chain", "spo.mc_rollouts": 4, "no-spo.sleep": True},
    "chain_sleep_zero3": {
        "spo.mode": "chain",
        "spo.mc_rollouts": 4,
        "algo.kl.init_coef": 1e-4,
        "ds.zero_stage": 3,
        "actor.gradient_checkpointing_enable": True,
        "rollout.temperature": 0.6,
        "rollout.top_p": 0.9,
        **SLEEP,
    },
    "tree": {**stack.TREE, "rollout.batch_size": 16, "train.batch_size": 32, "train.micro_batch_size": 16, **SLEEP},
    "group": {"spo.mode": "group", "spo.mc_rollouts": None, **SLEEP},
    "tree_packed": {
        **stack.TREE,
        "rollout.batch_size": 16,
        "train.batch_size": 32,
        "train.micro_batch_size": 16,
        "spo.pack_trees": "on",
        "ds.attn_implementation": "flex_attention",
        **SLEEP,
    },
    "group_buckets": {"spo.mode": "group", "spo.mc_rollouts": None, "spo.weight_bucket_mib": 64, **SLEEP},
    "chain_cuda_graphs": {"spo.mode": "chain", "spo.mc_rollouts": 4, "vllm.enforce_eager": None, **SLEEP},
}
RANKS = {"actor.num_gpus_per_node": 2, "ref.num_gpus_per_node": 2}
# What takes two: weights by NCCL to an engine on a GPU of its own, an engine of two GPUs, two ranks of ZeRO 3 with two engines.
ON_TWO = {
    "nccl": {"train.colocate_all": None, "vllm.gpu_memory_utilization": 0.8},
    "nccl_buckets": {"train.colocate_all": None, "vllm.gpu_memory_utilization": 0.8, "spo.weight_bucket_mib": 64},
    "tensor_parallel": {**RANKS, "vllm.tensor_parallel_size": 2, **SLEEP},
    "ranks_zero3": {**RANKS, "vllm.num_engines": 2, "ds.zero_stage": 3, **SLEEP},
}


def changes(options: dict) -> dict:
    """Those of `stack.options` that make a run of it."""
    return {key.replace(".", "__"): value for key, value in {**GPU, **options}.items()}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arithmetic with a model of the width that GPU kernels expect: 0.3 billion parameters, random."""
    folder = stack.make_task(tmp_path_factory.mktemp("task"), train=256, test=16)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    shapes.save(folder / "model", shapes.config("qwen2.5-0.5b", vocabulary=len(tokenizer)), "cuda")
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_training_takes_steps(name: str, task: Path, tmp_path: Path, figures: dict) -> None:
    check_training(RUNS[name], task, tmp_path, figures)


@pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="needs two GPUs: bash tests/gpu/run.sh on a machine that has them"
)
@pytest.mark.parametrize("name", ON_TWO)
def test_two_gpus_take_steps(name: str, task: Path, tmp_path: Path, figures: dict) -> None:
    check_training({"spo.mode": "chain", "spo.mc_rollouts": 4, **ON_TWO[name]}, task, tmp_path, figures)


def check_training(options: dict, task: Path, tmp_path: Path, figures: dict) -> None:
    """STEPS steps with finite norms, and an engine that follows the policy."""
    run = stack.train(stack.options(task, tmp_path, **changes(options)), tmp_path)
    steps = run["steps"]
    keep = ("gap", "norm", "timing/", "tokens", "mask_density", "reward_mean")
    figures["steps"] = [{k: v for k, v in step.items() if any(part in k for part in keep)} for step in steps]
    figures["summary"] = run["summary"]
    assert run["summary"]["finished"] and len(steps) == STEPS
    assert all(math.isfinite(step["actor_grad_norm"]) for step in steps if "actor_grad_norm" in step)
    # Weights that did not arrive would let the gap grow with every step; top-p's own part of it does not grow.
    gaps = [step["rollout/logprob_gap_max"] for step in steps if "rollout/logprob_gap_max" in step]
    assert gaps and gaps[-1] < 2 * gaps[0] + 0.1
