"""`--spo.*` on the command line: the parser, what contradicts what, and the way to a SpoConfig.

Every option is declared where it is used (core/options.py); nothing here names one unless two of them meet, or one of
ours meets one of OpenRLHF's.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from spo_rlhf.config import SpoConfig
from spo_rlhf.core import options as declarations
from spo_rlhf.core.options import Option, OptionError, declared
from spo_rlhf.errors import UserError
from spo_rlhf.launch import settings_file
from spo_rlhf.methods.base import SetOption


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the `--spo.*` group, `--config` and `--dry-run` to OpenRLHF's parser. Raises UserError for parts that cannot be offered."""
    group = parser.add_argument_group("Segment Policy Optimization (--spo.*)")
    try:
        options = declared(SpoConfig)
    except ValueError as error:  # a plugin's part: those of the package are tested
        raise UserError(f"--spo.plugin: {error}") from None
    for option in options:
        group.add_argument(f"--spo.{option.flag}", **_argument(option))
    parser.add_argument(
        settings_file.FLAG,
        action="append",
        metavar="FILE.yaml",
        help="settings as a file of NAME: VALUE (docs/settings.md); flags win over it, and later files over earlier ones",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        dest="dry_run",
        help="parse, validate, print the resolved configuration and the placement; start nothing",
    )


def _argument(option: Option) -> dict[str, Any]:
    """What argparse wants to know of an option."""
    common = {"default": option.default, "help": help_text(option).replace("%", "%%")}
    if option.is_switch:
        return {**common, "action": argparse.BooleanOptionalAction}
    if names := option.names():
        return {**common, "choices": names}
    if option.repeated:
        return {**common, "default": None, "action": "append", "metavar": option.metavar}
    return {**common, "type": _typed(option.parse), "metavar": option.metavar}


def _typed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser whose own words reach the user; argparse shows those of int and float well by itself."""
    if parse in (int, float, str):
        return parse

    def typed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


def default_text(option: Option) -> str:
    """The default as people write it."""
    if option.default_text is not None:
        return option.default_text if isinstance(option.default_text, str) else option.default_text()
    if option.required:
        return "none, required"
    if option.is_switch:
        return "on" if option.default else "off"
    return f"{option.default:g}" if isinstance(option.default, float) else str(option.default)


def help_text(option: Option) -> str:
    """Meaning, bounds, owner and default of an option, in one sentence."""
    bounds = f"; {option.bounds}" if str(option.bounds) else ""
    owner = f"{option.where()}; " if option.where() else ""
    return f"{option.meaning()}{bounds} ({owner}default: {default_text(option)})"


def explicit_options(parser: argparse.ArgumentParser, argv: list[str]) -> set[str]:
    """Names (dots, no dashes) of the options that `argv` really names, as opposed to defaults."""
    defaults = {action.dest: action.default for action in parser._actions}
    try:
        for action in parser._actions:
            action.default = argparse.SUPPRESS
        return set(vars(parser.parse_args(argv)))
    finally:
        for action in parser._actions:
            action.default = defaults[action.dest]


def refuse_strangers(options: Mapping[str, Any], explicit: set[str]) -> None:
    """Raise UserError for an option, named by the command, of a part that was not chosen."""
    for option in declared(SpoConfig):
        if f"spo.{option.flag}" in explicit and (wrong := misplaced(option, options)):
            flag, name = wrong
            raise UserError(
                f"--spo.{option.flag} has no meaning with --spo.{flag} {options[f'spo.{flag}']}; "
                f"leave it out or use --spo.{flag} {name}"
            )


def misplaced(option: Option, options: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first (choice, name) that would have to be made for the option to mean something; None where it does."""
    missing = None
    for path in option.owners:
        wrong = next(((flag, name) for flag, name in path if options[f"spo.{flag}"] != name), None)
        if wrong is None:
            return None
        missing = missing or wrong
    return missing


def resolve(options: Mapping[str, Any]) -> SpoConfig:
    """Flat options -> SpoConfig. Raises UserError for what is missing or out of range."""
    given = {name.removeprefix("spo."): value for name, value in options.items() if name.startswith("spo.")}
    try:
        return declarations.build(SpoConfig, given | {"plugin": tuple(given["plugin"] or ())})
    except OptionError as error:
        if error.value is None:
            owner = next(one for one in declared(SpoConfig) if one.flag == error.flag)
            raise UserError(f"{owner.where()} needs --spo.{error.flag}") from None
        raise UserError(f"--spo.{error.flag} {error.value}: {error.reason}") from None
    except ValueError as error:
        raise UserError(str(error)) from None


