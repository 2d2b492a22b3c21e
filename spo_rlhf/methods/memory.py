"""The history of the prompts of a run: what is known of one before it is sampled, what it then did, and the checkpoints."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spo_rlhf.core.history import PromptHistory, prompt_key
from spo_rlhf.core.values import Prior, leave_one_out
from spo_rlhf.host.files import read_json, replace_text
from spo_rlhf.rollout.records import Rollout

FILE = "history.json"


class Memory:
    """A `PromptHistory` on the controller."""

    def __init__(self, history: PromptHistory):
        self.history = history

    def prior(self, prompt: str, label: object, iteration: int) -> Prior:
        """What is known of a prompt that is to be sampled in this iteration."""
        return self.history.prior(prompt_key(prompt, label), iteration)

    def learn(self, rollouts: Sequence[Rollout], iteration: int) -> dict[str, float]:
        """Take the rewards of the prompts that were sampled in this iteration, and say how good the baselines were."""
        keys = [prompt_key(one.prompt, one.label) for one in rollouts]
        ages = [age for key in keys if (age := self.history.age(key, iteration)) is not None]
        metrics = {
            "history/known": len(ages) / max(len(keys), 1),
            "history/age": float(np.mean(ages)) if ages else 0.0,
            "history/kept": len(rollouts) / max(sum(one.weight for one in rollouts), 1e-9),
            **baseline_metrics(rollouts),
        }
        for key, rollout in zip(keys, rollouts, strict=True):
            self.history.add(key, rollout.outcomes(), iteration)
        return metrics | {"history/prompts": float(len(self.history.of_prompt))}

    def save(self, folder: Path) -> None:
        """Write the history into the folder of a checkpoint."""
        replace_text(folder / FILE, json.dumps(self.history.state()))

    def load(self, folder: Path) -> bool:
        """Read the history of a checkpoint; False if there is none."""
        if not (folder / FILE).exists():
            return False
        self.history.restore(read_json(folder / FILE))
        return True


def baseline_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Of the rollouts that had a prior: its mean strength, the variance of the baselines, and what they leave of the rewards'."""
    known = [(one.outcomes(), one.prior) for one in rollouts if one.prior is not None]
    known = [(reward_B, prior) for reward_B, prior in known if reward_B]
    if not known:
        return {}
    reward_N = np.concatenate([reward_B for reward_B, _ in known])
    base_N = np.concatenate([leave_one_out(reward_B, prior) for reward_B, prior in known])
    return {
        "history/strength": float(np.mean([prior.count for _, prior in known])),
        "history/baseline_variance": float(base_N.var()),
        "history/residual_variance": float(np.mean((reward_N - base_N) ** 2)),
    }
