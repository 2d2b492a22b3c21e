"""The files of a model's weights, read without loading them: whole, of one size with what they say, finite, and not all 0."""

import json
import math
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

LFS_POINTER = b"version https://git-lfs"
PICKLES = (b"PK\x03\x04", b"\x80")  # how a file of torch.save begins, now and in old versions
LENGTH_BYTES = 8  # a safetensors file begins with the length of its header
LARGEST_HEADER = 100_000_000  # that safetensors reads
#: Bits of a number of each type; None of those with several numbers a byte or a form of their own.
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
#: The exponent's bits: where all are set the number is infinite or none.
EXPONENTS = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000, "F64": 0x7FF0000000000000}
#: Bytes of a file of which all numbers are read; of a larger one those with one dimension, biases and norms, and samples of
#: embedding and head. What has diverged has them too, and a run is not to wait for a disk.
READ_WHOLE = 4 << 30
CHUNK = 16 << 20
SAMPLES, SAMPLE = 16, 1 << 16  # of a tensor: places, and bytes at each
# Names of a decoder's matrices with a row for each token: of those that come in and of those that go out.
EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight$")
HEAD_OUT = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
ALL_ZERO = "all numbers of its matrices are 0; copy or save the model again"
MASK = "mask"  # in the name of what may be infinite


@dataclass(frozen=True)
class Tensor:
    """What a header says of a tensor; its bytes are `begin` to `end` behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, which hold what the header says, and finite numbers alone; embedding and head are not 0.

    Raises ValueError.
    """
    tensors = read_header(path)
    size = path.stat().st_size
    data = size - max(tensor.end for tensor in tensors.values())
    with open(path, "rb") as file:
        for name, tensor in tensors.items():
            if MASK in name:
                continue
            of_tokens, sampled = _of_tokens(name), size > READ_WHOLE and len(tensor.shape) != 1
            if (of_tokens or not sampled) and not _is_finite(file, data, tensor, sampled=sampled):
                raise ValueError(_not_finite(path, name))
            if of_tokens and _is_zero(file, data, tensor, sampled=sampled):
                raise ValueError(_zero(path, name))
    return tensors


def are_zero(files: dict[Path, dict[str, Tensor]]) -> bool:
    """All matrices of these files are 0, as far as they are read; False where there is none."""
    found = False
    for path, tensors in files.items():
        size = path.stat().st_size
        data = size - max(tensor.end for tensor in tensors.values())
        with open(path, "rb") as file:
            for tensor in tensors.values():
                if len(tensor.shape) > 1:
                    if not _is_zero(file, data, tensor, sampled=size > READ_WHOLE):
                        return False
                    found = True
    return found


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; it has as many bytes as its header says. Raises ValueError."""
    if not path.is_file():
        raise ValueError(f"{path.name} is missing, which its index names; copy the whole model folder")
    size = path.stat().st_size
    with open(path, "rb") as file:
        begin = file.read(LENGTH_BYTES)
        _refuse_pointer(path, begin + file.read(len(LFS_POINTER) - LENGTH_BYTES))
        file.seek(LENGTH_BYTES)
        length = int.from_bytes(begin, "little")
        if len(begin) < LENGTH_BYTES or length > min(size - LENGTH_BYTES, LARGEST_HEADER):
            raise ValueError(f"{path.name} is no whole safetensors file; copy or save it again")
        try:
            tensors = _header(file.read(length))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"{path.name} has no readable header; copy or save it again") from None
    if not tensors:
        raise ValueError(f"{path.name} holds no tensors; copy or save it again")
    wanted = LENGTH_BYTES + length + max(tensor.end for tensor in tensors.values())
    if size != wanted:
        raise ValueError(f"{path.name} has {size} bytes and its header says {wanted}; copy or save it again")
    _check_ranges(path, tensors)
    return tensors


def same_numbers(path: Path, name: str, other_path: Path, other_name: str) -> bool:
    """Whether two tensors, in whole files, have the same bytes; False of those of another shape or type."""
    pairs = ((path, name), (other_path, other_name))
    headers = [read_header(file) for file, _ in pairs]
    one, other = (header[named] for header, (_, named) in zip(headers, pairs, strict=True))
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    with open(path, "rb") as file, open(other_path, "rb") as other_file:
        for (source, _), header, tensor, stream in zip(pairs, headers, (one, other), (file, other_file), strict=True):
            stream.seek(source.stat().st_size - max(each.end for each in header.values()) + tensor.begin)
        left = one.end - one.begin
        while left > 0:
            size = min(CHUNK, left)
            if file.read(size) != other_file.read(size):
                return False
            left -= size
    return True


def _not_finite(path: Path, name: str) -> str:
    return (
        f"{path.name} has numbers that are not finite, in {name}: the run that made it has diverged; "
        "use an earlier checkpoint"
    )


def _zero(path: Path, name: str) -> str:
    return f"{path.name}: all numbers of {name} are 0; copy or save the model again"


def _of_tokens(name: str) -> bool:
    return bool(EMBEDDING.search(name) or HEAD_OUT.search(name))


def read_pickle(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of a file of torch.save, finite and not 0, as in `read_safetensors`; none of its code runs. Raises ValueError."""
    check_pickle(path)
    import torch

    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        tensors = {name: one for name, one in tensors.items() if isinstance(one, torch.Tensor) and not one.is_meta}
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:100]
        raise ValueError(
            f"{path.name} cannot be read ({type(error).__name__}: {reason}); copy or save it again"
        ) from None
    if not tensors:
        raise ValueError(f"{path.name} holds no tensors; copy or save it again")
    size, told = path.stat().st_size, {torch.bfloat16, torch.float16, torch.float32, torch.float64}  # as in EXPONENTS
    plain = {
        name: one for name, one in tensors.items() if one.dtype in told and one.layout is torch.strided and one.numel()
    }
    for name, tensor in plain.items():
        if MASK not in name and (size <= READ_WHOLE or tensor.dim() == 1) and not tensor.isfinite().all():
            raise ValueError(_not_finite(path, name))
        if _of_tokens(name) and not tensor.any():
            raise ValueError(_zero(path, name))
    matrices = [name for name, tensor in tensors.items() if tensor.dim() > 1]
    if matrices and not any(name not in plain or plain[name].any() for name in matrices):
        raise ValueError(ALL_ZERO)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_pickle(path: Path) -> None:
    """The file begins as torch.save's do; nothing of it is run. Raises ValueError."""
    with open(path, "rb") as file:
        begin = file.read(len(LFS_POINTER))
    _refuse_pointer(path, begin)
    if not begin.startswith(PICKLES):
        raise ValueError(f"{path.name} is no file of weights; copy or save it again")


