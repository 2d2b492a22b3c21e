"""`spo-inspect`: the segments of a run as a page or on the terminal, and the segment algebra on recorded responses and trees.

The algebra shows what a response would train, one JSON object a line in, one out: its boundaries, segment and token advantages
and the loss mask; of a tree, its values and advantages. Needs no model and imports neither torch nor the training stack.
"""

import argparse
import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from spo_rlhf.cli.inspect_modes import MODES, get
from spo_rlhf.errors import UserError
from spo_rlhf.host.command import command_line, run_command
from spo_rlhf.host.files import parse_json, whole_output
from spo_rlhf.insight import terminal
from spo_rlhf.insight.viewer import Entry, entries, viewer
from spo_rlhf.rollouts.reader import files, read

PROGRAM = "spo-inspect"
PROGRESS_SECONDS = 5.0

EXAMPLES = """\
a run (docs/rollouts.md says what it keeps; also while it runs):
  spo-inspect runs/quickstart/train --html segments.html     # a page for a browser, all in one file
  spo-inspect runs/quickstart/train --show 3                 # the newest 3 responses here

recorded cases (--input, --output), one object a line (here wrapped; also as {"input": {...}}; other keys are ignored):
  {"mode": "chain", "probs": [0.95, 0.5, 0.99, 0.8], "mask_threshold": 0.9,
   "partition": {"type": "cutpoint", "threshold": 0.9, "interval": 1}, "values": [0.25, 0.5], "reward": 1.0}
  {"mode": "tree", "advantage": "mean", "nodes": [{"id": 0, "parent": null}, {"id": 1, "parent": 0, "reward": 1.0},
   {"id": 2, "parent": 0, "reward": 0.0}]}
  probs   probability of each response token under the policy that sampled it
  values  V at the start of each segment, V(prompt) first
  partition  {"type": "cutpoint", "threshold": p, "interval": n}, {"type": "fixed", "segment_length": n},
             {"type": "segments", "segment_count": n}, or {"type": "newline"} and {"type": "subsentence"} with
             "texts": one string per token
  advantage  of a tree: mean (against the parent's value), loo (against the other siblings), std (over their spread),
             shrunk (loo, shrunk towards what the parent was compared with) with "branching": children by level
  prior      of a tree, with loo or shrunk: what was known of the prompt, {"mean": p, "count": outcomes}

output, in the same order:
  {"boundaries": [0, 3, 4], "advantages": [0.25, 0.5], "token_advantages": [0.25, 0.25, 0.25, 0.5],
   "mask": [0, 1, 0, 1]}
  {"values": {"0": 0.5, "1": 1.0, "2": 0.0}, "advantages": {"1": 0.5, "2": -0.5}, "trained": [1, 2]}

  spo-inspect --input responses.jsonl --output advantages.jsonl
  head -n 1 responses.jsonl | spo-inspect --input - --output -
"""


def inspect_line(line: bytes) -> dict[str, Any]:
    """The result for one line of input. Raises ValueError, in one line, for bad input."""
    case = parse_json(line, parse_constant=_no_constant)
    if isinstance(case, dict) and "input" in case:
        case = case["input"]
    if not isinstance(case, dict):
        raise ValueError(f"a JSON {type(case).__name__}, not an object: give one JSON object a line")
    mode = get(case, "mode")
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
            print(f"{PROGRAM}: {count} responses done", file=sys.stderr)
    if count == 0:
        raise UserError(f"{name} line 1: the file is empty: give one JSON object a line")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number: give finite numbers")


def build_parser() -> argparse.ArgumentParser:
    description = "The segments of a run, as a page or here; or boundaries, advantages and loss mask of recorded cases."
    parser = command_line(PROGRAM, description, EXAMPLES)
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run folder, or a file of its rollouts")
    parser.add_argument("--html", metavar="FILE", help="write the page of its segments")
    parser.add_argument(
        "--most",
        type=at_least_one,
        default=1000,
        metavar="N",
        help="responses or trees on the page at most (%(default)s)",
    )
    parser.add_argument("--show", type=at_least_one, metavar="N", help="print the newest N responses or trees")
    parser.add_argument("--input", metavar="FILE", help="JSON lines to read; - for standard input")
    parser.add_argument("--output", metavar="FILE", help="JSON lines to write; - for standard output")
    return parser


def at_least_one(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def inspect(argv: list[str] | None) -> None:
    """A run, or cases: read, inspect, write. Raises UserError."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.run is None:
        if args.html or args.show:
            parser.error("--html and --show need a RUN")
        if missing := [flag for flag in ("--input", "--output") if getattr(args, flag[2:]) is None]:
            or_run = "; or a RUN with --html or --show" if len(missing) > 1 else ""
            parser.error(f"the following arguments are required: {', '.join(missing)}{or_run}")
        return inspect_cases(args)
    if args.input or args.output:
        parser.error("--input and --output are for recorded cases; a RUN goes with --html or --show")
    if not args.html and not args.show:
        parser.error("say what to do with the RUN: --html FILE or --show N")
    return inspect_run(args)


def inspect_run(args: argparse.Namespace) -> None:
    """The page, the newest responses here, or both. Raises UserError."""
    if args.html:
        made = viewer(read(args.run), title=args.run, most=args.most)
        Path(args.html).parent.mkdir(parents=True, exist_ok=True)
        with whole_output(args.html) as sink:
            sink.write(made)
        if args.html != "-":
            print(f"{args.html}: open it in a browser ({len(made) / 1e6:.1f} MB)")
    if args.show:
        for text in terminal.shown(
            newest(args.run, args.show), colours=sys.stdout.isatty() and "NO_COLOR" not in os.environ
        ):
            print(text)


def newest(run: str, count: int) -> list[Entry]:
    """The last responses or trees of a run, the oldest of them first; no more files are read than it takes."""
    found: list[Entry] = []
    for file in reversed(files(run)):
        found = entries(read(file), most=count)[0] + found
        if len(found) >= count:
            break
    return found[-count:]


def inspect_cases(args: argparse.Namespace) -> None:
    """The segment algebra on recorded cases. Raises UserError."""
    try:
        with nullcontext(sys.stdin.buffer) if args.input == "-" else open(args.input, "rb") as source:
            with whole_output(args.output) as sink:
                inspect_stream(source, "standard input" if args.input == "-" else args.input, sink)
    except BrokenPipeError:
        raise
    except OSError as error:
        place = error.filename or args.output
        raise UserError(f"{place}: {error.strerror}: check --input and --output") from None


def main(argv: list[str] | None = None) -> int:
    """Entry point of `spo-inspect`; exit status 0, 2 for wrong usage or bad input, 130 when interrupted."""
    return run_command(PROGRAM, lambda: inspect(argv))


if __name__ == "__main__":
    sys.exit(main())
