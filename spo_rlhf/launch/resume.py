"""Before a run starts: whether it goes on from a checkpoint, from which, and whether that is one of the same run."""

import argparse
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spo_rlhf.core.options import name_of
from spo_rlhf.errors import UserError
from spo_rlhf.host import device, model_folder
from spo_rlhf.host.files import is_local, read_json
from spo_rlhf.launch import history
from spo_rlhf.methods import METHODS
from spo_rlhf.trainer import checkpoints

SAVE_STEPS = 20  # where the command does not say: what a run that is killed has to do again, at most
AUTO = "auto"
# The rest of a configuration may change at a start; what does is told (history.store_config).
MUST_AGREE = ("train.seed", "rollout.batch_size", "ds.zero_stage", "ds.lora.rank", "ds.param_dtype", "actor.optim")


def settle(flat: argparse.Namespace, explicit: set[str]) -> None:
    """Defaults of the command that OpenRLHF has otherwise, in place: a run saves, into its own folder. Raises UserError."""
    options = vars(flat)
    if "ckpt.save_steps" not in explicit:
        options["ckpt.save_steps"] = SAVE_STEPS
    if options["spo.run_dir"] is not None and "ckpt.path" not in explicit:
        options["ckpt.path"] = str(Path(options["spo.run_dir"]) / "checkpoints")
    if options["spo.resume"] == AUTO and options["spo.run_dir"] is None:
        raise UserError("--spo.resume auto needs --spo.run_dir, the folder of the run that may be there already")
    if options["spo.resume"] == AUTO and options["ckpt.disable_ds"]:
        raise UserError(
            "--spo.resume auto goes on from the weights that --ckpt.disable_ds leaves out; take one of the two"
        )


def is_finished(run_dir: str | None) -> bool:
    """The run of this folder has come to its end, by its summary."""
    path = Path(run_dir or "") / history.SUMMARY
    return run_dir is not None and path.exists() and bool(read_json(path).get("finished"))


def identity(args: SimpleNamespace, rows: Iterable[Any]) -> dict[str, Any]:
    """What the checkpoints of a run have in common, by the names of the options. `rows`: prompts and labels; empty: unknown."""
    name = args.actor.model_name_or_path
    told: dict[str, Any] = {
        "spo.mode": name_of(METHODS, args.spo.method),
        "critic.model_name_or_path": "given" if args.critic.model_name_or_path else "not given",
        "actor.num_gpus_per_node": f"{args.actor.num_nodes * args.actor.num_gpus_per_node} in all",
        "device": device.current(),
    }
    for option in MUST_AGREE:
        value: Any = args
        for part in option.split("."):
            value = getattr(value, part)
        told[option] = value
    told["actor.model_name_or_path"] = model_folder.read_config(Path(name)) if is_local(name) else name
    if rows := list(rows):
        digest = hashlib.sha256(repr([tuple(row) for row in rows]).encode("utf-8", "surrogatepass"))
        told["data.prompt_dataset"] = {"number of rows": len(rows), "hash of all rows": digest.hexdigest()[:16]}
    return told


def choose(args: SimpleNamespace) -> list[str]:
    """Settle `args.resume_from`, the folder of the checkpoint to go on from or None, by `args.identity`. Lines to show.

    `args.damaged` are folders that were passed over because their bytes are not those that were written, `args.newest` is for
    `check_newest`.
    A checkpoint is read whole before it is chosen. Raises UserError where the newest one is of another run, or all are damaged.
    """
    folder, auto = Path(args.ckpt.path), args.spo.resume == AUTO
    whole, broken = checkpoints.found_in(folder)
    notes = [f"{path} is not whole ({why}) and is passed over" for path, why in broken.items()]
    args.resume_from, args.damaged, args.newest = None, [], None
    if not auto and not args.ckpt.load_enable:
        if whole:
            notes.append(
                f"{folder} has checkpoints of an earlier run, the newest {whole[-1].path.name}; they are moved aside"
            )
        return notes
    args.newest = _number(whole)
    finished = auto and is_finished(args.spo.run_dir)  # then nothing goes on
    for one in reversed(whole):
        if told := checkpoints.differences(one.run, args.identity):
            raise UserError(
                f"--ckpt.path: {one.path} is of another run: {'; '.join(told)}. Give the same, or another --ckpt.path and "
                f"--spo.run_dir"
            )
        if not (one.path / "_actor" / "latest").exists():
            raise UserError(
                f"{one.path} holds no weights to go on from: it was written with --ckpt.disable_ds; give another --ckpt.path"
            )
        try:
            why = None if finished else checkpoints.damage(one)
            args.damaged += [str(one.path.absolute())] * (why is not None)
        except OSError as error:
            why = f"{error.filename} cannot be read ({error.strerror})"  # which another time it may
        if why is None:
            args.ckpt.load_enable, args.resume_from = True, str(one.path.absolute())
            return [*notes, f"goes on from {one.path}, the newest whole checkpoint"]
        notes.append(f"{one.path} is damaged ({why}) and is passed over")
    if notes:
        raise UserError(
            f"--ckpt.path {folder}: no checkpoint is whole; {'; '.join(notes)}. Copy one of them again, or begin anew by "
            "--spo.resume never without --ckpt.load_enable, which moves them aside"
        )
    args.ckpt.load_enable = args.ckpt.load_enable and not auto
    return [f"no whole checkpoint in {folder}: the run starts from its first step"]


def check_newest(args: SimpleNamespace) -> None:
    """By the only writer of the checkpoints: none was written since `choose` looked, which may have read for minutes.

    Another command, asked to end, may have been at work then; its last steps would be lost. Raises UserError.
    """
    whole, _ = checkpoints.found_in(Path(args.ckpt.path))
    if args.newest is not None and _number(whole) != args.newest:
        found = f"{whole[-1].path.name} is the newest now" if whole else "there is none any more"
        raise UserError(
            f"--ckpt.path {args.ckpt.path}: another command has changed the checkpoints meanwhile, {found}; start again"
        )


def _number(whole: Sequence[checkpoints.Checkpoint]) -> int:
    """That of the newest; 0 without one."""
    return whole[-1].number if whole else 0


def set_aside(folder: Path) -> list[str]:
    """Before a run that begins anew: checkpoints of an earlier one leave its folder. Lines to show.

    A run that died before its first checkpoint would otherwise go on from those, and be taken for it.
    """
    whole, broken = checkpoints.found_in(folder)
    if not whole and not broken:
        return []
    numbers = (
        number for number in itertools.count(1) if not folder.with_name(f"{folder.name}.before-{number}").exists()
    )
    target = folder.with_name(f"{folder.name}.before-{next(numbers)}")
    folder.rename(target)
    return [f"checkpoints of an earlier run are in {target} now; remove it where nothing of it is wanted"]
