"""Checkpoints as folders: written beside, whole or not at all, and only then is an older one removed.

    DIR/global_step7/          one checkpoint; best_global_step7: the best evaluation so far
      checkpoint.json          written last: the step, what the run was, every other file with its size and checksum
      run.pt                   progress and random state of the controller
      _actor, _critic          DeepSpeed's files, and of each rank what DeepSpeed does not hold (rank0.pt)
      replay.pt, history.json, plan.json  where the method has them

A checkpoint gets its name by one rename, when all of it is on the disk. So a folder with that name is whole, unless something
else has changed it since. That is seen from the sizes, or, where a start reads all of it, from the checksums. Nothing here loads
the training stack.
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spo_rlhf.errors import RunStopped, UserError
from spo_rlhf.host.checksums import contents
from spo_rlhf.host.files import read_json, write_json

MANIFEST = "checkpoint.json"
NAME = re.compile(r"(?P<best>best_)?global_step(?P<step>\d+)")
MAKING, LEAVING = ".making", ".leaving"  # of names that begin with a dot: being written, being removed
EXPORT = "_hf"  # of the name of the folder beside a checkpoint that --ckpt.save_hf writes
LEFTOVER = re.compile(rf"\.(best_)?global_step\d+({EXPORT})?({re.escape(MAKING)}|{re.escape(LEAVING)})")
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)
UNREADABLE = f"{MANIFEST} is missing, unreadable or not what was written"
ROOM_TO_SPARE = 1.05  # of the size of the last checkpoint: replay and history grow


class NotSaved(RunStopped):
    """A checkpoint did not get onto the disk, or would not find the space that it needs."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole one, by its sizes. `number`: they are counted as they are written, over all starts; `size`: bytes."""

    path: Path
    step: int
    number: int
    size: int
    best: bool = False
    metric: float | None = None  # of the last evaluation
    run: Mapping[str, Any] = field(default_factory=dict)  # what it belongs to, as `differences` compares
    checksums: Mapping[str, str] = field(default_factory=dict)  # by file; those of earlier versions have none


def name_of(step: int, *, best: bool = False) -> str:
    """Of the folder of a checkpoint."""
    return f"{'best_' * best}global_step{step}"


def read(path: Path) -> Checkpoint | str:
    """The checkpoint in a folder, or why it is not whole."""
    named = NAME.fullmatch(path.name)
    assert named, f"{path} is not named as a checkpoint"
    try:
        manifest = read_json(path / MANIFEST)
        if "record" in manifest and manifest.pop("record") != _checksum(manifest):
            return UNREADABLE
        files: dict[str, int] = manifest["files"]
        for name, size in files.items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if (is_now := (path / name).stat().st_size) != size:
                return f"{name} has {is_now} bytes of {size}"
        return Checkpoint(
            path,
            int(named["step"]),
            int(manifest["number"]),
            sum(files.values()),
            best=named["best"] is not None,
            metric=manifest["metric"],
            run=dict(manifest["run"]),
            checksums=dict(manifest.get("checksums", {})),
        )
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return UNREADABLE


def _checksum(manifest: Mapping[str, Any]) -> str:
    """Of the record itself."""
    return f"{zlib.crc32(json.dumps(manifest, sort_keys=True).encode()):08x}"


def damage(one: Checkpoint) -> str | None:
    """What has changed since it was written, by its checksums: all of it is read. None where nothing has, or it has none.

    Raises OSError, which names the file that cannot be read.
    """
    found = contents([one.path / name for name in one.checksums])
    changed = [name for (name, was), now in zip(one.checksums.items(), found, strict=True) if now.checksum != was]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]}{more}: not the bytes that were written" if changed else None


def found_in(folder: Path) -> tuple[list[Checkpoint], dict[Path, str]]:
    """The whole checkpoints of a folder in the order in which they were written, and the others with what they lack."""
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    states = {path: read(path) for path in sorted(found)}
    whole = [one for one in states.values() if isinstance(one, Checkpoint)]
    return sorted(whole, key=lambda one: one.number), {p: why for p, why in states.items() if isinstance(why, str)}


