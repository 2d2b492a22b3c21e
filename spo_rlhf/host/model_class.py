"""A model folder's weights held against the model that its configuration makes: names and shapes, no bytes.

transformers fills what a folder lacks with random numbers, and trains or answers with them. What it would load is asked
of transformers itself, on the device without memory, so tied weights, old names and merged experts are taken as it takes
them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.model_folder import (
    PICKLED,
    SAFETENSORS,
    code_is_trusted,
    pickled_files,
    read_config,
    weights_files,
)
from spo_rlhf.host.weights import EMBEDDING, HEAD_OUT, read_header, read_pickle, same_numbers

# Types of numbers that no weight has unless it is quantized.
WHOLE_NUMBERS = ("BOOL", *(f"{kind}{bits}" for kind in "UI" for bits in (8, 16, 32, 64)))
OTHER_FORM = "consolidated*"  # the same weights under Mistral's names, beside those of transformers
HEAD = "score"  # of a reward model, where its configuration gives no `value_head_prefix`
COPY = "copy the whole model folder again"


def check_weights(folder: Path, flag: str, *, trains: bool = False, role: str = "actor") -> list[str]:
    """The folder's weights have every tensor that its model needs, in its shape, and the model writes text.

    Nothing is said where transformers alone cannot tell: it does not know the model, the model brings its own code and
    is not trusted, or its weights are packed (quantized).

    Args:
        trains: transformers itself has to load the model, so one that it has no class for is refused.
        role: "critic" and "reward" are models with another head than a language model's.

    Returns:
        Lines to show. Raises UserError, which names `flag`.
    """
    try:
        return _check(folder, trains=trains, role=role)
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{flag} {folder}: {error}") from None


def _check(folder: Path, *, trains: bool, role: str) -> list[str]:
    from transformers import AutoConfig

    if "model_type" not in read_config(folder):
        return []
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=code_is_trusted())
    except Exception:  # the engine may know it; where it must not be, `check_kind` refuses it
        return []
    writes, own_code = role in ("actor", "ref", "model"), hasattr(config, "auto_map")
    if writes:
        _check_writes(config)
    model_class = _class_of(config, writes)
    if model_class is None:
        if trains and not own_code:
            raise ValueError(f"transformers has no {config.model_type} that continues a prompt; give another model")
        return []
    files = weights_files(folder)
    if trains and not own_code and not getattr(config, "transformers_weights", None):
        _check_names(folder)
        files = _loaded(folder, files)
    shapes = _shapes(folder, files)
    if not shapes or getattr(config, "quantization_config", None):
        return []
    _check_numbers(folder)
    _check_tied(folder, config)
    missing, other, unused, unknown = _compare(model_class, config, shapes)
    head = getattr(config, "value_head_prefix", HEAD)
    if role == "reward" and not any(name.startswith(f"{head}.") for name in shapes):
        missing.append(f"{head}.weight")
    if missing:
        raise ValueError(f"its weights lack {_some(missing)}, which would be random numbers; {COPY}")
    if unknown:
        raise ValueError(f"its weights have {_some(unknown)}, of which its config.json knows nothing; {COPY}")
    if other:
        raise ValueError(f"its config.json wants another shape than its weights have: {_some(other)}; {COPY}")
    return [f"{folder}: no part of its model takes {_some(unused)} of the weights"] if unused and writes else []


def _check_writes(config: Any) -> None:
    """A model of this configuration continues a prompt. Raises ValueError."""
    if _is_encoder(config):
        raise ValueError(f"{config.model_type} reads text and writes none; give a model that continues a prompt")
    if other := _writes_nothing(config):
        raise ValueError(
            f"config.json names the architecture {other}, which writes no text; mend it, or give another model"
        )


def _check_names(folder: Path) -> None:
    """There are files of the names that transformers looks for. Raises ValueError."""
    names = (f"{name}{index}" for name in (SAFETENSORS, PICKLED) for index in ("", ".index.json"))
    if not any((folder / name).is_file() for name in names):
        raise ValueError(f"its weights have other names than {SAFETENSORS} or {PICKLED}, which transformers looks for")


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _is_encoder(config: Any) -> bool:
    """Whether a model of this configuration sees what is to come: that of a masked language model, or one of two halves."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    if getattr(config, "is_encoder_decoder", False):
        return not hasattr(config, "vision_config")
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and getattr(config, "is_decoder", None) is False


