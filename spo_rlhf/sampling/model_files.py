"""What a model is: hashes of its files, by what they decide. They are remembered, so that a large model is read once."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import is_local, read_json, write_json
from spo_rlhf.host.model_folder import SAFETENSORS, TRAINING_STATE

# The first kind that is there is the one that vLLM loads.
WEIGHTS = (("*.safetensors",), ("*.bin", "*.pt", "*.pth"), ("*.gguf",))
CONFIG = ("config.json", "generation_config.json", "*.py")
# Not chat_template*: the text of the template that is used says more, see `manifest`.
TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.tiktoken",
)
TOLD_FROM_BYTES = 1 << 30
# A file that may still be written to within one tick of its time stamp is not remembered.
SETTLED_NS = 2_000_000_000
REMEMBERED = [int, int, int, str]  # of a file: size, times of its content and of its inode, hash


def model_folder(name: str) -> tuple[Path | None, str | None]:
    """The folder of a model's files and, of a model on the hub, its commit; (None, None) before it is downloaded."""
    if is_local(name):
        return Path(name), None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return (Path(config).parent, Path(config).parent.name) if isinstance(config, str) else (None, None)


def model_hashes(folder: Path | None, say: Callable[[str], None]) -> dict[str, dict[str, str] | None]:
    """File name -> hash of the weights, the config (and code) and the tokenizer in a folder; None where there are none.

    Args:
        say: gets a line before much is read.
    """
    kinds: dict[str, list[Path]] = {"weights": [], "model config": [], "tokenizer": []}
    if folder is not None:
        weights = [_named(folder, _matching(folder, patterns, TRAINING_STATE)) for patterns in WEIGHTS]
        kinds["weights"] = next(filter(None, weights), [])
        kinds["model config"] = _matching(folder, CONFIG)
        kinds["tokenizer"] = _matching(folder, TOKENIZER)
    hashes = file_hashes([path for paths in kinds.values() for path in paths], say)
    return {kind: {path.name: hashes[path] for path in paths} or None for kind, paths in kinds.items()}


def _named(folder: Path, files: list[Path]) -> list[Path]:
    """Those of the files that the folder's index names, which the engine loads alone; all where it names none of them."""
    try:
        names = set(read_json(folder / f"{SAFETENSORS}.index.json")["weight_map"].values())
    except (UserError, AttributeError, KeyError, TypeError):
        return files
    return [path for path in files if path.name in names] or files


def _matching(folder: Path, patterns: Iterable[str], but_not: Iterable[str] = ()) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and any(fnmatch(path.name, pattern) for pattern in patterns)
        and not any(fnmatch(path.name, pattern) for pattern in but_not)
    )


def cache_file() -> Path:
    """Where hashes are remembered."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spo_rlhf" / "hashes.json"


def file_hashes(paths: Iterable[Path], say: Callable[[str], None]) -> dict[Path, str]:
    """BLAKE2b of whole files. One of the same size and times as before is not read again.

    The time of the last change of the inode counts too: a copy may bring along its size and time of writing.
    """
    known = _remembered()
    entries = {path: _stamp(path) for path in paths}
    unread = [path for path, (real, *stamp) in entries.items() if known.get(real, [])[:-1] != stamp]
    size = sum(entries[path][1] for path in unread)
    if size >= TOLD_FROM_BYTES:
        say(f"reading {size / 1e9:.1f} GB of weights to know them again (once)")
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashlib releases the interpreter's lock
        for path, digest in zip(unread, pool.map(_digest, unread)):
            real, *stamp = entries[path]
            known[real] = [*stamp, digest]
    hashes = {path: known[entry[0]][-1] for path, entry in entries.items()}
    now = time.time_ns()
    settled = {real: value for real, value in known.items() if now - max(value[1:3]) > SETTLED_NS}
    with suppress(OSError):  # nothing depends on its being remembered
        if unread and settled:
            write_json(cache_file(), {real: value for real, value in settled.items() if Path(real).exists()})
    return hashes


def _remembered() -> dict[str, list]:
    try:
        known = json.loads(cache_file().read_text(encoding="utf-8"))
        return {real: value for real, value in known.items() if [type(part) for part in value] == REMEMBERED}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _stamp(path: Path) -> tuple[str, int, int, int]:
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
