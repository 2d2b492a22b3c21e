"""Optimizer steps of DeepSpeed 0.19: made, or left out with nothing touched, for every precision and ZeRO stage.

DeepSpeed itself leaves a step out where it finds a gradient that is not finite, but looks in 16 bit alone (in stage 3 in fp16
alone), and says nothing of it. Its way of leaving one out is what is used here; trainer/guard.py decides.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch


def engine_of(model: Any) -> Any:
    """DeepSpeed's engine in what OpenRLHF's `prepare` gave: of an Actor, or, of a critic, the engine itself."""
    return model if hasattr(model, "is_gradient_accumulation_boundary") else model.model


def ends_step(engine: Any) -> bool:
    """The micro-batch that went backward last completes an optimizer step."""
    return engine.is_gradient_accumulation_boundary()


def gradient_is_finite(engine: Any) -> bool:
    """Whether the norm, before clipping, of the gradient that the next step would use is a finite number.

    With ZeRO that of all data-parallel ranks, which all have to ask; else that of this rank, which has the gradient of all.
    """
    norms = [float(norm) for norm in _group_norms(engine)]
    # What is not finite is -1 in ZeRO's norms of the groups, and would be lost in the norm of all groups.
    return all(norm >= 0 for norm in norms) and math.isfinite(math.hypot(*norms))


def _group_norms(engine: Any) -> list[Any]:
    optimizer = engine.optimizer
    if hasattr(optimizer, "_get_norm_groups"):  # ZeRO 3
        return optimizer._get_norm_groups()
    if hasattr(optimizer, "averaged_gradients"):  # ZeRO 1 and 2
        parameters = optimizer.params_in_partition
        if optimizer.cpu_offload:
            return [optimizer.complete_grad_norm_calculation_for_cpu_offload(group) for group in parameters]
        gradients = optimizer.averaged_gradients
        return [optimizer.get_grad_norm_direct(gradients[i], group) for i, group in enumerate(parameters)]
    flat = getattr(
        optimizer, "fp32_groups_gradients_flat", None
    )  # BF16_Optimizer, which has them apart from the parameters
    parts = flat or [param.grad for param in engine.module.parameters() if param.grad is not None]
    return [torch.linalg.vector_norm(part.float()) for part in parts]


def make_step(engine: Any) -> None:
    """DeepSpeed's step at the end of an optimizer step's micro-batches; whether the gradient is finite is asked before."""
    if hasattr(engine.optimizer, "check_grad_overflow"):
        engine.optimizer.check_grad_overflow = False
    engine.step()


def leave_out_step(engine: Any) -> None:
    """In place of `make_step`: weights, optimizer state and learning rate stay as they are, the gradient is forgotten."""
    with _overflowing(engine.optimizer):
        make_step(engine)


@contextlib.contextmanager
def _overflowing(optimizer: Any) -> Iterator[None]:
    """What DeepSpeed does after an overflow is done in this context."""
    zero, knows_overflow = hasattr(optimizer, "averaged_gradients"), hasattr(optimizer, "overflow")
    step = optimizer.step
    optimizer.overflow = True  # the engine asks any optimizer for it before it moves the learning rate
    if not zero:  # ZeRO's own step does nothing then but drop the gradient
        optimizer.step = lambda *args, **kwargs: None
    try:
        yield
    finally:
        if not zero:
            optimizer.step = step
        optimizer.overflow = False
        if not knows_overflow:
            del optimizer.overflow


def weight_that_is_not_finite(model: Any) -> str | None:
    """Name of the first parameter that is not, of those or the parts of those on this rank; None where all are."""
    parameters = engine_of(model).module.named_parameters()
    parts = [(name, getattr(parameter, "ds_tensor", parameter).detach()) for name, parameter in parameters]
    finite = torch.stack([torch.isfinite(part).all() for _, part in parts]).tolist()
    return next((name for (name, _), good in zip(parts, finite, strict=True) if not good), None)


def weight_bytes(model: Any) -> int:
    """Of one copy of all parameters, which with ZeRO 3 are on no rank whole."""
    parameters = engine_of(model).module.parameters()
    return sum(getattr(one, "ds_numel", one.numel()) * one.element_size() for one in parameters)
