"""The estimate of memory without a GPU against what the processes of a real run take at most."""

import time
from pathlib import Path

import psutil
import pytest
import run_processes
import stack
from transformers import AutoTokenizer

from spo_rlhf.cli.train import parse
from spo_rlhf.launch import cpu_memory, gpu_rules
from spo_rlhf.tasks import small_model

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]
RANK, ENGINE, CORE = "ray::SegmentPolicyActor", run_processes.ENGINE, run_processes.CORE
MIB = 1 << 20
# Prompts of up to 66 tokens and responses of 24, so that micro-batches are as long as the estimate takes them for.
SETTINGS = {"spo.mode": "group", "spo.mc_rollouts": None, "data.max_len": 96, "train.num_episodes": 2}


def peak_bytes(process: psutil.Process) -> int:
    """The largest resident set so far, which the kernel keeps."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measured(task: Path, run_dir: Path) -> dict[str, int]:
    """Largest resident set by kind of process, over a run of some steps."""
    run_dir.mkdir()
    process, found = stack.start(stack.options(task, run_dir, **SETTINGS)), {}
    while process.poll() is None:
        for kind in (RANK, ENGINE, CORE):
            for one in run_processes.named(process.pid, kind):
                try:
                    found[kind] = max(found.get(kind, 0), peak_bytes(one))
                except (OSError, StopIteration):
                    continue  # it has just ended
        time.sleep(0.3)
    stack.finish(process, run_dir)
    return found


def estimated(task: Path, run_dir: Path) -> cpu_memory.CpuPlan:
    args, _ = parse(stack.options(task, run_dir, **SETTINGS))
    load, shape = gpu_rules.load_of(args, gpu_rules.read_shape(args)), gpu_rules.read_shape(args)
    return cpu_memory.plan(shape, load, args.vllm.num_engines, accumulates=True)


def test_the_estimate_is_what_a_model_adds_to_each_process(tmp_path):
    """A model of 106 million parameters beside one of 0.1 million: what the libraries take is in both."""
    small = stack.make_task(tmp_path / "small", train=16, test=8)
    large = stack.make_task(tmp_path / "large", train=16, test=8)
    tokenizer = AutoTokenizer.from_pretrained(small / "model")
    small_model.build_model(tokenizer, 0, hidden_size=768, layers=12).save_pretrained(large / "model")
    without, with_it = measured(small, tmp_path / "without"), measured(large, tmp_path / "with")
    plans = [estimated(task, tmp_path / "plan") for task in (small, large)]
    took = {kind: with_it[kind] - without[kind] for kind in (RANK, ENGINE, CORE)}
    small_plan, large_plan = plans
    told = {
        RANK: large_plan.rank_peak - small_plan.rank_peak,
        ENGINE: large_plan.engine_peak - small_plan.engine_peak,
        CORE: large_plan.core_peak - small_plan.core_peak,
    }
    for kind in took:
        print(f"{kind}: measured {took[kind] / MIB:.0f} MiB, estimated {told[kind] / MIB:.0f} MiB")
    off = {kind: told[kind] / took[kind] - 1 for kind in took}
    assert all(abs(share) < 0.15 for share in off.values()), off
