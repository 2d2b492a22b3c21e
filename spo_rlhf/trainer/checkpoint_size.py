"""Bytes of a checkpoint before there is one, from the headers of the weights that training begins with.

P numbers in the model, P' of them trained (all of them, or LoRA's), b bytes a number in training (2; 4 without a GPU):

    b P + 12 P'               DeepSpeed's: weights; of what is trained weights and two moments of Adam in float32
    + b P x ranks             averaged weights (--train.enable_ema), of each rank that holds all of them
    + b P                     the folder beside it that --ckpt.save_hf writes

ZeRO shares the states among ranks, and their sum stays. What the file has as bf16 is so 7 times as large, 8 times without a GPU,
and what it has as float32 4 times there. A bound from above: stage 3 writes no weights beside those in float32.
"""

import math
from collections.abc import Iterable

BF16, FP32 = 2, 4
STATES = 3 * FP32  # weights and Adam's two moments


def checkpoint_bytes(
    shapes: Iterable[tuple[int, ...]],
    number_bytes: int,
    *,
    lora_rank: int = 0,
    averages: int = 0,
    exported: bool = False,
    states: bool = True,
) -> int:
    """Of one model.

    Args:
        shapes: of its tensors (`model_folder.parameter_shapes`).
        number_bytes: of a number in training.
        lora_rank: 0: all weights are trained; else two matrices of that rank for each matrix of the model, at most.
        averages: ranks that write averaged weights.
        exported: the model is also written for others to read.
        states: False with --ckpt.disable_ds.
    """
    shapes = list(shapes)
    whole = sum(map(math.prod, shapes))
    adapters = lora_rank * sum(sum(shape) for shape in shapes if len(shape) == 2)
    held, trained = (whole + adapters, adapters) if lora_rank else (whole, whole)
    return number_bytes * held * (states + averages + exported) + STATES * trained * states
