"""Named settings, `--spo.preset`: they stand where the command names no option of its own. Each method brings its own."""

import argparse

from spo_rlhf.cli.spo_options import misplaced
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.options import declared
from spo_rlhf.errors import UserError
from spo_rlhf.methods import METHODS


def apply(flat: argparse.Namespace, explicit: set[str]) -> None:
    """Set the options of `--spo.preset` that `explicit` does not name, in place in both arguments; without one, nothing.

    What an explicit choice leaves without a meaning is passed over: the interval of cutpoints with another partition,
    the KL scope of the mask without a mask. Raises UserError where the method has no such preset.
    """
    options = vars(flat)
    if options["spo.preset"] is None:
        return
    presets = METHODS.choose(options["spo.mode"]).presets
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
    explicit.update(fitting)
