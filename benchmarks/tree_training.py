"""What it costs to train a tree: one sample per node, one sample per path, and each prefix once (`--spo.pack_trees`).

Forward and backward of one tree with random tokens and a random model, in turn and several times: the same log-probs are
wanted of each, so the gradients are the same, which is checked in float32. Ratios are taken within a turn, on a CPU of the
process's own processor seconds, which other programs disturb less. `ideal` is the ratio of tokens: what packing would
save if every token cost the same. Memory is what the largest forward keeps for its backward, on a GPU the highest in use.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from tree_layouts import LAYOUTS, MODELS, Subject, build

from spo_rlhf.core.options import whole_numbers
from spo_rlhf.errors import UserError
from spo_rlhf.host.command import command_line
from spo_rlhf.host.console import Console

PROGRAM = "tree_training"
EXAMPLES = """examples:
  python benchmarks/tree_training.py --output runs/tree_training                          # minutes on 2 cores
  python benchmarks/tree_training.py --quick --output runs/tree_training
  python benchmarks/tree_training.py --device cuda --model qwen2.5-1.5b --lengths 256/512 --pack-tokens 16384 --output DIR
"""


def measure_tree(subject: Subject, repeats: int, report: Callable[[int], None]) -> dict[str, Any]:
    """All layouts in turn, after two rounds that are not counted: seconds, MiB, ratios to `packed`, and the gradients' gaps."""
    gradients, memory = {}, {}
    for layout in LAYOUTS:
        memory[layout] = subject.prepare(layout)
        gradients[layout] = subject.gradient()
    seconds: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    for repeat in range(repeats):
        report(repeat + 1)
        for layout in LAYOUTS if repeat % 2 == 0 else LAYOUTS[::-1]:
            took, mib = subject.run(layout)
            seconds[layout].append(took)
            memory[layout] = max(memory[layout], mib)
    size = gradients["node"].norm()
    result: dict[str, Any] = {"tokens": subject.tokens, "distinct": subject.distinct}
    result |= {"seconds": {name: common.spread(all_) for name, all_ in seconds.items()}}
    result["mib"] = memory
    for other in ("node", "path"):
        ratios = [one / packed for one, packed in zip(seconds[other], seconds["packed"], strict=True)]
        ideal = subject.tokens[other] / subject.distinct
        result[f"over_{other}"] = {**common.spread(ratios), "ideal": ideal, "reached": float(np.median(ratios)) / ideal}
    result["gradient_gap"] = {
        name: float((gradients[name] - gradients["node"]).norm() / size) for name in ("path", "packed")
    }
    return result


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown: what one sample per node and one per path take, in units of packed, over what tokens alone would give."""
    head = "tree | tokens node / path / packed | node over packed | ideal | path over packed | ideal | MiB node / path / packed"
    rows = []
    for name, one in results.items():
        node, path = one["over_node"], one["over_path"]
        tokens = " / ".join(str(one["tokens"][layout]) for layout in LAYOUTS)
        over = [text for way in (node, path) for text in (common.spread_text(way), f"{way['ideal']:.2f}")]
        rows.append((name, tokens, *over, " / ".join(f"{one['mib'][layout]:.0f}" for layout in LAYOUTS)))
    return common.markdown(head, rows)


def picture(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Bars of the ratios with their spread, and the ideal as a line on each."""
    plt = common.pyplot()

    figure, axes = plt.subplots(figsize=(1.5 + 1.1 * len(results), 3.6), layout="constrained")
    for place, (other, colour) in enumerate((("node", "tab:blue"), ("path", "tab:orange"))):
        ratio = [one[f"over_{other}"] for one in results.values()]
        at = np.arange(len(ratio)) + 0.4 * place
        middle = np.array([one["median"] for one in ratio])
        error = [middle - [one["min"] for one in ratio], [one["max"] for one in ratio] - middle]
        axes.bar(at, middle, 0.36, yerr=error, color=colour, capsize=2, label=f"one sample per {other}")
        axes.hlines([one["ideal"] for one in ratio], at - 0.18, at + 0.18, colors="black")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xticks(np.arange(len(results)) + 0.2, results, rotation=30, ha="right")
    axes.set_ylabel("seconds over packed (line: tokens)")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def measure(args: argparse.Namespace, console: Console) -> None:
    """Every shape and length in turn, results after each. Raises UserError."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; use --device cpu")
    if args.quick:
        args.shapes, args.lengths, args.model, args.repeats = [(3, 3), (8,)], [(12, 8)], "tiny", 2
    args.output.mkdir(parents=True, exist_ok=True)
    longest = max(prompt + len(shape) * segment for shape in args.shapes for prompt, segment in args.lengths)
    model, results = build(args.model, args.device, longest), {}
    for shape in args.shapes:
        for prompt, segment in args.lengths:
            name = f"{'-'.join(map(str, shape))} {prompt}/{segment}"
            subject = Subject(model, args, shape, prompt, segment)
            one = measure_tree(subject, args.repeats, lambda repeat, name=name: console.status(f"{name}  {repeat}"))
            if not math.isfinite(sum(one["gradient_gap"].values())):
                raise UserError(f"{name}: a gradient is not finite; choose shorter --lengths")
            results[name] = one
            console.line(
                f"{name}  node {one['over_node']['median']:.2f} of {one['over_node']['ideal']:.2f}, path "
                f"{one['over_path']['median']:.2f} of {one['over_path']['ideal']:.2f}, gap {one['gradient_gap']['packed']:.1e}"
            )
            common.write_results(args.output, args, table(results), results=results)
            picture(results, args.output / "ratios.png")
    console.line(common.where(args.output, picture="ratios.png"))


def length_pair(text: str) -> tuple[int, int]:
    """ "96/48" -> prompt and segment."""
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: give PROMPT/SEGMENT, such as 96/48")
    return int(parts[0]), int(parts[1])


def build_parser() -> argparse.ArgumentParser:
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    common.add_output(parser)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: bfloat16, FlexAttention")
    parser.add_argument("--model", choices=MODELS, default="small", help="size of the random model (default: small)")
    parser.add_argument(
        "--shapes",
        type=whole_numbers,
        nargs="+",
        default=[(6, 6, 6), (8, 2), (8,)],
        metavar="B1,B2,..",
        help="children by level (default: 6,6,6 8,2 8)",
    )
    parser.add_argument(
        "--lengths",
        type=length_pair,
        nargs="+",
        default=[(24, 12), (96, 48)],
        metavar="PROMPT/SEGMENT",
        help="tokens of the prompt and of a segment (default: 24/12 96/48)",
    )
    parser.add_argument("--pack-tokens", type=int, default=4096, metavar="N", help="of a batch, in any layout")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns that are counted (default: 5)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the tokens")
    parser.add_argument("--quick", action="store_true", help="two small trees and a tiny model: seconds")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage, 130 when interrupted."""
    return common.run(PROGRAM, lambda console: measure(build_parser().parse_args(argv), console))


if __name__ == "__main__":
    sys.exit(main())