def newest(folder: Path) -> Checkpoint | None:
    """The whole checkpoint that was written last."""
    whole, _ = found_in(folder)
    return whole[-1] if whole else None


def superseded(whole: Sequence[Checkpoint], most: int, most_bytes: float) -> list[Checkpoint]:
    """Which of a folder's checkpoints go, in this order: `most` stay, of at most `most_bytes` together.

    As OpenRLHF chooses: without an evaluation first, then the worst, then the oldest. The newest stays in any case, and the
    newest of the best, which counts for the bytes alone.
    """
    if not whole:
        return []
    best = [one for one in whole if one.best]
    gone = best[:-1]
    newest = whole[-1]
    regular = sorted(
        (one for one in whole if not one.best and one is not newest),
        key=lambda one: (one.metric is not None, one.metric or 0.0, one.number),
    )
    count = len(regular) + (not newest.best)
    total = sum(one.size for one in whole) - sum(one.size for one in gone)
    for one in regular:
        if count <= most and total <= most_bytes:
            break
        gone.append(one)
        count, total = count - 1, total - one.size
    return gone


def spared_for_room(whole: Sequence[Checkpoint], missing: float) -> list[Checkpoint] | None:
    """Which checkpoints to remove so that so many bytes become free; None where that cannot be had.

    The newest stays and the newest of the best; the oldest go first.
    """
    best = [one for one in whole if one.best][-1:]
    gone: list[Checkpoint] = []
    for one in whole[:-1]:
        if missing <= 0:
            break
        if one not in best:
            gone.append(one)
            missing -= one.size
    return gone if missing <= 0 else None


def remove_damaged(folder: Path, changed: Collection[Path], note: Callable[[str], None]) -> None:
    """Before a new one is written: those that are damaged go, as their own records prove, unless no other is whole.

    What has no record that can be read may be somebody else's, and stays. `changed`: those of which a start has found it (`damage`).
    """
    whole, broken = found_in(folder)
    wrong = {one.path: "not the bytes that were written" for one in whole if one.path.absolute() in changed}
    if len(wrong) == len(whole):
        return
    for path, why in {**broken, **wrong}.items():
        if why == UNREADABLE:
            continue
        try:
            remove(path)
            note(f"{path} is damaged ({why}) and was removed")
        except OSError as error:  # no reason to end a run
            note(f"{path} is damaged ({why}) and cannot be removed ({error.strerror})")


