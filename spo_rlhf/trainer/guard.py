"""On the ranks of a model: an optimizer step whose loss or gradient is not finite is left out, by all of them alike."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from spo_rlhf import upstream_steps
from spo_rlhf.core.finite import MOST, Fault
from spo_rlhf.errors import RunStopped


class StepGuard:
    """Stands between a trainer and its strategy: takes over the strategy's `backward`, `optimizer_step` and `get_grad_norm`.

    A loss that is not finite on one rank, in one micro-batch, leaves out the optimizer step of all; so does a gradient whose
    norm is not finite. `faults_in(number)` says what is told of the micro-batch that went backward last.
    """

    def __init__(self, strategy: Any, faults_in: Callable[[str], Iterable[Fault]]):
        self.strategy, self.faults_in = strategy, faults_in
        self._backward, self._optimizer_step, self._grad_norm = (
            strategy.backward,
            strategy.optimizer_step,
            strategy.get_grad_norm,
        )
        strategy.backward, strategy.optimizer_step, strategy.get_grad_norm = (
            self.backward,
            self.optimizer_step,
            self.grad_norm,
        )
        self.micro_batches = 0  # since the last optimizer step
        self.losses_finite = True  # on this rank, since then
        self.left_out = False  # the last optimizer step
        self.made: list[bool] = []  # of every optimizer step since `take`
        self.faults: list[Fault] = []  # since `take`

    def backward(self, loss: torch.Tensor, model: Any, optimizer: Any, **kwargs: Any) -> None:
        if not torch.isfinite(loss).all():
            self.losses_finite = False
            self._tell("loss")
        self.micro_batches += 1
        self._backward(loss, model, optimizer, **kwargs)  # every rank takes part in what it sends

    def optimizer_step(self, optimizer: Any, model: Any, scheduler: Any, name: str = "model", **kwargs: Any) -> None:
        engine = upstream_steps.engine_of(model)
        if not upstream_steps.ends_step(engine):
            self._optimizer_step(optimizer, model, scheduler, name=name, **kwargs)
            return
        finite = upstream_steps.gradient_is_finite(engine)
        bad_loss = self._on_any_rank(not self.losses_finite)
        bad_gradient = self._on_any_rank(not finite)
        self.left_out = bad_loss or bad_gradient
        if self.left_out:
            if not bad_loss and self.strategy.is_rank_0():
                self._tell("gradient norm")
            upstream_steps.leave_out_step(engine)
        else:
            upstream_steps.make_step(engine)
        self.made.append(not self.left_out)
        self.micro_batches, self.losses_finite = 0, True

    def grad_norm(self, model: Any) -> float:
        """That of the last optimizer step; nan where it was left out, since DeepSpeed's is that of an earlier one."""
        return float("nan") if self.left_out else self._grad_norm(model)

    def take(self) -> tuple[list[bool], list[Fault]]:
        """Which optimizer steps were made since the last call, in their order, and what this rank has seen."""
        taken, self.made, self.faults = (self.made, self.faults), [], []
        return taken

    def _tell(self, number: str) -> None:
        self.faults += list(self.faults_in(number))[: MOST - len(self.faults)]

    def _on_any_rank(self, flag: bool) -> bool:
        return bool(self.strategy.all_reduce(float(flag), op="max"))


class FiniteWeights:
    """Part of an actor with a model: weights that are not finite are neither sent nor saved.

    They can only change in `fit` and where a checkpoint is loaded, so one look after each is enough.
    """

    weights_are_finite = False

    def require_finite_weights(self, strategy: Any, *models: Any) -> None:
        """Raise RunStopped, on every rank, where one of the models has a weight that is not finite."""
        if self.weights_are_finite:
            return
        names = [upstream_steps.weight_that_is_not_finite(model) for model in models if model is not None]
        bad = next(filter(None, names), None)
        if strategy.all_reduce(float(bad is not None), op="max"):
            raise RunStopped(
                f"the weights are not finite any more ({bad or 'on another rank'}); they were neither saved nor sent to an "
                f"engine. Lower the learning rate, or set --actor.max_norm; the checkpoints from before are good"
            )
        self.weights_are_finite = True
