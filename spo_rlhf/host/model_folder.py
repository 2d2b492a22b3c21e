"""A Hugging Face model folder, read without loading it: configuration, code of its own, whether the weights are whole."""

import json
import math
import os
import re
from fnmatch import fnmatch
from pathlib import Path
from types import NoneType
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import is_local, read_json
from spo_rlhf.host.weights import (
    ALL_ZERO,
    EMBEDDING,
    EXPONENTS,
    Tensor,
    are_zero,
    check_pickle,
    read_header,
    read_safetensors,
)

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"  # a model's weights in one file
OTHER_WEIGHTS = ("pytorch_model*.bin", "*.pt", "consolidated*.pth")
# What lies beside weights and is none, or not a whole model's.
TRAINING_STATE = ("optimizer*", "scheduler*", "training_args*", "rng_state*", "scaler*")
ADAPTER, ADAPTER_CONFIG = "adapter_*", "adapter_config.json"
# Entries of a configuration that are read here; each a whole number from 1.
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
SIZES = (*POSITIONS, "vocab_size", "hidden_size", "num_hidden_layers")
WHOLE_NUMBERS = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "head_dim")
# Names of a decoder's tensors in a layer.
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
# Entries that may be the width of the embedding.
WIDTHS = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size")
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


def check_tokenizer(tokenizer: Any, flag: str, name: str) -> None:
    """The tokenizer knows more than special tokens; one of a folder without its files does not. Raises UserError."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    special = {*inner.all_special_tokens, *inner.get_added_vocab()}
    if not inner("The answer is 12.", add_special_tokens=False)["input_ids"] or not set(inner.get_vocab()) - special:
        raise UserError(f"{flag} {name}: its tokenizer knows no text; copy the whole model folder, tokenizer.json too")


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


def check_folder(folder: Path, flag: str) -> None:
    """The folder has a readable config.json, and weights files that are whole, finite, not 0 and of the same size.

    Raises UserError, which names `flag`.
    """
    try:
        config = read_config(folder)
        files = {path: read_safetensors(path) for path in weights_files(folder)}
        tensors = {name: tensor for held in files.values() for name, tensor in held.items()}
        others = [] if tensors else other_weights(folder)
        for path in others:
            check_pickle(path)
        if (
            folder / ADAPTER_CONFIG
        ).is_file():  # of which transformers loads the model it is for, and the engine this one
            raise ValueError(f"an adapter lies beside the model ({ADAPTER_CONFIG}); merge it, or move it away")
        _check_sizes(config, tensors)
        if are_zero(files):
            raise ValueError(ALL_ZERO)
        _check_ends(folder, config)
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{flag} {folder}: {error}") from None
    if not tensors and not others:
        raise UserError(f"{flag} {folder}: it has no weights (*.safetensors); copy the whole model folder")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises UserError where it is no JSON object, or what is read here is not what it has to be."""
    path = folder / "config.json"
    config = read_json(path)
    text = _object(config.get("text_config") or config, path, "text_config")
    for name in SIZES:
        if (size := text.get(name)) is not None and (type(size) is not int or size < 1):
            raise UserError(f"{path}: {name} is {size!r} and has to be a whole number from 1; copy the model again")
    for name in WHOLE_NUMBERS:  # of some models a list, one for each layer
        if not isinstance(size := text.get(name), (list, NoneType)) and (type(size) is not int or size < 1):
            raise UserError(f"{path}: {name} is {size!r} and has to be a whole number from 1; copy the model again")
    heads, groups = (text.get(name) for name in ("num_attention_heads", "num_key_value_heads"))
    if type(heads) is int and type(groups) is int and heads % groups:
        raise UserError(f"{path}: num_key_value_heads {groups} does not divide num_attention_heads {heads}")
    for name in ("rope_scaling", "rope_parameters"):
        factor = _object(text.get(name) or {}, path, name).get("factor")
        if factor is not None and (type(factor) not in (int, float) or not 0 < factor < math.inf):
            raise UserError(f"{path}: the factor of {name} is {factor!r} and has to be a number above 0")
    return config


