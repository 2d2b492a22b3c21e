"""Seconds of a step on some GPUs, projected: synchronous on shared or split GPUs, and one step off on split ones.

Nothing runs. Rates come from a device's data sheet, from published and from our own measurements, and some are assumed: the
table below the projection names the kind of each, and `--set NAME=VALUE` puts another in its place. `--overhead measured` takes
what was measured on an H100 that other runs shared, which is an upper bound of the overheads; `published` takes what others
report. What fits is the memory plan's word (docs/memory.md). The model: benchmarks/scaling_model.py; the reading: docs/scaling.md.
"""

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
from projection import MODELS, OVERHEADS, WAYS, WORKLOADS, Projector, project, rates_of
from scaling_model import Batch

from spo_rlhf.host.arguments import whole, whole_numbers
from spo_rlhf.host.command import command_line
from spo_rlhf.host.console import Console

PROGRAM = "scaling"
STEPS = 20  # that overlap is computed over
EXAMPLES = """examples:
  python benchmarks/scaling.py                                                # 1.5B and 7B on 8 and 64 H100
  python benchmarks/scaling.py --models 7b --gpus 1,2,4,8,16,32,64 --workloads group
  python benchmarks/scaling.py --set training_mfu=0.3 --set iteration_s=0.012 --output runs/scaling
"""