def _refuse_pointer(path: Path, begin: bytes) -> None:
    if begin == LFS_POINTER:
        raise ValueError(f"{path.name} is a Git LFS pointer; run `git lfs pull` there")


def _header(text: bytes) -> dict[str, Tensor]:
    """Raises one of many errors where it is none."""
    tensors = {}
    for name, told in json.loads(text).items():
        if name != "__metadata__":
            (begin, end), shape = told["data_offsets"], tuple(told["shape"])
            if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)) or end < begin:
                raise ValueError
            tensors[name] = Tensor(str(told["dtype"]), shape, begin, end)
    return tensors


def _check_ranges(path: Path, tensors: dict[str, Tensor]) -> None:
    """Every tensor has the bytes of its shape, and they lie one behind the other, as safetensors wants it."""
    for name, tensor in tensors.items():
        bits = BITS.get(tensor.dtype)
        if bits and tensor.end - tensor.begin != math.prod(tensor.shape) * bits // 8:
            shape = " x ".join(map(str, tensor.shape))
            raise ValueError(
                f"{path.name}: {name} is {shape} of {tensor.dtype} and has {tensor.end - tensor.begin} bytes; "
                "copy or save it again"
            )
    ranges = sorted((tensor.begin, tensor.end) for tensor in tensors.values())
    if any(one[1] != other[0] for one, other in pairwise([(0, 0), *ranges])):
        raise ValueError(f"{path.name} has gaps or overlaps between its tensors; copy or save it again")


def _is_finite(file: BinaryIO, data: int, tensor: Tensor, *, sampled: bool) -> bool:
    """Whether a tensor of a file whose data begin at `data` has finite numbers alone; True of types without others."""
    if tensor.dtype not in EXPONENTS:
        return True
    exponent = EXPONENTS[tensor.dtype]
    return not any(
        ((words & words.dtype.type(exponent)) == exponent).any()
        for words in _words(file, data, tensor, sampled=sampled)
    )


def _is_zero(file: BinaryIO, data: int, tensor: Tensor, *, sampled: bool) -> bool:
    """Whether all numbers of a tensor are 0, with whatever sign; False of other types than those of floating-point numbers."""
    if tensor.dtype not in EXPONENTS or tensor.begin == tensor.end:
        return False
    return not any((words << words.dtype.type(1)).any() for words in _words(file, data, tensor, sampled=sampled))


def _words(file: BinaryIO, data: int, tensor: Tensor, *, sampled: bool) -> Iterator[Any]:
    """The numbers of a tensor as unsigned integers, a part at a time; with `sampled` those at a few places, far apart."""
    import numpy as np

    word = np.dtype(f"<u{BITS[tensor.dtype] // 8}")
    step, size = CHUNK, CHUNK
    if sampled:
        step, size = max(SAMPLE, (tensor.end - tensor.begin) // SAMPLES // word.itemsize * word.itemsize), SAMPLE
    for start in range(tensor.begin, tensor.end, step):
        file.seek(data + start)
        yield np.frombuffer(file.read(min(size, tensor.end - start)), word)
