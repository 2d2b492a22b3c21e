"""Named settings, `--spo.preset`: they stand where the command names no option of its own.

`paper`: those of the runs behind https://arxiv.org/abs/2505.23564, chain on GSM8K and tree on MATH, for models of 1 to 1.5
billion parameters. docs/when-spo-pays.md says what they cost, and what to use for less.
"""

import argparse
from typing import Any

from spo_rlhf.core.partition import CUTPOINT_INTERVAL, PROB_THRESHOLD

_OPTIMIZER = {
    "actor.adam.lr": 1e-6,
    "actor.adam.betas": [0.9, 0.999],
    "actor.lr_scheduler": "linear",
    "actor.lr_warmup_ratio": 0.03,
    "actor.max_norm": 1.0,
    "actor.eps_clip": 0.2,
    "algo.kl.init_coef": 1e-4,
    "algo.kl.use_loss": True,
    "algo.kl.estimator": "k3",
}
_SEGMENTS = {
    "spo.prob_mask": True,
    "spo.prob_threshold": PROB_THRESHOLD,
    "spo.kl_scope": "masked",
    "spo.advantage_norm": "batch",
}
_GSM8K = {
    **_OPTIMIZER,
    "rollout.temperature": 0.6,
    "rollout.top_p": 0.9,
    "rollout.batch_size": 64,
    "rollout.n_samples_per_prompt": 8,
    "train.batch_size": 64,
    "train.max_epochs": 2,
}
# preset -> mode -> options, by their names in the command.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "chain": {
            **_GSM8K,
            **_SEGMENTS,
            "spo.partition": "cutpoint",
            "spo.cutpoint_interval": CUTPOINT_INTERVAL,
            "spo.mc_rollouts": 9,
        },
        "tree": {
            **_OPTIMIZER,
            **_SEGMENTS,
            "spo.tree_branching": (6, 6, 6),
            "spo.tree_segment_tokens": (600,),
            "spo.tree_advantage": "mean",
            "spo.replay_max_age": 8,
            "spo.replay_per_prompt": 32,
            "rollout.temperature": 0.6,
            "rollout.top_p": 1.0,
            "rollout.batch_size": 32,
            "rollout.n_samples_per_prompt": 16,
            "train.batch_size": 128,
            "train.max_epochs": 1,
        },
        "group": {**_GSM8K, "algo.advantage.estimator": "group_norm"},
    }
}
# Options of a preset that make no sense beside an explicit choice: name -> (the choice, what it has to be).
_ONLY_WITH = {
    "spo.cutpoint_interval": ("spo.partition", ("cutpoint",)),
    "spo.kl_scope": ("spo.prob_mask", (True, None)),
}


def apply(flat: argparse.Namespace, explicit: set[str]) -> None:
    """Set the options of `--spo.preset` that `explicit` does not name, in place in both arguments; without one, nothing."""
    options = vars(flat)
    if options["spo.preset"] is None:
        return
    chosen = PRESETS[options["spo.preset"]][options["spo.mode"]]
    fitting = {
        name: value
        for name, value in chosen.items()
        if name not in explicit and (name not in _ONLY_WITH or options[_ONLY_WITH[name][0]] in _ONLY_WITH[name][1])
    }
    options.update(fitting)
    explicit.update(fitting)
