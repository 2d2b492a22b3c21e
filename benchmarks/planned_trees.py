"""Does --spo.tree_shape planned find a better shape? Its plan after so many trees, and what the gradient's noise says of it.

At one policy, without training and without Ray: trees of the first shape, some of them cut elsewhere as in a run, are what the
planner learns from, and it plans so many times. Then the noise of the gradient of all parameters, times tokens, is measured of RLOO
with 8 responses, of the first shape and of the planned one; `predicted` is the planner's own price over the first shape's.
"""

import argparse
import asyncio
import sys
import time
from typing import Any

import common
import numpy as np
import torch
from estimates import Setting, Subject, sampler_options
from gradient_noise import add_folders, load, measure_setting, relative_to, table
from torch_engine import TorchEngine

from spo_rlhf.core.options import whole_numbers
from spo_rlhf.core.tree import TokenTree, TreeShape
from spo_rlhf.core.tree_baselines import Shrunk
from spo_rlhf.core.tree_plan import PlannedShape, Planner
from spo_rlhf.errors import UserError
from spo_rlhf.host.arguments import add_number, whole
from spo_rlhf.host.command import command_line
from spo_rlhf.host.console import Console
from spo_rlhf.rollout.tree import TreeRollout

PROGRAM = "planned_trees"
EXAMPLES = """examples:
  python -m spo_rlhf.cli.prepare --task check_last --changes 6 --output runs/check/task
  python benchmarks/planned_trees.py --task runs/check/task --cut 37 --output runs/check/planned
"""


async def grow(subject: Subject, rows: list[dict[str, Any]], shapes: list[TreeShape]) -> list[TokenTree]:
    """A tree of each problem."""
    engine = TorchEngine(subject.model, subject.tokenizer)
    samplers = [TreeRollout(**sampler_options(engine, subject, row, slot)) for slot, row in enumerate(rows)]
    return await asyncio.gather(*(one.grow(shape) for one, shape in zip(samplers, shapes, strict=True)))


def planned(subject: Subject, first: TreeShape, args: argparse.Namespace) -> Planner:
    """A planner behind `args.plans` plans, each from `args.trees` further trees."""
    planner = Planner(PlannedShape(every=1), first, args.seed)
    rng = np.random.default_rng(args.seed + 1)
    for iteration in range(args.plans):
        rows = [subject.rows[i] for i in rng.choice(len(subject.rows), args.trees, replace=False)]
        shapes = [planner.shape_of(iteration, slot) for slot in range(args.trees)]
        for tree in asyncio.run(grow(subject, rows, shapes)):
            planner.learn(tree, None, 0.0)
        planner.end(iteration)
    return planner


def setting_of(shape: TreeShape) -> Setting:
    """The shape's noise, with the shrunk baseline that a run would have."""
    return Setting(tree=shape, advantage=Shrunk(branching=shape.branching, settled=shape.settled))


def name_of(shape: TreeShape) -> str:
    return f"tree {'-'.join(map(str, shape.branching))}, shrunk, cut at token {shape.segment_tokens[0]}"


def build_parser() -> argparse.ArgumentParser:
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    add_folders(parser)
    help = "of the first shape; default: 4,2"
    parser.add_argument("--branching", type=whole_numbers, default=(4, 2), metavar="B1,B2", help=help)
    parser.add_argument(
        "--cut", type=whole(1), required=True, metavar="N", help="token at which the first shape is cut"
    )
    for flag, least, default, help in (
        ("--trees", 8, 128, "before each plan"),
        ("--plans", 1, 3, "one after the other"),
        ("--prompts", 1, 16, "in an estimate of the gradient"),
        ("--repeats", 3, 24, "estimates of each shape"),
        ("--seed", 0, 0, "of prompts, trees and responses"),
    ):
        add_number(parser.add_argument, flag, least, default, help)
    return parser


def measure(args: argparse.Namespace, console: Console) -> None:
    """The plan, then the noise. Raises UserError."""
    start, (subject, prepared) = time.monotonic(), load(args.task, max(args.prompts, args.trees))
    torch.manual_seed(args.seed)
    first = TreeShape(args.branching, (args.cut,))
    planner = planned(subject, first, args)
    if planner.now == first:
        raise UserError(f"--task {args.task}: nothing was planned, its outcomes do not differ")
    console.line(f"planned in {time.monotonic() - start:.0f} s: {name_of(planner.now)}")
    settings = {"rloo, 8 responses": Setting(), f"{name_of(first)} (first)": setting_of(first)}
    settings[f"{name_of(planner.now)} (planned)"] = setting_of(planner.now)
    measured = {
        name: measure_setting(
            subject, one, args, lambda repeat, name=name: console.status(f"{name} {repeat}/{args.repeats}")
        )
        for name, one in settings.items()
    }
    reference, before, after = measured.values()
    results = {name: {**one, **relative_to(reference, one)} for name, one in measured.items()}
    over_first = {"predicted": planner.over_first, **relative_to(before, after)}
    lines = [
        *table(results, {}),
        "",
        f"planned over first: measured {over_first['relative']:.2f} ± {over_first['error']:.2f}, predicted {over_first['predicted']:.2f}",
    ]
    common.write_results(
        args.output, args, lines, task=prepared, results=results, over_first=over_first, profile=planner.metrics()
    )
    for line in lines:
        console.line(line)


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage, 130 when interrupted."""
    return common.run(PROGRAM, lambda console: measure(build_parser().parse_args(argv), console))


if __name__ == "__main__":
    sys.exit(main())