def _object(value: Any, path: Path, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: {name} is no JSON object; copy the model again")
    return value


def weights_files(folder: Path) -> list[Path]:
    """The safetensors files of the weights: those of the index where there is one, missing ones too. Raises UserError."""
    index = folder / f"{SAFETENSORS}.index.json"
    if not index.is_file():
        return sorted(path for path in folder.glob("*.safetensors") if not fnmatch(path.name, ADAPTER))
    files = _indexed(index)
    whole = folder / SAFETENSORS
    if whole.is_file() and whole not in files:  # transformers takes the one, the engine the others
        raise UserError(f"{index}: it names other files, and {SAFETENSORS} is there too; remove what is not the model")
    return files


def _indexed(index: Path) -> list[Path]:
    """The files that an index names, those that are not there too. Raises UserError."""
    parts = _object(read_json(index).get("weight_map"), index, "weight_map")
    if not parts or not all(isinstance(name, str) and name == Path(name).name for name in parts.values()):
        raise UserError(f"{index}: its weight_map does not name the files of the weights; copy the model again")
    return [index.parent / name for name in sorted(set(parts.values()))]


def pickled_files(folder: Path) -> list[Path]:
    """The files of weights as PyTorch saves them, of those names that transformers looks for. Raises UserError."""
    index = folder / f"{PICKLED}.index.json"
    return _indexed(index) if index.is_file() else [path for path in [folder / PICKLED] if path.is_file()]


def other_weights(folder: Path) -> list[Path]:
    """Files of weights as PyTorch saves them."""
    found = {path for pattern in OTHER_WEIGHTS for path in folder.glob(pattern)}
    return sorted(path for path in found if not any(fnmatch(path.name, state) for state in TRAINING_STATE))


def _check_sizes(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Embedding and layers are those of the configuration, where both say. Raises ValueError."""
    text = config.get("text_config") or config
    widths, tokens = [text[name] for name in WIDTHS if text.get(name)], text.get("vocab_size")
    for name, tensor in tensors.items():
        if EMBEDDING.search(name) and len(tensor.shape) == 2 and tensor.dtype in EXPONENTS:
            told = {
                "vocab_size": tokens in (None, tensor.shape[0]),
                "hidden_size": not widths or tensor.shape[1] in widths,
            }
            for entry, holds in told.items():
                if not holds:
                    shape = " x ".join(map(str, tensor.shape))
                    raise ValueError(
                        f"config.json says {entry} {text.get(entry)} and {name} is {shape}; copy the model again"
                    )
    layers = [int(found[1]) for name in tensors if (found := LAYER.search(name))]
    if layers and max(layers) + 1 < (text.get("num_hidden_layers") or 0):
        raise ValueError(
            f"config.json says num_hidden_layers {text['num_hidden_layers']} and the weights have {max(layers) + 1}; "
            "copy the model again"
        )


def _check_ends(folder: Path, config: dict[str, Any]) -> None:
    """A token of the vocabulary ends a response, where a file says which one does. Raises ValueError."""
    tokens = vocabulary_size(config)
    for file in ("config.json", "generation_config.json"):
        value = _json(folder / file)
        if (folder / file).exists() and not isinstance(value, dict):
            raise ValueError(f"{file} is no JSON object; copy the model again")
        inner = value.get("text_config") if isinstance(value, dict) else None
        for told in (value, inner):
            ends = told.get("eos_token_id") if isinstance(told, dict) else None
            known = [end for end in (ends if isinstance(ends, list) else [ends]) if end is not None]
            if not all(type(end) is int for end in known) or (
                known and tokens is not None and not any(0 <= end < tokens for end in known)
            ):
                raise ValueError(f"{file} says eos_token_id {ends} and the vocabulary has {tokens} tokens; mend it")


def weights_size(name: str) -> int:
    """Bytes of the weights of a local model; 0 of one on a hub. A trained copy takes as much, or more."""
    folder = Path(name)
    return sum(path.stat().st_size for path in weights_files(folder)) if folder.is_dir() else 0


def parameter_shapes(name: str) -> list[tuple[int, ...]]:
    """Shapes of the tensors of a local model, by the headers of its files; empty of one on a hub, or of a header that cannot be read.

    A pickled file counts as one tensor of as many numbers as its bytes have in the configuration's type; two bytes each where it
    says none.
    """
    folder = Path(name)
    if not folder.is_dir():
        return []
    try:
        shapes = [tensor.shape for path in weights_files(folder) for tensor in read_header(path).values()]
    except (OSError, ValueError, UserError):  # they were checked at the start; what is gone since is others' to tell
        return []
    config = _json(folder / "config.json")
    told = config.get("dtype") or config.get("torch_dtype") if isinstance(config, dict) else None
    number = 4 if told == "float32" else 2
    return shapes or [(path.stat().st_size // number,) for path in pickled_files(folder)]


def positions(config: dict[str, Any]) -> int | None:
    """Tokens that the model of this configuration takes, its stretched rotary embedding counted in; None where it does not say."""
    text = config.get("text_config") or config
    found = [text[name] for name in POSITIONS if text.get(name)]
    if not found or os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1":
        return None
    # The largest that vLLM can make of it; what it does with each kind of stretching is left to it.
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    factor = rope.get("factor") if isinstance(rope, dict) else None
    return int(found[0] * max(1.0, factor or 1.0))


def vocabulary_size(config: dict[str, Any]) -> int | None:
    """Tokens that the model of this configuration has an embedding for; None where it does not say."""
    return (config.get("text_config") or config).get("vocab_size")
