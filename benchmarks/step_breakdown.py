"""Where the seconds of a training step go: sampling, log-probs, training, weights, the rest; and how long engine and actor idle.

Each method is a short `spo-train`; its first step, which compiles, is not counted. With --async the same run once more with
`--train.async_enable`, in alternation, and how many times faster it is, pair by pair; a run that refuses it ends the benchmark with
its line, after the synchronous results are written. Phases are those of metrics.jsonl (docs/metrics.md): what the trainer waits for. The rest is
what a step takes between the records besides, evaluations left out. Idle shares are seen from outside, on a CPU: the share of looks, five a second,
in which the processes of engines or policy used less than a tenth of a core since the look before.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import jobs
import numpy as np
import report
import study
from idle_watch import WORKERS, Watch, idle_shares
from rollout_engines import check_task

from spo_rlhf.errors import UserError
from spo_rlhf.host import device
from spo_rlhf.host.arguments import whole
from spo_rlhf.host.command import command_line
from spo_rlhf.host.console import Console
from spo_rlhf.launch import history
from spo_rlhf.launch.totals import PHASES, sampled_tokens

PROGRAM = "step_breakdown"
EXAMPLES = """examples:
  python benchmarks/step_breakdown.py --task-dir runs/quickstart/task --output runs/steps               # minutes on 2 cores
  python benchmarks/step_breakdown.py --task-dir runs/quickstart/task --async --repeats 4 --output runs/steps
  python benchmarks/step_breakdown.py --task-dir runs/quickstart/task --quick --output runs/steps
"""
METHODS = {"group": "grpo", "chain": "spo_chain", "tree": "spo_tree"}  # as benchmarks/study.py has them
SYNCHRONOUS, ASYNCHRONOUS = "synchronous", "asynchronous"
LABELS = dict(zip(PHASES, ("sampling", "log-probs", "training", "weights"))) | {"rest": "rest"}


@dataclass(frozen=True)
class Step:
    """Seconds of one step between the records, of each phase, and what was sampled and trained in it."""

    start: float
    end: float
    seconds: float
    phases: dict[str, float]
    tokens: int
    trained_tokens: float
    reward: float | None


def steps_of(events: Sequence[dict[str, Any]]) -> list[Step]:
    """The steps of a record, evaluations between them left out. The rest may be below 0 where phases overlap."""
    found, last, evaluated = [], None, 0.0
    for event in events:
        if event["event"] == "eval":
            evaluated += event["seconds"]
        if event["event"] not in ("plan", "step"):
            continue
        if event["event"] == "step" and last is not None:
            metrics = event["metrics"]
            seconds = event["time"] - last - evaluated
            phases = {name: metrics.get(name, 0.0) for name in PHASES}
            phases["rest"] = seconds - sum(phases.values())
            tokens, reward = sampled_tokens(metrics)[0], metrics.get("rollout/reward_mean")
            trained = metrics.get("trained_tokens", 0.0)
            found.append(Step(last, event["time"], seconds, phases, tokens, trained, reward))
        last, evaluated = event["time"], 0.0
    return found


def train_command(args: argparse.Namespace, method: str, way: str, run_dir: Path, seed: int) -> list[str]:
    """spo-train for so many steps, without evaluations."""
    base, workload = study.METHODS[METHODS[method]], study.WORKLOADS[args.workload]
    prompts = args.prompts or base.prompts
    in_a_step = max(1, round(prompts * workload.prompts_share))
    changes: dict[str, Any] = {"prompts": prompts, "data.max_samples": in_a_step * args.steps, "train.num_episodes": 1}
    changes |= dict.fromkeys(study.OF_EVALUATIONS) | {"spo.token_budget": None}
    if way == ASYNCHRONOUS:
        changes["train.async_enable"] = True
    if args.quick and method == "tree":
        # Eight prompts may have few nodes with an advantage, and a batch has to fill.
        changes["responses"] = base.responses // 4
    changes |= dict(args.set or ())
    chosen = base.with_options(changes)
    return study.train_command(workload, chosen, args.task_dir.resolve(), run_dir, seed=seed, budget=1, points=2)


def run(args: argparse.Namespace, method: str, way: str, repeat: int, board: jobs.Board) -> dict[str, Any]:
    """One training: means of its counted steps, and its command. Raises UserError with the last line of one that failed."""
    folder = args.output.resolve() / "runs" / f"{method}-{way}-{repeat}"
    history.clear(folder)
    command, log = train_command(args, method, way, folder, args.seed + repeat), folder / "terminal.log"
    watches: list[Watch] = []

    def started(pid: int) -> None:
        watches.append(Watch(pid))
        watches[0].start()

    try:
        jobs.run_logged(command, log, board, f"{method}, {way}", started=started if device.is_cpu() else None)
    except UserError:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise UserError(f"{method}, {way}: {lines[-1] if lines else 'no output'} (all of it: {log})") from None
    finally:
        for watch in watches:
            watch.stop()
    steps = steps_of(history.read_events(folder, print))[args.skip :]
    if not steps:
        raise UserError(f"{method}, {way}: no step is left behind the first {args.skip}; give more --steps")
    idle = idle_shares(watches[0].looks if watches else (), steps[0].start, steps[-1].end)
    told = common.portable(command, args.output.resolve())
    return {"method": method, "way": way, "repeat": repeat, "command": told, **summary(steps), "idle": idle}


def summary(steps: Sequence[Step]) -> dict[str, Any]:
    """Means of the steps, tokens per second over all of them, and each step's seconds."""
    seconds = sum(step.seconds for step in steps)
    rewards = [step.reward for step in steps if step.reward is not None]
    return {
        "steps": len(steps),
        "seconds": seconds / len(steps),
        "phases": {name: float(np.mean([step.phases[name] for step in steps])) for name in steps[0].phases},
        "tokens": sum(step.tokens for step in steps),
        "tokens_per_second": sum(step.tokens for step in steps) / seconds,
        "trained_tokens_per_second": sum(step.trained_tokens for step in steps) / seconds,
        "reward": float(np.mean(rewards)) if rewards else None,
        "each": [step.seconds for step in steps],
    }


