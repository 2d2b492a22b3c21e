"""What a diagnosis chose, as settings that can be measured."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from estimates import Setting

from spo_rlhf.core.options import numbers, whole_numbers
from spo_rlhf.core.partition import Places
from spo_rlhf.core.tree import TreeShape
from spo_rlhf.core.tree_baselines import Shrunk
from spo_rlhf.errors import UserError
from spo_rlhf.host.files import read_json


@dataclass(frozen=True)
class Diagnosed:
    """A design, and its predicted noise x tokens in units of RLOO's with 8 responses, with a 95 % interval."""

    setting: Setting
    price: float
    price_low: float
    price_high: float

    @property
    def price_text(self) -> str:
        return f"{self.price:.2f} ({self.price_low:.2f} to {self.price_high:.2f})"


def diagnosed(file: Path) -> dict[str, Diagnosed]:
    """By name, the choices of a diagnosis.json of spo-diagnose. Raises UserError where it is none."""
    try:
        choices = read_json(file)["choices"]
        return {
            one["what"] + (", history" if one["history"] else ""): Diagnosed(
                as_setting(one["options"], one["history"]), *(one["price"][end] for end in ("value", "low", "high"))
            )
            for one in choices
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--diagnosis {file}: not the diagnosis.json of spo-diagnose ({error})") from error


def as_setting(options: str, history: int) -> Setting:
    """The setting that options of spo-train name, as spo-diagnose writes them. Raises ValueError for any other."""
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--spo.mode", dest="mode", choices=("group", "chain", "tree"), required=True)
    parser.add_argument("--rollout.n_samples_per_prompt", dest="responses", type=int, default=8)
    parser.add_argument("--spo.mc_rollouts", dest="rollouts", type=int, default=4)
    parser.add_argument("--spo.partition", choices=("places",))
    parser.add_argument("--spo.places", dest="places", type=whole_numbers)
    parser.add_argument("--spo.tree_branching", dest="branching", type=whole_numbers)
    parser.add_argument("--spo.tree_segment_tokens", dest="segment_tokens", type=whole_numbers)
    parser.add_argument("--spo.tree_advantage", choices=("shrunk",))
    parser.add_argument("--spo.tree_settled", dest="settled", type=numbers)
    parser.add_argument("--spo.tree_level_weights", action="store_true")  # estimates.py weighs levels so in any case
    parser.add_argument("--spo.baseline", choices=("history",))
    parser.add_argument("--algo.advantage.estimator", choices=("rloo",))
    try:
        args = parser.parse_args(options.split())
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if args.mode == "group":
        return Setting(responses=args.responses, history=history)
    if args.mode == "chain":
        return Setting(args.responses, None, Places(places=args.places), args.rollouts, history=history)
    return Setting(
        tree=TreeShape(args.branching, args.segment_tokens),
        advantage=Shrunk(branching=args.branching, settled=args.settled),
        history=history,
    )
