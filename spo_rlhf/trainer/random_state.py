"""The state of a process's random generators, as plain numbers and tensors: `torch.load(weights_only=True)` reads it.

OpenRLHF shuffles the samples of an update by the generator of the policy's process. Without its state a run that goes on adds
the same gradients up in another order, which in float32 changes weights in the last digits, and with several optimizer
steps a batch it makes other steps.
"""

import random
from typing import Any

import numpy as np
import torch

from spo_rlhf.host import device


def take() -> dict[str, Any]:
    """Of Python, NumPy, torch and, in a run on GPUs, those that this process has."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": [] if device.is_cpu() else torch.cuda.get_rng_state_all(),
    }


def restore(state: dict[str, Any]) -> None:
    """Let the generators go on from what `take` gave; GPUs only where there are as many."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if not device.is_cpu() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