def settle(flat: argparse.Namespace, explicit: set[str]) -> tuple[SpoConfig, list[str]]:
    """Resolve `--spo.*` and settle what it decides of OpenRLHF's options, in place, before OpenRLHF validates them.

    Returns the configuration and the decisions as lines to show. Raises UserError for contradictory options.
    """
    options, notes = vars(flat), []

    def set_option(name: str, value: Any, why: str) -> None:
        if options[name] != value:
            options[name] = value
            notes.append(f"--{name} {value}: {why}")

    mode = options["spo.mode"]
    settle_ahead(options, explicit, set_option)
    refuse_strangers(options, explicit)
    settle_objective(options, explicit, set_option)
    spo = resolve(options)
    if spo.by_state and (options["train.agent_func_path"] or options["data.max_images_per_prompt"] > 0):
        raise UserError(
            "--spo.hesitation state needs the engine's most likely tokens, which agents and images do not bring; leave it out"
        )
    if spo.prompts.memory() is not None:
        _check_skipping(options)
    if spo.diagnose_every:
        _check_diagnosis(options)
    spo.method.refuse(options, explicit)
    options["spo.prob_mask"] = spo.masked
    if spo.method.brings_advantages:
        # Any name but "gae" keeps OpenRLHF from building a critic; this one is handled by trainer/experience.py.
        options["algo.advantage.estimator"] = f"spo_{mode}"
    spo.method.settle(options, explicit, set_option)
    if spo.kl_scope == "masked":
        if not options["algo.kl.use_loss"] and not spo.method.brings_advantages:
            raise UserError("--spo.kl_scope masked needs a KL loss: add --algo.kl.use_loss")
        if not spo.masked:
            raise UserError("--spo.kl_scope masked needs the probability mask: add --spo.prob_mask")
    return resolve(options), notes


def _check_skipping(options: Mapping[str, Any]) -> None:
    what = f"--spo.prompts {options['spo.prompts']}"
    if options["algo.dynamic_filtering_enable"]:
        raise UserError(f"--algo.dynamic_filtering_enable does not go with {what}: both choose prompts; leave one out")
    if not options["reward.remote_url"] and not options["train.agent_func_path"]:
        raise UserError(f"{what} needs rewards when a prompt is sampled: give --reward.remote_url, no reward model")


def _check_diagnosis(options: Mapping[str, Any]) -> None:
    if not options["reward.remote_url"]:
        raise UserError(
            "--spo.diagnose_every needs rewards of single responses: give --reward.remote_url, no reward model"
        )
    if options["train.agent_func_path"] or options["data.max_images_per_prompt"] > 0:
        raise UserError("--spo.diagnose_every continues states of token ids, no conversations or images; leave it out")


def settle_ahead(options: Mapping[str, Any], explicit: set[str], set_option: SetOption) -> None:
    """What goes with sampling while the policy trains. Raises UserError."""
    if not options["train.async_enable"]:
        if options["spo.max_staleness"]:
            raise UserError(f"--spo.max_staleness {options['spo.max_staleness']} needs --train.async_enable; add it")
        return
    refused = {
        "train.colocate_all": "engines and policy work at the same time, each on devices of its own",
        "train.async_queue_size": "--spo.max_staleness says how far sampling is ahead",
        "rollout.vllm_generate_batch_size": "--spo.max_staleness says how far sampling is ahead",
    }
    for name in (name for name in refused if name in explicit):
        raise UserError(f"--{name} does not go with --train.async_enable: {refused[name]}; leave it out")
    parts = options["train.partial_rollout_enable"]
    if "spo.max_staleness" not in explicit:
        set_option("spo.max_staleness", 1 + parts, "--train.async_enable")
    if parts:
        _check_partial(options)


def _check_partial(options: Mapping[str, Any]) -> None:
    flag = "--train.partial_rollout_enable"
    if (mode := options["spo.mode"]) != "group":
        raise UserError(
            f"{flag} does not go with --spo.mode {mode}: a response of two policies has the values of neither; leave it out"
        )
    if options["train.agent_func_path"] or options["data.max_images_per_prompt"] > 0:
        raise UserError(f"{flag} goes on with single responses of text, not with agents or images; leave it out")
    if options["spo.max_staleness"] < 2:
        raise UserError(
            f"{flag} needs --spo.max_staleness 2 or more: with {options['spo.max_staleness']} nothing is in flight when new "
            "weights are due"
        )


def settle_objective(options: dict[str, Any], explicit: set[str], set_option: SetOption) -> None:
    """Ratio level and clip bounds: `--spo.*` and OpenRLHF's options for the same thing. Its own hold the outcome."""
    if options["actor.policy_loss_type"] == "gspo":
        _settle_gspo(options, explicit, set_option)
    low, high = options["spo.clip_low"], options["spo.clip_high"]
    if low is not None or high is not None:
        if "actor.eps_clip_low_high" in explicit:
            raise UserError(
                "--actor.eps_clip_low_high says what --spo.clip_low and --spo.clip_high say; leave one of them out"
            )
        both = tuple(options["actor.eps_clip"] if bound is None else bound for bound in (low, high))
        why = "--spo.clip_low and --spo.clip_high, --actor.eps_clip for the one not given"
        set_option("actor.eps_clip_low_high", both, why)
    if options["spo.dual_clip"] is not None:
        if "actor.dual_clip" in explicit:
            raise UserError("--actor.dual_clip says what --spo.dual_clip says; leave one of them out")
        set_option("actor.dual_clip", options["spo.dual_clip"], "--spo.dual_clip")


def _settle_gspo(options: dict[str, Any], explicit: set[str], set_option: SetOption) -> None:
    level = options["spo.ratio_level"]
    if "spo.ratio_level" in explicit and level != "sequence":
        raise UserError(f"--actor.policy_loss_type gspo is --spo.ratio_level sequence, not {level}; leave one out")
    if "actor.loss_agg_mode" in explicit and options["actor.loss_agg_mode"] != "seq-mean-token-mean":
        raise UserError(
            "--actor.policy_loss_type gspo averages over each response: leave out --actor.loss_agg_mode, "
            "or use --spo.ratio_level sequence"
        )
    set_option("spo.ratio_level", "sequence", "--actor.policy_loss_type gspo")
    set_option("actor.loss_agg_mode", "seq-mean-token-mean", "--actor.policy_loss_type gspo")
