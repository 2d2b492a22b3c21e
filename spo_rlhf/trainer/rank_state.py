"""On the ranks of a model: its part of a checkpoint, DeepSpeed's files and what these do not hold."""

from pathlib import Path
from typing import Any

import torch

from spo_rlhf import upstream_checkpoints
from spo_rlhf.trainer import checkpoints, random_state


class SavedRank:
    """Part of an actor with a model (`strategy`); `folder_name` is OpenRLHF's for the model."""

    folder_name: str
    strategy: Any
    ema_model: Any = None

    def load_rank(self, folder: str | None) -> dict[str, Any]:
        """Restore this rank's random state and averaged weights, after the model was loaded; the state, empty without a folder."""
        if folder is None:
            return {}
        upstream_checkpoints.count_optimizer_steps(getattr(self, f"{self.folder_name[1:]}_optim"))
        state = torch.load(self._rank_file(folder), weights_only=True, map_location="cpu")
        upstream_checkpoints.restore_own_state(self.strategy, self.ema_model, state)
        random_state.restore(state["random"])
        return state

    def save_rank(self, folder: str, **values: Any) -> None:
        """Write it, with further plain `values`, and have all that this node wrote of the checkpoint on the disk."""
        state = {
            "random": random_state.take(),
            **upstream_checkpoints.own_state(self.strategy, self.ema_model),
            **values,
        }
        path = self._rank_file(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
        checkpoints.sync(path.parent)

    def _rank_file(self, folder: str) -> Path:
        return Path(folder) / self.folder_name / f"rank{torch.distributed.get_rank()}.pt"