def results_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By method and way: spreads over the repeats; and asynchronous over synchronous, pair by pair."""
    found: dict[str, Any] = {}
    for method in dict.fromkeys(one["method"] for one in runs):
        mine = [one for one in runs if one["method"] == method]
        ways = {way: [one for one in mine if one["way"] == way] for way in (SYNCHRONOUS, ASYNCHRONOUS)}
        found[method] = {way: over_repeats(repeats) for way, repeats in ways.items() if repeats}
        pairs = [
            (one, other)
            for one in ways[SYNCHRONOUS]
            for other in ways[ASYNCHRONOUS]
            if one["repeat"] == other["repeat"]
        ]
        if pairs:
            faster = [other["tokens_per_second"] / one["tokens_per_second"] for one, other in pairs]
            learned = [
                other["reward"] - one["reward"] for one, other in pairs if None not in (one["reward"], other["reward"])
            ]
            found[method]["asynchronous over synchronous"] = common.spread(faster)
            found[method]["reward difference"] = report.interval(learned) if learned else None
    return found


def over_repeats(repeats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spreads of what is a number in each."""
    idle = {name: [one["idle"][name] for one in repeats if one["idle"][name] is not None] for name in WORKERS}
    return {
        **{
            name: common.spread([one[name] for one in repeats])
            for name in ("seconds", "tokens_per_second", "trained_tokens_per_second")
        },
        "phases": {name: common.spread([one["phases"][name] for one in repeats]) for name in repeats[0]["phases"]},
        "idle": {name: common.spread(values) if values else None for name, values in idle.items()},
    }


def table(results: dict[str, Any]) -> list[str]:
    """Markdown: a row for each method and way, medians of the repeats."""
    head = f"method | way | s a step | {' | '.join(LABELS.values())} | idle: engine | actor | tokens/s | x synchronous"
    rows = []
    for method, one in results.items():
        for way in (way for way in (SYNCHRONOUS, ASYNCHRONOUS) if way in one):
            found = one[way]
            cells = [method, way, common.spread_text(found["seconds"])]
            cells += [f"{found['phases'][name]['median']:.2f}" for name in LABELS]
            cells += [f"{idle['median']:.0%}" if idle else "-" for idle in found["idle"].values()]
            cells.append(f"{found['tokens_per_second']['median']:.0f}")
            over = one.get("asynchronous over synchronous") if way == ASYNCHRONOUS else None
            rows.append([*cells, common.spread_text(over) if over else "-"])
    lines = common.markdown(head, rows)
    differences = {method: one["reward difference"] for method, one in results.items() if one.get("reward difference")}
    for method, (mean, half) in differences.items():
        interval = "one pair" if np.isnan(half) else f"± {100 * half:.1f}"
        lines += [
            "",
            f"{method}: mean reward of the same steps, asynchronous less synchronous: {100 * mean:+.1f} % ({interval})",
        ]
    return lines


