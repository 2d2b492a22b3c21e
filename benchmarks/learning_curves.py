"""Accuracy over generated tokens and over seconds, for every method, each at the same token budget, on spo-train.

Every task, method and seed is a run of its own under --output; finished runs are kept, so the command may be stopped and
given again at any time.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import jobs
import report
import study

from spo_rlhf.errors import UserError
from spo_rlhf.host.arguments import seconds, whole
from spo_rlhf.host.command import command_line
from spo_rlhf.host.console import Console, count, duration
from spo_rlhf.host.files import write_json

PROGRAM = "learning_curves"
DEFAULTS = {
    "methods": ",".join(study.DEFAULT_METHODS),
    "tasks": "arithmetic-short,arithmetic-long,knights_knaves",
    "seeds": 3,
    "budget_tokens": 600_000,
    "points": 8,
    "warm_up_seconds": 1800.0,
}
# Instead of the defaults:
STABILITY = {"methods": ",".join(study.STABILITY_METHODS), "tasks": study.STABILITY_WORKLOAD}
QUICK = {
    "methods": "grpo,spo_chain",
    "tasks": "arithmetic-short",
    "seeds": 1,
    "budget_tokens": 60_000,
    "points": 3,
    "warm_up_seconds": 240.0,
}
SWITCHES = {"true": True, "false": False}
EXAMPLES = """examples:
  python benchmarks/learning_curves.py --quick
  python benchmarks/learning_curves.py --methods grpo,spo_chain,spo_tree --task arithmetic-long --seeds 3 --budget-tokens 600000
  python benchmarks/learning_curves.py --methods spo_chain --vary spo.cutpoint_interval=1,3,5 --seeds 1 --budget-tokens 200000
  python benchmarks/learning_curves.py --stability --seeds 1 --budget-tokens 150000   # ten times the learning rate, two epochs
  python benchmarks/learning_curves.py --task arithmetic-short --collect     # one table of all finished runs of a task
  python benchmarks/learning_curves.py --dry-run                             # the commands it would run
"""


def build_parser() -> argparse.ArgumentParser:
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    what = parser.add_argument_group("what is run")
    what.add_argument("--methods", metavar="A,B", help=f"of {', '.join(study.METHODS)}; default: {DEFAULTS['methods']}")
    what.add_argument(
        "--task", dest="tasks", metavar="A,B", help=f"of {', '.join(study.WORKLOADS)}; default: {DEFAULTS['tasks']}"
    )
    what.add_argument("--seeds", type=whole(1), metavar="N", help="runs of each; default: 3")
    tokens = "tokens generated in a run, Monte Carlo included; default: 600000"
    what.add_argument("--budget-tokens", type=whole(1), metavar="N", help=tokens)
    what.add_argument("--points", type=whole(1), metavar="N", help="evaluations in a run, about; default: 8")
    warm_up = "of supervised training of a task's model, at most; default: 1800"
    what.add_argument("--warm-up-seconds", type=seconds, metavar="S", help=warm_up)
    vary = (
        "run each method once with each value (A|B where a value has commas); `prompts` and `responses` are the batch"
    )
    what.add_argument("--vary", action="append", default=[], metavar="OPTION=A,B", help=vary)
    stability = "a learning rate 10 times too high and two epochs in 4 batches"
    what.add_argument("--stability", action="store_true", help=stability)
    what.add_argument("--quick", action="store_true", help="one seed, two methods, one task, a small budget")
    how = parser.add_argument_group("how, and what of it is shown")
    parallel = "runs at a time, each with its share of the cores; seconds compare only at one N; default: 1"
    how.add_argument("--parallel", type=whole(1), default=1, metavar="N", help=parallel)
    output = Path("runs/learning_curves")
    how.add_argument("--output", type=Path, default=output, metavar="DIR", help="default: %(default)s")
    collected = "run nothing; results of all finished runs of --task, whatever their settings"
    how.add_argument("--collect", action="store_true", help=collected)
    how.add_argument("--only", metavar="A,B", help="with --collect: runs of these methods alone, named as in the table")
    baseline = "what the table compares with; default: the first of the methods"
    how.add_argument("--baseline", metavar="METHOD", help=baseline)
    how.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Options, filled in. Raises UserError."""
    args = build_parser().parse_args(argv)
    defaults = {**DEFAULTS, **(STABILITY if args.stability else {}), **(QUICK if args.quick else {})}
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.only and not args.collect:
        raise UserError("--only: goes with --collect; for what is run, --methods")
    return args


def split(text: str) -> list[str]:
    return text.split("|" if "|" in text else ",")