def _writes_nothing(config: Any) -> str | None:
    """The architecture that a configuration names, by which the engine chooses its own, where it generates nothing."""
    import transformers

    named = getattr(config, "architectures", None) or []
    known = [getattr(transformers, name, None) for name in named]
    if known and all(one is not None and not issubclass(one, transformers.GenerationMixin) for one in known):
        return named[0]
    return None


def _class_of(config: Any, writes: bool) -> Any:
    """The class that OpenRLHF loads; None where transformers has none."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    language = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    known = (language if writes else AutoModel)._model_mapping
    found = known.get(type(config), None)
    return found[0] if isinstance(found, tuple) else found


def _loaded(folder: Path, files: list[Path]) -> list[Path]:
    """Of the safetensors files those that transformers loads. Raises ValueError where the engine would load others too."""
    whole = folder / SAFETENSORS
    if not files or (folder / f"{SAFETENSORS}.index.json").is_file() or files == [whole]:
        return files
    others = [path.name for path in files if path != whole and not (whole in files and path.match(OTHER_FORM))]
    if others:
        raise ValueError(f"transformers passes over {_some(others)} of its weights, which no index names; {COPY}")
    return [whole]


def _shapes(folder: Path, files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors, of the safetensors `files` where there are any."""
    if files:
        return {name: tensor.shape for path in files for name, tensor in read_header(path).items()}
    return {name: shape for path in pickled_files(folder) for name, shape in read_pickle(path).items()}


def _check_numbers(folder: Path) -> None:
    """No matrix is of whole numbers, which are weights only by what a quantization says of them. Raises ValueError."""
    for path in weights_files(folder):
        for name, tensor in read_header(path).items():
            if name.endswith(".weight") and len(tensor.shape) > 1 and tensor.dtype in WHOLE_NUMBERS:
                raise ValueError(
                    f"{name} is of whole numbers ({tensor.dtype}), and its config.json says nothing of a quantization; {COPY}"
                )


def _check_tied(folder: Path, config: Any) -> None:
    """Where the configuration has one matrix for the tokens that come in and go out, the weights have one. Raises ValueError.

    With two of them transformers takes both and the engine one.
    """
    if not getattr(config.get_text_config(), "tie_word_embeddings", False):
        return
    found = {name: path for path in weights_files(folder) for name in read_header(path)}
    names = [name for name in found if EMBEDDING.search(name)], [name for name in found if HEAD_OUT.search(name)]
    if any(len(few) != 1 for few in names):
        return
    first, second = (names[0][0], names[1][0])
    if not same_numbers(found[first], first, found[second], second):
        raise ValueError(
            f"its config.json says tie_word_embeddings, and {second} is not {first} in its weights; mend the one or the other"
        )


def _compare(
    model_class: Any, config: Any, shapes: dict[str, tuple[int, ...]]
) -> tuple[list[str], list[str], list[str], list[str]]:
    """What transformers would find of these weights: names without a tensor, tensors of another shape, those of no part of
    the model, and those of a part that has none of that name, such as a bias.
    """
    import torch

    stored = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    try:
        with _quiet():
            model, found = model_class.from_pretrained(
                None,
                config=config,
                state_dict=stored,
                device_map={"": "meta"},
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except ImportError:  # a library that the model's class wants; the engine may do without
        return [], [], [], []
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:150]
        raise ValueError(
            f"its config.json and weights make no model ({type(error).__name__}: {reason}); {COPY}"
        ) from None
    shape = {name: f"{name} {_told(wanted)} there {_told(got)}" for name, got, wanted in found["mismatched_keys"]}
    parts = {name for name, part in model.named_modules() if not any(part.children())}
    unused = sorted(found["unexpected_keys"])
    unknown = [name for name in unused if name.endswith((".weight", ".bias")) and name.rpartition(".")[0] in parts]
    other = [name for name in unused if name not in unknown]
    return sorted(found["missing_keys"]), [shape[name] for name in sorted(shape)], other, unknown


def _told(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "a number"


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers shows nothing of what it finds."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
