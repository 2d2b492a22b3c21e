"""On the controller: what a checkpoint holds of the run, and its way to the disk and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
import torch

from spo_rlhf import upstream_checkpoints
from spo_rlhf.errors import RunStopped, UserError
from spo_rlhf.host import device, model_folder
from spo_rlhf.host.ray_calls import deaths, first_line
from spo_rlhf.methods.base import Supply
from spo_rlhf.trainer import checkpoints
from spo_rlhf.trainer.checkpoint_size import BF16, FP32, checkpoint_bytes
from spo_rlhf.trainer.events import Reporter

STATE = "run.pt"


@dataclass
class Progress:
    """Where a run is, at the start of an iteration."""

    episode: int = 0
    step: int = 0
    iteration: int = 0  # ahead of the step where an iteration had nothing to train
    prompts: int = 0  # taken from the data
    tokens: int = 0  # generated for training, Monte Carlo included
    exhausted: bool = False  # the episode has no prompt left
    evaluated: int = -1  # the last step that was evaluated


class Saver:
    """Writes the checkpoints of a run and reads the one that it goes on from.

    Args:
        groups: the actors of the policy and, where there is one, of the critic.
        supply: of the method, which has its own part of a checkpoint.
    """

    def __init__(self, args: SimpleNamespace, groups: Sequence[Any], supply: Supply, reporter: Reporter):
        self.args, self.groups, self.supply, self.reporter = args, groups, supply, reporter
        self.folder = Path(args.ckpt.path)
        self.damaged = {Path(path) for path in args.damaged}
        self.last: tuple[int, Path] | None = None  # iteration and folder of the last checkpoint of this start

    def load(self) -> dict[str, Any] | None:
        """The state that was saved with the checkpoint to go on from, the supply's part restored; None without one."""
        checkpoints.clear_leftovers(self.folder)
        if self.args.resume_from is None:
            return None
        folder = Path(self.args.resume_from)
        self.supply.load(folder)
        state = torch.load(folder / STATE, weights_only=True)
        self.last = state["progress"]["iteration"], folder
        return state

    def make_room(self, step: int) -> None:
        """Before the step whose checkpoint needs it. Raises RunStopped where there is none."""
        self.remove_damaged()
        checkpoints.make_room(self.folder, self.expected_bytes(), step, self.reporter.note)

    def expected_bytes(self) -> int:
        """Of a checkpoint, before there is one to go by; the least that is known of models on a hub is 0."""
        args = self.args
        ranks = args.actor.num_nodes * args.actor.num_gpus_per_node if args.ds.zero_stage < 3 else 1
        averages = {"actor": ranks if args.train.enable_ema else 0, "critic": 0}
        names = {model: getattr(args, model).model_name_or_path for model in averages}
        size = sum(
            checkpoint_bytes(
                model_folder.parameter_shapes(names[model]),
                FP32 if device.is_cpu() else BF16,
                lora_rank=args.ds.lora.rank,
                averages=averages[model],
                exported=args.ckpt.save_hf,
                states=not args.ckpt.disable_ds,
            )
            for model in averages
            if names[model]
        )
        return int(checkpoints.ROOM_TO_SPARE * size)

    def remove_damaged(self) -> None:
        """Those that a start has passed over, or that were damaged since, make way for what is whole."""
        checkpoints.remove_damaged(self.folder, self.damaged, self.reporter.note)
        self.damaged.clear()  # the run may write the same steps again

    def save(self, state: Mapping[str, Any], *, best: bool = False, metric: float | None = None) -> Path:
        """Write a checkpoint, when the record of the run has all that was reported before; its folder.

        Raises NotSaved where the disk does not take it.
        """
        self.reporter.wait_until_recorded()
        try:
            self.remove_damaged()
            path = self._write(state, best=best, metric=metric)
        except Exception as error:
            cause = getattr(error, "cause", None) or error
            if isinstance(cause, (UserError, RunStopped)) or isinstance(error, deaths()):
                raise
            raise checkpoints.NotSaved(
                f"the checkpoint of step {state['progress']['step']} could not be written ({first_line(error)}); "
                f"{checkpoints.room_told(self.folder)}"
            ) from error
        self.last = state["progress"]["iteration"], path
        return path

    def _write(self, state: Mapping[str, Any], *, best: bool, metric: float | None) -> Path:
        progress, ckpt = state["progress"], self.args.ckpt
        with checkpoints.writing(self.folder, checkpoints.name_of(progress["step"], best=best)) as one:
            folder = str(one.path.absolute())
            ray.get([ref for group in self.groups for ref in group.async_run_method("save_checkpoint", folder=folder)])
            self.supply.save(one.path)
            torch.save(dict(state), one.path / STATE)
            if (exported := upstream_checkpoints.exported(one.path)).exists():
                checkpoints.replace(exported, self.folder / f"{one.name}{checkpoints.EXPORT}")
            return one.finish(metric=metric, run=self.args.identity, most=ckpt.max_num, most_bytes=ckpt.max_mem * 2**30)

    def leave(self, state: Mapping[str, Any]) -> Path | None:
        """A checkpoint of this state, unless the last one is or nothing was done yet (None)."""
        iteration = state["progress"]["iteration"]
        if iteration == 0:
            return None
        if self.last and self.last[0] == iteration and (self.last[1] / checkpoints.MANIFEST).exists():
            return self.last[1]
        return self.save(state)  # also where somebody has removed it