def choose(text: str, known: dict[str, Any], option: str) -> list[str]:
    """Names of a list with commas, or A|B where names have commas; raises UserError for an unknown one."""
    names = [name.strip() for name in split(text) if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(f"{option} {unknown[0] if unknown else text!r}: choose from {', '.join(known)}")
    return names


def variants(args: argparse.Namespace) -> dict[str, study.Method]:
    """Methods to run by name; with --vary the name tells the options that differ."""
    found = {name: study.METHODS[name] for name in choose(args.methods, study.METHODS, "--methods")}
    if args.stability:
        found = {name: method.with_options(study.STABILITY) for name, method in found.items()}
    for text in args.vary:
        option, equals, listed = text.partition("=")
        if not equals or not listed:
            raise UserError(f"--vary {text}: give OPTION=VALUE,VALUE, for instance spo.cutpoint_interval=1,3,5")
        found = {
            f"{name}:{option.rpartition('.')[2]}={value}": method.with_options(
                {option: SWITCHES.get(value.lower(), value)}
            )
            for name, method in found.items()
            for value in filter(None, split(listed))
        }
    return found


@dataclass(frozen=True)
class Run:
    """One training: a method on a workload with a seed. label: what the terminal calls it."""

    workload: str
    method: str
    seed: int
    folder: Path
    label: str


def planned(args: argparse.Namespace, methods: dict[str, study.Method], workloads: list[str]) -> list[Run]:
    """All runs, seed by seed. Those of another budget are other runs, in other folders."""
    triples = [(task, method, seed) for task in workloads for seed in range(args.seeds) for method in methods]
    runs = []
    for number, (workload, method, seed) in enumerate(triples, start=1):
        name = f"{method.replace(':', '-').replace('=', '_')}-{args.budget_tokens}-seed{seed}"
        label = f"[{number}/{len(triples)}] {workload} {method} seed {seed}"
        runs.append(Run(workload, method, seed, args.output.resolve() / workload / name, label))
    return runs


def prepare(args: argparse.Namespace, workloads: list[str], board: jobs.Board) -> None:
    """Data and model of each workload that has none yet."""
    for name in workloads:
        folder = args.output.resolve() / name / "task"
        command = study.prepare_command(study.WORKLOADS[name], folder, args.warm_up_seconds)
        if args.dry_run:
            board.line(" ".join(command))
        elif not (folder / "prepare.json").exists():
            jobs.run_logged(command, folder.with_name("prepare.log"), board, f"{name}: data and model")


def finish(run: Run, args: argparse.Namespace, method: study.Method, board: jobs.Board) -> dict[str, Any]:
    """The record of a run, from its file or by running it. Raises UserError where it fails."""
    result = run.folder / "result.json"
    if not result.exists():
        workload, task = study.WORKLOADS[run.workload], run.folder.with_name("task")
        allowed = dict(budget=args.budget_tokens, points=args.points)
        command = study.train_command(workload, method, task, run.folder, seed=run.seed, **allowed)
        # What a stopped run left would be mixed with the new one.
        (run.folder / "metrics.jsonl").unlink(missing_ok=True)
        try:
            jobs.run_logged(command, run.folder / "terminal.log", board, run.label, args.parallel)
        except UserError:
            if board.stopped is None:
                board.line(f"{run.label}  FAILED, the others go on")
            raise
        told = common.portable(command, args.output.resolve())
        measured = study.read_run(run.folder)
        record = {"task": run.workload, "method": run.method, "seed": run.seed, "command": told, **measured}
        write_json(result, record)
    record = json.loads(result.read_text(encoding="utf-8"))
    first, last = record["accuracy"][0]["accuracy"], record["accuracy"][-1]["accuracy"]
    spent = f"{count(record['generated_tokens'])} tokens  {duration(record['seconds_training'])}"
    board.line(f"{run.label}  {first:.1%} -> {last:.1%}  {spent}")
    return record


def benchmark(
    args: argparse.Namespace, methods: dict[str, study.Method], workloads: list[str], console: Console
) -> None:
    """Every run that is not finished, then results and the table. Raises UserError at the end if runs failed."""
    board = jobs.Board(console)
    prepare(args, workloads, board)
    runs = planned(args, methods, workloads)
    if args.dry_run:
        for run in runs:
            board.line(f"spo-train for {run.method}, seed {run.seed}, in {run.folder}")
        return
    with ThreadPoolExecutor(args.parallel) as pool:
        futures = [pool.submit(finish, run, args, methods[run.method], board) for run in runs]
        try:
            failures = [future.exception() for future in futures]
        except KeyboardInterrupt as stop:
            board.stopped = stop
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    failed = [error for error in failures if error is not None]
    write_results(args, [future.result() for future in futures if future.exception() is None], console)
    for error in failed:
        if not isinstance(error, UserError):
            raise error  # a fault of this program
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed, the same command tries them again; the first: {failed[0]}"
        )


def collect(args: argparse.Namespace, workloads: list[str], console: Console) -> None:
    """Results of every finished run of these workloads under --output, whatever command made it."""
    found = [
        json.loads(path.read_text(encoding="utf-8"))
        for name in workloads
        for path in sorted(args.output.glob(f"{name}/*/result.json"))
    ]
    if not found:
        raise UserError(f"--output {args.output}: no finished run of {', '.join(workloads)} there")
    if args.only:
        wanted = choose(args.only, {one["method"]: one for one in found}, "--only")
        found = [one for one in found if one["method"] in wanted]
    write_results(args, found, console)


def write_results(args: argparse.Namespace, records: list[dict[str, Any]], console: Console) -> None:
    """results.json, results.md and pictures of these runs, and the table on the terminal; nothing where there is no run."""
    output = args.output.resolve()
    if args.baseline and args.baseline not in (names := {one["method"] for one in records}):
        raise UserError(f"--baseline {args.baseline}: no run of it among those of {', '.join(sorted(names))}")
    if args.baseline:
        records = sorted(records, key=lambda one: one["method"] != args.baseline)
    if records:
        lines = report.tables(records)
        common.write_results(output, args, lines, runs=records)
        report.draw(output, records)
        where = f"results: {output / 'results.json'}  table: {output / 'results.md'}  pictures: {output}/*.png"
        for line in (*lines, where):
            console.line(line)


def measure(args: argparse.Namespace, console: Console) -> None:
    """What the options ask for. Raises UserError."""
    methods = variants(args)
    workloads = choose(args.tasks, study.WORKLOADS, "--task")
    if args.collect:
        collect(args, workloads, console)
    else:
        benchmark(args, methods, workloads, console)


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage or a run that failed, 130 when interrupted."""
    return common.run(PROGRAM, lambda console: measure(parse(argv), console), kept="finished runs")


if __name__ == "__main__":
    jobs.raise_on_sigterm()
    sys.exit(main())