def make_room(folder: Path, least: int, step: int, note: Callable[[str], None]) -> None:
    """See to the space that the checkpoint of `step` will need: that of the largest so far, what is exported beside it
    included, or `least`.

    Raises NotSaved where it is not there and cannot be made without giving up the newest checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole, _ = found_in(folder)
    needed = max([ROOM_TO_SPARE * (one.size + _exported(one)) for one in whole], default=float(least))
    free = shutil.disk_usage(folder).free
    gone = spared_for_room(whole, needed - free)
    if gone is None:
        raise NotSaved(f"the checkpoint of step {step} needs {needed / 1e6:,.0f} MB; {room_told(folder)}")
    for one in gone:
        note(f"{folder} is nearly full: {one.path.name} is removed to make room for step {step}")
        remove(one.path)


def _exported(one: Checkpoint) -> int:
    """Bytes of what --ckpt.save_hf has written beside it."""
    folder = one.path.with_name(f"{one.path.name}{EXPORT}")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def room_told(folder: Path) -> str:
    """What is free, and what there is to go on from, for the line that ends a run whose checkpoint has no place."""
    last = newest(folder)
    try:
        free = f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB are free in {folder}"
    except OSError as error:
        free = f"{folder} cannot be read ({error.strerror})"
    found = f"the newest checkpoint is {last.path}" if last else "there is no checkpoint yet"
    return f"{free}; free some and go on by --spo.resume auto ({found})"


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """In what two runs differ, "NAME is A, was B" each; a name that one of them does not have is not compared.

    A value that is a mapping is compared name by name.
    """
    told: list[str] = []
    for name in stored.keys() & given.keys():
        was, now = stored[name], given[name]
        called = f"--{name}" if "." in name else name
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            parts = [part for part in was.keys() | now.keys() if was.get(part) != now.get(part)]
            told += [f"{part} of {called} is {now.get(part)!r}, was {was.get(part)!r}" for part in parts]
        elif was != now:
            told.append(f"{called} is {now!r}, was {was!r}")
    return sorted(told)


@contextlib.contextmanager
def writing(folder: Path, name: str) -> Iterator["Writing"]:
    """A checkpoint in the making. It takes its name where the block calls `finish`; else, or on an error, nothing stays of it."""
    making = folder / f".{name}{MAKING}"
    remove(making)
    making.mkdir(parents=True)
    try:
        yield Writing(folder, name, making)
    finally:
        remove(making)


@dataclass
class Writing:
    """The folder `path` of a checkpoint in the making, named `name` in `folder` when it is finished."""

    folder: Path
    name: str
    path: Path

    def finish(self, *, metric: float | None, run: Mapping[str, Any], most: int, most_bytes: float) -> Path:
        """Write the manifest, give the checkpoint its name, and remove those that it supersedes. Its folder."""
        whole, _ = found_in(self.folder)
        paths = [path for path in sorted(self.path.rglob("*")) if path.is_file()]
        names = [str(path.relative_to(self.path)) for path in paths]
        found = contents(paths)  # of what was written just now, so out of memory, not from the disk
        number = 1 + max((one.number for one in whole), default=0)
        manifest = {"step": int(NAME.fullmatch(self.name)["step"]), "number": number, "metric": metric, "run": run}  # pyright: ignore[reportOptionalSubscript]
        manifest["files"] = {name: one.size for name, one in zip(names, found, strict=True)}
        manifest["checksums"] = {name: one.checksum for name, one in zip(names, found, strict=True)}
        manifest = json.loads(json.dumps(manifest, default=str))  # as it will be read
        write_json(self.path / MANIFEST, manifest | {"record": _checksum(manifest)})
        sync(self.path)
        final = self.folder / self.name  # where an earlier run, or one before a cut, may have left something
        replace(self.path, final)
        for one in superseded(found_in(self.folder)[0], most, most_bytes):
            remove(one.path)
        return final


def replace(new: Path, path: Path) -> None:
    """Give a folder the name of another, or of none, beside it or above; the other goes.

    At every moment one of the two has the name; only on a file system that cannot swap two names is there none for an instant.
    """
    replaced = path.with_name(f".{path.name}{LEAVING}")
    remove(replaced)
    if not os.path.lexists(path):
        new.rename(path)
    elif _swap(new, path):
        new.rename(replaced)
    else:
        path.rename(replaced)
        new.rename(path)
    _sync_folder(path.parent)
    remove(replaced)


def _swap(one: Path, other: Path) -> bool:
    """Give two paths each other's names in one step; False where that cannot be done."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux, glibc from 2.28 on
    return bool(renameat2) and renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def sync(folder: Path) -> None:
    """Have all files of a folder on the disk, and their names."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            _sync_folder(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no such thing
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a checkpoint, or what is left of one. It loses its name first: what is half deleted is none any more.

    Of a link, which a user may have put in the place of one that was moved, the link goes and what it leads to stays.
    """
    if not os.path.lexists(path):
        return
    if not path.name.startswith("."):
        leaving = path.with_name(f".{path.name}{LEAVING}")
        remove(leaving)
        path = path.rename(leaving)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def clear_leftovers(folder: Path) -> None:
    """Delete what a killed run was writing or removing in a folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if LEFTOVER.fullmatch(path.name):
            remove(path)
