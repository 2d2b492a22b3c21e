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
