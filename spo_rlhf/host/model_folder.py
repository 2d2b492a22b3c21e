"""A Hugging Face model folder, read without loading it: configuration, code of its own, whether the weights are whole."""

import json
import os
from pathlib import Path
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import is_local, read_json

LFS_POINTER = b"version https://git-lfs"
LENGTH_BYTES = 8  # a safetensors file begins with the length of its header
LARGEST_HEADER = 100_000_000  # that safetensors reads
OTHER_WEIGHTS = ("pytorch_model*.bin", "*.pt", "consolidated*.pth")
# Files in which transformers reads which classes a model brings along, under CODE.
NAMES_CODE = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
CODE = "auto_map"
TRUSTED = "SPO_TRUST_REMOTE_CODE"  # in the environment of a run's processes, set by its command alone
SWITCH = "--spo.trust_remote_code"


def trust_code(trusted: bool) -> None:
    """Decide for this process, and those it starts, whether Python that comes with a model may run."""
    os.environ[TRUSTED] = str(int(trusted))


def code_is_trusted() -> bool:
    """Whether Python that comes with a model may run; not unless a command has said so."""
    return os.environ.get(TRUSTED) == "1"


def check_code(name: str, flag: str, switch: str = SWITCH) -> None:
    """The model `name`, a folder or on the hub, brings no Python of its own, or it is trusted.

    Raises UserError, which names `flag` and the switch that lets it run. Nothing of it is run to find out.
    """
    if code_is_trusted():
        return
    if is_local(name):
        files = {file: Path(name) / file for file in NAMES_CODE}
        named = [file for file, path in files.items() if path.is_file() and _names_code(_json(path))]
    else:
        from transformers import PretrainedConfig

        named = ["config.json"] if _names_code(PretrainedConfig.get_config_dict(name)[0]) else []
    if named:
        raise UserError(
            f"{flag} {name}: it brings Python code of its own ({CODE} in {', '.join(named)}); read it, then let it run "
            f"by {switch}"
        )


def check_vocabulary(config: dict[str, Any], tokenizer: Any, flag: str, name: str) -> None:
    """The tokenizer has tokens for texts, and the model of this configuration knows all of them.

    Raises UserError, which names `flag`.
    """
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # that of a processor
    known, tokens = vocabulary_size(config), len(inner)
    # Of a folder without a vocabulary transformers makes a tokenizer all the same: every text has no tokens.
    if set(inner.get_vocab()) <= {*inner.get_added_vocab(), *inner.all_special_tokens}:
        raise UserError(
            f"{flag} {name}: its tokenizer has no tokens for texts; copy the tokenizer's files, such as tokenizer.json, too"
        )
    if known is not None and tokens > known:
        raise UserError(
            f"{flag} {name}: its tokenizer has {tokens} tokens and the model knows {known}; they do not belong together"
        )


def uncut(tokenizer: Any) -> None:
    """Take back, in place, the cutting and padding of an earlier call, which would be saved with the tokenizer."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # that of a processor
    if backend := getattr(inner, "backend_tokenizer", None):
        backend.no_truncation()
        backend.no_padding()


def _names_code(value: Any) -> bool:
    """Anywhere in a configuration, those of a model's parts included."""
    if isinstance(value, dict):
        return bool(value.get(CODE)) or any(map(_names_code, value.values()))
    return False


def _json(path: Path) -> Any:
    """None where it is no JSON: `check_folder`, or the library that reads it, says so."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def check_folder(folder: Path, flag: str, *, with_weights: bool) -> None:
    """The folder has a readable config.json, and weights files that are whole; weights at all where `with_weights`.

    Raises UserError, which names `flag`.
    """
    try:
        read_config(folder)
        present = [_check_safetensors(path) for path in weights_files(folder)]
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{flag} {folder}: {error}") from None
    if with_weights and not present and not any(path for pattern in OTHER_WEIGHTS for path in folder.glob(pattern)):
        raise UserError(f"{flag} {folder}: it has no weights (*.safetensors); copy the whole model folder")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises ValueError or UserError where it is no JSON object."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ValueError("config.json is no JSON object; copy the model again")
    return config


def weights_files(folder: Path) -> list[Path]:
    """The safetensors files of the weights: those of the index where there is one, missing ones too."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    parts = read_json(index).get("weight_map", {})
    return [folder / name for name in sorted(set(parts.values()))]


def weights_size(name: str) -> int:
    """Bytes of the weights of a local model; 0 of one on a hub. A trained copy takes as much, or more."""
    folder = Path(name)
    return sum(path.stat().st_size for path in weights_files(folder)) if folder.is_dir() else 0


def _check_safetensors(path: Path) -> None:
    """The file is as long as its header says. Raises ValueError."""
    if not path.is_file():
        raise ValueError(f"{path.name} is missing, which its index names; copy the whole model folder")
    size = path.stat().st_size
    with open(path, "rb") as file:
        begin = file.read(LENGTH_BYTES)
        if begin + file.read(len(LFS_POINTER) - LENGTH_BYTES) == LFS_POINTER:
            raise ValueError(f"{path.name} is a Git LFS pointer; run `git lfs pull` there")
        file.seek(LENGTH_BYTES)
        length = int.from_bytes(begin, "little")
        if len(begin) < LENGTH_BYTES or length > min(size - LENGTH_BYTES, LARGEST_HEADER):
            raise ValueError(f"{path.name} is no whole safetensors file; copy or save it again")
        try:
            tensors = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ValueError(f"{path.name} has no readable header; copy or save it again") from None
    wanted = LENGTH_BYTES + length + max(ends, default=0)
    if size != wanted:
        raise ValueError(f"{path.name} has {size} bytes and its header says {wanted}; copy or save it again")


def positions(config: dict[str, Any]) -> int | None:
    """Tokens that the model of this configuration takes, its stretched rotary embedding counted in; None where it does not say."""
    text = config.get("text_config") or config
    found = [text[name] for name in ("max_position_embeddings", "n_positions", "max_seq_len") if text.get(name)]
    if not found or os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1":
        return None
    # The largest that vLLM can make of it; what it does with each kind of stretching is left to it.
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    factor = rope.get("factor") if isinstance(rope, dict) else None
    return int(found[0] * max(1.0, factor or 1.0))


def vocabulary_size(config: dict[str, Any]) -> int | None:
    """Tokens that the model of this configuration has an embedding for; None where it does not say."""
    return (config.get("text_config") or config).get("vocab_size")