def picture(results: dict[str, Any], path: Path) -> None:
    """A bar of phases for each method and way; what overlaps is not drawn below 0."""
    plt = common.pyplot()

    bars = [
        (f"{method}\n{way}", one[way])
        for method, one in results.items()
        for way in one
        if way in (SYNCHRONOUS, ASYNCHRONOUS)
    ]
    figure, axes = plt.subplots(figsize=(2 + 1.3 * len(bars), 3.6), layout="constrained")
    bottom = np.zeros(len(bars))
    for name, label in LABELS.items():
        height = np.array([max(0.0, found["phases"][name]["median"]) for _, found in bars])
        axes.bar(range(len(bars)), height, 0.6, bottom=bottom, label=label)
        bottom += height
    axes.set_xticks(range(len(bars)), [title for title, _ in bars])
    axes.set_ylabel("seconds of a step")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def measure(args: argparse.Namespace, console: Console) -> None:
    """Every method in turn, as often as asked, results after each run. Raises UserError."""
    check_task(args.task_dir)
    if not (args.task_dir / "prepare.json").is_file():
        raise UserError(
            f"--task-dir {args.task_dir}: no prepare.json there; make it with spo-prepare or the quickstart"
        )
    if args.quick:
        args.steps, args.prompts, args.repeats = 3, 8, 1
    ways = [SYNCHRONOUS, *([ASYNCHRONOUS] if args.asynchronous else [])]
    args.output.mkdir(parents=True, exist_ok=True)
    board, runs = jobs.Board(console), []
    for repeat in range(args.repeats):
        for method in args.methods:
            for way in ways[:: -1 if repeat % 2 else 1]:
                runs.append(one := run(args, method, way, repeat, board))
                board.line(f"{method}, {way}: {one['seconds']:.2f} s a step, {one['tokens_per_second']:.0f} tokens/s")
                results = results_of(runs)
                common.write_results(args.output, args, table(results), runs=runs, results=results)
                picture(results, args.output / "steps.png")
    for line in (*table(results_of(runs)), common.where(args.output, picture="steps.png")):
        console.line(line)


def option(text: str) -> tuple[str, str | bool]:
    """ "spo.max_staleness=2" -> name and value; true and false are a switch."""
    name, equals, value = text.partition("=")
    if not equals or not value or name.startswith("-"):
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=VALUE, such as spo.max_staleness=2")
    return name, {"true": True, "false": False}.get(value, value)


def build_parser() -> argparse.ArgumentParser:
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    add = parser.add_argument
    common.add_output(parser)
    add("--task-dir", type=Path, required=True, metavar="DIR", help="as spo-prepare makes it")
    add(
        "--workload",
        choices=tuple(study.WORKLOADS),
        default="arithmetic",
        help="whose task that is (default: arithmetic)",
    )
    told = "group, chain and tree (default: all)"
    add("--methods", type=common.names_of(METHODS), default=tuple(METHODS), metavar="A,B", help=told)
    add("--async", dest="asynchronous", action="store_true", help="each with --train.async_enable as well")
    add(
        "--set",
        type=option,
        action="append",
        metavar="NAME=VALUE",
        help="an option of every spo-train; may be repeated",
    )
    add("--steps", type=whole(2), default=8, metavar="N", help="of a training (default: 8)")
    add("--skip", type=whole(1), default=1, metavar="N", help="first steps that are not counted (default: 1)")
    add("--prompts", type=whole(1), metavar="N", help="of a step; default: the method's in benchmarks/study.py")
    add(
        "--repeats",
        type=whole(1),
        default=3,
        metavar="N",
        help="of every training, with seeds of their own (default: 3)",
    )
    add("--seed", type=whole(0), default=0, metavar="N", help="of the first repeat")
    add("--quick", action="store_true", help="3 steps of 8 prompts, once: some minutes")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage or a run that failed, 130 when interrupted."""
    jobs.raise_on_sigterm()
    return common.run(PROGRAM, lambda console: measure(build_parser().parse_args(argv), console))


if __name__ == "__main__":
    sys.exit(main())
