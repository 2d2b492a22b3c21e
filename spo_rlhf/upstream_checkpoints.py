"""What OpenRLHF and DeepSpeed write and read of a checkpoint, led into the folder of one (trainer/checkpoints.py).

OpenRLHF keeps all checkpoints of a model in `--ckpt.path/_actor`, removes old ones before it writes, and lets a file `latest`
say which one to load. Here `--ckpt.path` is the folder of a single checkpoint while it saves or loads, so there is nothing to
remove, and `latest` names what lies beside it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spo_rlhf.host.device import is_cpu

TAG = "weights"  # DeepSpeed's name for the one state in the folder


@contextlib.contextmanager
def in_folder(strategy: Any, folder: str | None) -> Iterator[None]:
    """Context in which OpenRLHF's actors save to, and where they are built load from, this folder; None: they load nothing."""
    ckpt: SimpleNamespace = strategy.args.ckpt
    before = ckpt.path, ckpt.load_enable
    ckpt.path, ckpt.load_enable = folder or "", folder is not None
    try:
        yield
    finally:
        ckpt.path, ckpt.load_enable = before


def exported(folder: Path) -> Path:
    """The Hugging Face folder that OpenRLHF writes with --ckpt.save_hf."""
    return folder / f"{TAG}_hf"


def count_optimizer_steps(optimizer: Any) -> None:
    """Bring what DeepSpeed's Adam for CPUs keeps beside its state to where a run that was never broken has it.

    Its C++ multiplies powers of beta1 and beta2 up, step by step in float32. A new process would begin with `pow(beta, step)`,
    which is rounded otherwise, and weights would differ in their last bits from some step on. So the steps are counted
    again, with a number that belongs to nothing. Other optimizers keep nothing of the kind.
    """
    import torch

    optimizer = getattr(optimizer, "optimizer", optimizer)  # ZeRO's has the real one
    steps = max((int(one["step"]) for one in optimizer.state.values() if "step" in one), default=0)
    group = optimizer.param_groups[0]
    p, g, m, v = (torch.zeros(1) for _ in range(4))
    for step in range(1, steps + 1):
        if hasattr(optimizer, "ds_opt_adam"):  # DeepSpeedCPUAdam, with --ds.adam_offload
            optimizer.ds_opt_adam.adam_update(
                optimizer.opt_id, step, 0.0, *group["betas"], group["eps"], 0.0, group["bias_correction"], p, g, m, v
            )
        elif is_cpu() and hasattr(optimizer, "multi_tensor_adam"):  # FusedAdam, whose C++ is one object for the process
            options = (
                0.0,
                *group["betas"],
                group["eps"],
                step,
                optimizer.adam_w_mode,
                int(group["bias_correction"]),
                0.0,
            )
            optimizer.multi_tensor_adam(0, optimizer._dummy_overflow_buf, [[g], [p], [m], [v]], *options)
        else:
            return


def own_state(strategy: Any, ema: Any) -> dict[str, Any]:
    """What a rank has to go on from that DeepSpeed's checkpoint does not hold: the averaged weights of --train.enable_ema."""
    if ema is None:
        return {}
    parts = [getattr(one, "ds_tensor", one).detach().cpu().clone() for one in ema.parameters()]
    return {"ema": parts, "ema_steps": strategy.time_steps["ema"]}


def restore_own_state(strategy: Any, ema: Any, state: dict[str, Any]) -> None:
    """Take over what `own_state` gave."""
    if ema is None or "ema" not in state:
        return
    for one, stored in zip(ema.parameters(), state["ema"], strict=True):
        getattr(one, "ds_tensor", one).data.copy_(stored)
    strategy.time_steps["ema"] = state["ema_steps"]
