"""Named settings, `--spo.preset`: they stand where the command names no option of its own. Each method brings its own.

A preset that belongs to another method than the one by default brings its method with it, unless the command names one.
"""

import argparse
from typing import Any

from spo_rlhf.cli.spo_options import misplaced
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.options import declared
from spo_rlhf.errors import UserError
from spo_rlhf.methods import METHODS


def apply(flat: argparse.Namespace, explicit: set[str]) -> list[str]:
    """Set the options of `--spo.preset` that `explicit` does not name, in place in both arguments; without one, nothing.

    Returns the names of those that it has set, the method among them where the preset has chosen it.

    What an explicit choice leaves without a meaning is passed over: the interval of cutpoints with another partition,
    the KL scope of the mask without a mask. Raises UserError where the method has no such preset.
    """
    options, came = vars(flat), list[str]()
    if options["spo.preset"] is None:
        return came
    presets = METHODS.choose(options["spo.mode"]).presets
    having = [name for name, method in METHODS.items() if options["spo.preset"] in method.presets]
    if "spo.mode" not in explicit and options["spo.mode"] not in having and having:
        options["spo.mode"], presets = having[0], METHODS.choose(having[0]).presets
        came.append("spo.mode")
    if options["spo.preset"] not in presets:
        there_are = f"choose one of {', '.join(presets)}" if presets else "it has none"
        raise UserError(
            f"--spo.preset {options['spo.preset']}: --spo.mode {options['spo.mode']} has no such settings; {there_are}"
        )
    chosen = {name: value for name, value in presets[options["spo.preset"]].items() if name not in explicit}
    after = {**options, **chosen}
    ours = {f"spo.{option.flag}": option for option in declared(SpoConfig)}
    fitting = {name: value for name, value in chosen.items() if name not in ours or not misplaced(ours[name], after)}
    if options["spo.prob_mask"] is False:
        fitting.pop("spo.kl_scope", None)
    options.update(fitting)
    came += fitting
    explicit.update(came)
    return came


def told(flat: argparse.Namespace, came: list[str]) -> list[str]:
    """What came from the preset, as a line to show; before anything else is settled."""
    options = vars(flat)
    settings = ", ".join(f"--{name} {shown(options[name])}" for name in came)
    return [f"--spo.preset {options['spo.preset']}: {settings}"] if came else []


def shown(value: Any) -> str:
    """A value as the command would have it."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
