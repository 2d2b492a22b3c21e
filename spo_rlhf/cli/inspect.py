"""`spo-inspect`: the segment algebra on recorded probabilities, one JSON object a line in, one out.

Shows what a response would train: its boundaries, segment and token advantages and the loss mask. Needs no model and
imports neither torch nor the training stack.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterator, TextIO

from spo_rlhf.core.advantages import chain, to_tokens
from spo_rlhf.core.partition import PartitionConfig, below_threshold, boundaries, check_threshold
from spo_rlhf.errors import UserError

PROGRESS_SECONDS = 5.0
LARGEST_NUMBER = sys.float_info.max / 2  # so that a difference of two stays finite
PARTITION_PARAMETERS = tuple(field.name for field in fields(PartitionConfig) if field.name != "kind")
REQUIRED_PARAMETERS = {
    "cutpoint": ("threshold", "interval"),
    "fixed": ("segment_length",),
    "segments": ("segment_count",),
}

EXAMPLES = """\
input, one object a line (here wrapped; also as {"input": {...}}; other keys are ignored):
  {"mode": "chain", "probs": [0.95, 0.5, 0.99, 0.8], "mask_threshold": 0.9,
   "partition": {"type": "cutpoint", "threshold": 0.9, "interval": 1}, "values": [0.25, 0.5], "reward": 1.0}
  probs   probability of each response token under the policy that sampled it
  values  V at the start of each segment, V(prompt) first
  partition  {"type": "cutpoint", "threshold": p, "interval": n}, {"type": "fixed", "segment_length": n},
             {"type": "segments", "segment_count": n}, or {"type": "newline"} and {"type": "subsentence"} with
             "texts": one string per token

output, in the same order:
  {"boundaries": [0, 3, 4], "advantages": [0.25, 0.5], "token_advantages": [0.25, 0.25, 0.25, 0.5],
   "mask": [0, 1, 0, 1]}

examples:
  spo-inspect --input responses.jsonl --output advantages.jsonl
  head -n 1 responses.jsonl | spo-inspect --input - --output -