def projection(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each model, workload, number of GPUs and overhead."""
    rows = []
    for model, name in itertools.product(args.models, args.workloads):
        work = replace(WORKLOADS[name], prompts=args.prompts or WORKLOADS[name].prompts)
        draw = np.random.default_rng(args.seed)
        batches = [work.batch(draw) for _ in range(args.steps)]
        for gpus, overhead in itertools.product(args.gpus, args.overheads):
            projector = Projector(MODELS[model], rates_of(overhead, args.changes))
            ways = project(projector, work, batches, gpus, packed=args.packed)
            rows.append({"model": model, "workload": name, "gpus": gpus, "overhead": overhead, "ways": ways})
    return rows


def work_table(args: argparse.Namespace) -> list[str]:
    """Markdown: tokens of one step of each workload, the mean of those drawn."""
    rows = []
    for name in args.workloads:
        work = replace(WORKLOADS[name], prompts=args.prompts or WORKLOADS[name].prompts)
        draw = np.random.default_rng(args.seed)
        batches = [work.batch(draw) for _ in range(args.steps)]
        means = np.mean(
            [(*asked(one), one.samples, one.trained_tokens, one.distinct_tokens) for one in batches], axis=0
        )
        rows.append([name, str(work.prompts), *(f"{number:,.0f}" for number in means)])
    head = "workload | prompts | requests | sampled tokens | samples trained | their tokens | distinct"
    return common.markdown(head, rows)


def asked(batch: Batch) -> tuple[int, int]:
    """Requests of a step and the tokens that they sample."""
    tokens, waiting = [], list(itertools.chain.from_iterable(batch.prompts))
    while waiting:
        one = waiting.pop()
        tokens.append(one.tokens)
        waiting += one.then
    return len(tokens), sum(tokens)


def cell(one: dict[str, Any] | None, others: dict[str, Any] | None = None) -> str:
    """Seconds of a step, with the engines of a split, and how many times faster than another way."""
    if one is None:
        return "-"
    engines = f" ({one['engines']} engine{'s' * (one['engines'] > 1)})" if "engines" in one else ""
    return f"{one['step_s']:.0f}{engines}" + (f", x {others['step_s'] / one['step_s']:.2f}" if others else "")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: seconds of a step each way, and the phases of the shared one."""
    head = (
        "model | workload | GPUs | overheads | shared | of it sampling, log-probs, training, sync, switch | split | one step off, "
        "x the faster of both | idle there: engines, actor"
    )
    lines = []
    for row in rows:
        shared, split, off = row["ways"]["shared"], row["ways"]["split"], row["ways"]["one step off"]
        names = ("generation_s", "experience_s", "training_s", "sync_s", "switch_s")
        parts = ", ".join(f"{shared[name]:.1f}" for name in names) if shared else "does not fit"
        idle = f"{off['engine_idle']:.0%}, {off['actor_idle']:.0%}" if off else "-"
        faster = min((one for one in (shared, split) if one), key=lambda one: one["step_s"], default=None)
        cells = [row["model"], row["workload"], str(row["gpus"]), row["overhead"], cell(shared), parts, cell(split)]
        lines.append([*cells, cell(off, faster), idle])
    return common.markdown(head, lines)


def rates_table(overheads: tuple[str, ...], changes: Mapping[str, float]) -> list[str]:
    """Markdown: every rate, its kind, and where it is from."""
    rows = []
    told: set[tuple[str, float, str]] = set()
    for overhead in overheads:
        for name, one in rates_of(overhead, changes).items():
            if (name, one.value, one.kind) not in told:
                told.add((name, one.value, one.kind))
                rows.append((f"`{name}`", f"{one.value:.4g}", one.kind, one.source))
    return common.markdown("rate | value | kind | from", rows)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds of a step over GPUs, a panel for each model and workload."""
    plt = common.pyplot()

    panels = list(dict.fromkeys((row["model"], row["workload"]) for row in rows))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.2 * len(panels), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, (model, workload) in zip(axes[0], panels):
        for style, overhead in (("-", "published"), (":", "measured")):
            mine = [
                row for row in rows if (row["model"], row["workload"], row["overhead"]) == (model, workload, overhead)
            ]
            for colour, way in enumerate(WAYS):
                there = [(row["gpus"], row["ways"][way]["step_s"]) for row in mine if row["ways"][way]]
                if there:
                    label = way if style == "-" else None
                    panel.plot(*zip(*there), style, marker="o", markersize=3, color=f"C{colour}", label=label)
        panel.set(title=f"{model}, {workload}", xlabel="GPUs", xscale="log", yscale="log")
        panel.set_xticks(sorted({row["gpus"] for row in rows}), [str(n) for n in sorted({row["gpus"] for row in rows})])
        panel.minorticks_off()
    axes[0][0].set(ylabel="seconds of a step, projected")
    axes[0][0].plot([], [], ":", color="black", label="overheads measured")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def measure(args: argparse.Namespace, console: Console) -> None:
    """Print the projection, the work and the rates; with --output write them too. Raises UserError."""
    args.overheads = tuple(OVERHEADS) if args.overhead == "both" else (args.overhead,)
    args.changes = dict(args.set or ())
    rows = [] if args.dry_run else projection(args)
    steps = ["Projected, not measured: seconds of a step.", "", *table(rows), ""] if rows else []
    lines = [*steps, *work_table(args), "", *rates_table(args.overheads, args.changes)]
    for line in lines:
        console.line(line)
    if args.output and rows:
        args.output.mkdir(parents=True, exist_ok=True)
        rates = {
            one: {name: dataclasses.asdict(value) for name, value in rates_of(one, args.changes).items()}
            for one in args.overheads
        }
        common.write_results(args.output, args, lines, rows=rows, rates=rates)
        picture(rows, args.output / "scaling.png")


def assignment(text: str) -> tuple[str, float]:
    """ "training_mfu=0.3" -> name and value."""
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not equals or not number > 0 or number == math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=VALUE with a number above 0, such as training_mfu=0.3")
    return name, number


def build_parser() -> argparse.ArgumentParser:
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    add = parser.add_argument
    add(
        "--models",
        type=common.names_of(MODELS),
        default=tuple(MODELS),
        metavar="A,B",
        help="1.5b and 7b; default: both",
    )
    add(
        "--workloads",
        type=common.names_of(WORKLOADS),
        default=tuple(WORKLOADS),
        metavar="A,B",
        help="tree, chain, group",
    )
    add("--gpus", type=whole_numbers, default=(8, 64), metavar="N,M", help="default: 8,64")
    add("--overhead", choices=(*OVERHEADS, "both"), default="both", help="whose overheads; default: both, a row each")
    add("--prompts", type=whole(1), metavar="N", help="of a step; default: the recipe's")
    add("--packed", action="store_true", help="training sees each prefix once (--spo.pack_trees)")
    add("--set", type=assignment, action="append", metavar="NAME=VALUE", help="a rate of your own; may be repeated")
    add("--steps", type=whole(2), default=STEPS, metavar="N", help=f"whose lengths are drawn; default: {STEPS}")
    add("--seed", type=whole(0), default=0, metavar="N", help="of the lengths")
    add("--output", type=Path, metavar="DIR", help="results.json, results.md and a picture too")
    add("--dry-run", action="store_true", help="the work of a step and the rates alone")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage."""
    return common.run(PROGRAM, lambda console: measure(build_parser().parse_args(argv), console))


if __name__ == "__main__":
    sys.exit(main())