"""


def inspect_chain(case: dict[str, Any]) -> dict[str, list]:
    """One response of SPO-chain: boundaries (K+1,), advantages (K,), token_advantages (T,), mask (T,) as 0 and 1."""
    prob_T = _numbers(case, "probs")
    for position, prob in enumerate(prob_T):
        if not 0 <= prob <= 1:
            raise ValueError(f"'probs' holds {prob!r} at position {position}: give probabilities from 0 to 1")
    mask_threshold = _get(case, "mask_threshold")
    check_threshold(mask_threshold, "'mask_threshold'")
    boundary_K = boundaries(_partition(_get(case, "partition")), prob_T, _texts(case))
    value_K = _numbers(case, "values")
    if len(value_K) != len(boundary_K) - 1:
        raise ValueError(
            f"{len(value_K)} 'values' for {len(boundary_K) - 1} segments, which start at {boundary_K[:-1]}: "
            "give one per segment"
        )
    adv_K = chain(value_K, _number(_get(case, "reward"), "'reward'"))
    return {
        "boundaries": boundary_K,
        "advantages": adv_K.tolist(),
        "token_advantages": to_tokens(adv_K, boundary_K).tolist(),
        "mask": below_threshold(prob_T, mask_threshold).astype(int).tolist(),
    }


MODES: dict[str, Callable[[dict[str, Any]], dict[str, list]]] = {"chain": inspect_chain}


def inspect_line(line: bytes) -> dict[str, list]:
    """The result for one line of input. Raises ValueError, in one line, for bad input."""
    try:
        case = json.loads(line.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno}): give one JSON object a line") from None
    except RecursionError:
        raise ValueError("nested too deeply: give one JSON object a line") from None
    if isinstance(case, dict) and "input" in case:
        case = case["input"]
    if not isinstance(case, dict):
        raise ValueError(f"a JSON {type(case).__name__}, not an object: give one JSON object a line")
    mode = _get(case, "mode")
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}: choose one of {', '.join(MODES)}")
    return MODES[mode](case)


def inspect_stream(source: BinaryIO, name: str, sink: TextIO) -> None:
    """Inspect every line that is not blank, in order. Raises UserError naming file and line for bad input."""
    count, last_report = 0, time.monotonic()
    for number, line in enumerate(source, start=1):
        if not line.strip():
            continue
        try:
            sink.write(json.dumps(inspect_line(line), allow_nan=False) + "\n")
        except ValueError as error:
            raise UserError(f"{name} line {number}: {error}") from None
        count += 1
        if time.monotonic() - last_report > PROGRESS_SECONDS:
            last_report = time.monotonic()
            print(f"spo-inspect: {count} responses done", file=sys.stderr)
    if count == 0:
        raise UserError(f"{name} line 1: the file is empty: give one JSON object a line")


def _get(case: dict[str, Any], key: str) -> Any:
    if key not in case:
        raise ValueError(f"key '{key}' is missing: add it")
    return case[key]


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {json.dumps(value)[:40]}: give a number")
    if abs(value) > LARGEST_NUMBER:
        raise ValueError(f"{name} is too large: give a finite number")
    return float(value)


def _numbers(case: dict[str, Any], key: str) -> list[float]:
    values = _get(case, key)
    if not isinstance(values, list):
        raise ValueError(f"'{key}' is not a list: give a list of numbers")
    return [_number(value, f"'{key}' at position {position}") for position, value in enumerate(values)]


def _texts(case: dict[str, Any]) -> list[str] | None:
    texts = case.get("texts")
    if texts is not None and not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise ValueError("'texts' is not a list of strings: give the text of each token")
    return texts


def _partition(spec: Any) -> PartitionConfig:
    if not isinstance(spec, dict):
        raise ValueError("'partition' is not an object: give one with a \"type\"")
    kind = str(_get(spec, "type"))
    PartitionConfig(kind=kind)  # an unknown kind is to be told before what is wrong with its keys
    for key in REQUIRED_PARAMETERS.get(kind, ()):
        _get(spec, key)
    parameters = {key: value for key, value in spec.items() if key != "type"}
    unknown = [key for key in parameters if key not in PARTITION_PARAMETERS]
    if unknown:
        raise ValueError(f"'partition' has unknown key '{unknown[0]}': choose from {', '.join(PARTITION_PARAMETERS)}")
    return PartitionConfig(kind=kind, **parameters)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number: give finite numbers")


@contextmanager
def _atomic_output(target: str) -> Iterator[TextIO]:
    """A text file that reaches ``target`` ('-': standard output) whole, or, on an error, not at all."""
    path = Path(target).resolve()
    if target != "-" and (path.is_file() or not path.exists()):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as sink:
                yield sink
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return
    # Standard output, a pipe or a device cannot be replaced: hold the text back until it is complete.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as sink:
        yield sink
        sink.seek(0)
        with nullcontext(sys.stdout) if target == "-" else path.open("w", encoding="utf-8") as out:
            shutil.copyfileobj(sink, out)
            out.flush()


def main(argv: list[str] | None = None) -> int:
    """Entry point of `spo-inspect`; returns the exit status: 0, or 2 for wrong usage or bad input."""
    parser = argparse.ArgumentParser(
        prog="spo-inspect",
        description="Boundaries, advantages and loss mask of recorded responses.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input", required=True, metavar="FILE", help="JSON lines to read; - for standard input")
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON lines to write; - for standard output")
    args = parser.parse_args(argv)
    try:
        with nullcontext(sys.stdin.buffer) if args.input == "-" else open(args.input, "rb") as source:
            with _atomic_output(args.output) as sink:
                inspect_stream(source, "standard input" if args.input == "-" else args.input, sink)
    except UserError as error:
        print(f"spo-inspect: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output left; keep the interpreter's last flush from failing too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = error.filename or args.output
        print(f"spo-inspect: error: {place}: {error.strerror}: check --input and --output", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
