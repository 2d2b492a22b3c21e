"""How the cost of rollouts grows: prompts, response length, branching, boundaries and engines doubled, one at a time.

Whole prompts go through a run's engines (as in rollout_throughput.py), values and grades included, nothing is trained. The exponent
of a measure is the slope of its logarithm over that of what is doubled: 1 is linear. What is doubled is counted where the
policy decides it, as with lengths. Every repeat has all settings in turn, in alternating order and with seeds of its own, and one
slope; the interval is Student's over the repeats. `seconds over tokens` above 0 is what grows faster than the sampled tokens do.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import report
from rollout_engines import Engines, Workload, add_engine_options, check_task, ray_running

from spo_rlhf.core.partition import EqualSegments, Fixed
from spo_rlhf.host.arguments import whole
from spo_rlhf.host.command import command_line
from spo_rlhf.host.console import Console
from spo_rlhf.methods.chain import Chain
from spo_rlhf.methods.group import Group
from spo_rlhf.methods.tree import Tree
from spo_rlhf.rollout.records import RolloutCounts

PROGRAM = "cost_growth"
EXAMPLES = """examples:
  python benchmarks/cost_growth.py --task-dir runs/quickstart/task --output runs/growth          # minutes on 2 idle cores
  python benchmarks/cost_growth.py --task-dir runs/quickstart/task --quick --output runs/growth
  python benchmarks/cost_growth.py --task-dir runs/quickstart/task --only boundaries --repeats 12 --output runs/boundaries
"""
ENGINES = 2  # started; all dimensions but the one of engines use the first alone
TELLING = 0.25  # half width of an interval that says that two exponents are alike
MEASURES = ("tokens", "sequences", "seconds")


@dataclass(frozen=True)
class Setting:
    """One point of a dimension."""

    value: int  # what is doubled, as it was asked for
    work: Workload
    prompts: int
    engines: int = 1


@dataclass(frozen=True)
class Dimension:
    """What is doubled. counted: what it was in the rollouts, where the policy has a say; None: as it was asked for."""

    settings: tuple[Setting, ...]
    counted: str | None = None


def chain(segments: int, length: int, partition: Any = None) -> Workload:
    """4 responses to a prompt, 4 continuations at each inner border of so many segments."""
    partition = partition or EqualSegments(segment_count=segments)
    return Workload(Chain(partition=partition, mc_rollouts=4), 4, length)


def dimensions(doublings: int, prompts: int, length: int) -> dict[str, Dimension]:
    """Each from its smallest setting on, doubled so often; lengths end at `length`, prompts at `prompts`."""
    factors = [2**number for number in range(doublings + 1)]
    most = factors[-1]
    few = max(1, prompts // most)

    def of(*settings: Setting, counted: str | None = None) -> Dimension:
        return Dimension(settings, counted)

    lengths = [max(4, length * factor // most) for factor in factors]
    by_length = {"counted": "response_length"}
    return {
        "prompts": of(*(Setting(few * f, Workload(Group(), 8, length), few * f) for f in factors)),
        "length, group": of(*(Setting(one, Workload(Group(), 8, one), prompts) for one in lengths), **by_length),
        "length, chain of 3 segments": of(*(Setting(one, chain(3, one), few) for one in lengths), **by_length),
        "length, chain of segments of 8 tokens": of(
            *(Setting(one, chain(0, one, Fixed(segment_length=8)), few) for one in lengths), **by_length
        ),
        "boundaries": of(*(Setting(f, chain(f + 1, length), few) for f in factors), counted="borders"),
        "branching": of(
            *(
                Setting(
                    2 * f,
                    Workload(Tree(branching=(2 * f, 2 * f), segment_tokens=(max(2, length // 4),)), 1, length),
                    few,
                )
                for f in factors
            )
        ),
        "engines": of(*(Setting(n, Workload(Group(), 8, length), prompts, n) for n in range(1, ENGINES + 1))),
    }


@dataclass(frozen=True)
class Point:
    """One run of one setting."""

    value: int
    counted: float
    tokens: int
    sequences: int
    seconds: float


def counts_of(counts: RolloutCounts, name: str | None, value: int) -> float:
    """What is doubled, as it came out: tokens of a response, inner borders of a response, or what was asked for."""
    if name == "response_length":
        return counts.response_tokens / max(counts.responses, 1)
    if name == "borders":
        return counts.mc_states / max(counts.responses, 1)
    return float(value)


def measure_setting(bench: Engines, setting: Setting, counted: str | None, repeat: int) -> Point:
    """Rollouts of its prompts, from empty caches, with the seeds of this repeat."""
    seed = (bench.args.seed, "train", repeat)
    requests = [dataclasses.replace(one, seed=seed) for one in bench.requests(setting.work)[: setting.prompts]]
    rollouts, seconds = bench.rollouts(requests, setting.engines)
    counts = RolloutCounts()
    for rollout in rollouts:
        counts.add(rollout.counts)
    sequences = counts.nodes if counts.trees else counts.responses + counts.mc_continuations
    return Point(setting.value, counts_of(counts, counted, setting.value), counts.generated_tokens, sequences, seconds)


def exponent(x_N: Sequence[float], y_N: Sequence[float]) -> float:
    """Slope of log y over log x, least squares. Raises ValueError where x does not vary."""
    log_x_N, log_y_N = np.log(np.asarray(x_N, dtype=float)), np.log(np.asarray(y_N, dtype=float))
    if np.ptp(log_x_N) < 1e-9:
        raise ValueError(f"nothing was doubled: {list(x_N)}")
    return round(float(np.polyfit(log_x_N, log_y_N, 1)[0]), 12) + 0.0  # no -0


def exponents(repeats: Sequence[Sequence[Point]]) -> dict[str, list[float]]:
    """Of each measure, and of seconds over tokens: one of each repeat."""
    found: dict[str, list[float]] = {name: [] for name in (*MEASURES, "seconds over tokens")}
    for points in repeats:
        counted = [point.counted for point in points]
        for name in MEASURES:
            found[name].append(exponent(counted, [getattr(point, name) for point in points]))
        found["seconds over tokens"].append(found["seconds"][-1] - found["tokens"][-1])
    return found


def verdict(excess_N: Sequence[float]) -> str:
    """What the exponents of seconds over tokens say, one of each repeat."""
    mean, half = report.interval(list(excess_N))
    if np.isnan(half):
        return "one repeat says nothing"
    if abs(mean) > half:
        return "faster than the tokens" if mean > 0 else "slower than the tokens"
    return "as the tokens" if half < TELLING else "too noisy to say"


def result(dimension: Dimension, repeats: Sequence[Sequence[Point]]) -> dict[str, Any]:
    """Points, exponents with intervals, verdict."""
    slopes = exponents(repeats)
    settings = []
    for number, setting in enumerate(dimension.settings):
        points = [points[number] for points in repeats]
        one = {name: common.spread([getattr(point, name) for point in points]) for name in ("counted", *MEASURES)}
        settings.append({"value": setting.value, "prompts": setting.prompts, "engines": setting.engines, **one})
    intervals = {name: dict(zip(("mean", "half_width"), report.interval(slope))) for name, slope in slopes.items()}
    return {
        "settings": settings,
        "exponents": slopes,
        "intervals": intervals,
        "verdict": verdict(slopes["seconds over tokens"]),
    }


def plus_minus(interval: dict[str, float]) -> str:
    mean, half = interval["mean"], interval["half_width"]
    return f"{mean:.2f}" if np.isnan(half) else f"{mean:.2f} ± {half:.2f}"


def table(results: dict[str, Any]) -> list[str]:
    """Markdown: what was doubled, the exponents with their 95 % intervals, what they say."""
    head = "doubled | from | to | tokens | sequences | seconds | seconds over tokens | seconds grow"
    rows = []
    for name, one in results.items():
        first, last = one["settings"][0]["counted"]["median"], one["settings"][-1]["counted"]["median"]
        cells = [name, f"{first:.3g}", f"{last:.3g}", *(plus_minus(interval) for interval in one["intervals"].values())]
        rows.append([*cells, one["verdict"]])
    return common.markdown(head, rows)


def picture(results: dict[str, Any], path: Path) -> None:
    """A panel for each dimension: tokens and seconds over the first setting's, both axes logarithmic; grey: linear."""
    plt = common.pyplot()

    figure, axes = plt.subplots(1, len(results), figsize=(2.8 * len(results), 3), squeeze=False, layout="constrained")
    for panel, (name, one) in zip(axes[0], results.items()):
        counted = np.array([setting["counted"]["median"] for setting in one["settings"]])
        panel.plot(counted, counted / counted[0], color="grey", linewidth=0.8)
        for measure in ("tokens", "seconds"):
            median, low, high = (
                np.array([setting[measure][part] for setting in one["settings"]]) for part in ("median", "min", "max")
            )
            error = [(median - low) / median[0], (high - median) / median[0]]
            panel.errorbar(counted, median / median[0], yerr=error, marker="o", markersize=3, capsize=2, label=measure)
        panel.set(xscale="log", yscale="log", title="\n".join(name.split(", ")))
        panel.set_xticks(counted, [f"{one:.3g}" for one in counted])
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
        panel.tick_params(which="both", labelsize=8)
        panel.title.set_fontsize(8)
    axes[0][0].set(ylabel="over the first setting's")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def measure_dimension(bench: Engines, name: str, dimension: Dimension, repeats: int) -> dict[str, Any]:
    """All its settings in turn, as often as `repeats` says, after a round that is not counted."""
    found: list[list[Point]] = []
    for repeat in range(repeats + 1):
        bench.console.status(f"{name}  {f'repeat {repeat} of {repeats}' if repeat else 'warms up'}")
        order = list(enumerate(dimension.settings))[:: 1 if repeat % 2 else -1]
        points = {number: measure_setting(bench, setting, dimension.counted, repeat) for number, setting in order}
        if repeat:
            found.append([points[number] for number in range(len(points))])
    return result(dimension, found)


def measure(args: argparse.Namespace, console: Console) -> None:
    """Every dimension in turn, results after each. Raises UserError."""
    check_task(args.task_dir)
    if args.quick:
        args.doublings, args.prompts, args.length, args.repeats = 1, 4, 16, 2
    wanted = dimensions(args.doublings, args.prompts, args.length)
    wanted = {name: one for name, one in wanted.items() if not args.only or name.startswith(args.only)}
    args.output.mkdir(parents=True, exist_ok=True)
    args.engines = ENGINES if any(name == "engines" for name in wanted) else 1
    results: dict[str, Any] = {}
    with ray_running(args):
        console.status("engines start")
        bench = Engines(args, console)
        for name, dimension in wanted.items():
            results[name] = one = measure_dimension(bench, name, dimension, args.repeats)
            seconds, tokens = (plus_minus(one["intervals"][measure]) for measure in ("seconds", "tokens"))
            console.line(f"{name}: seconds {seconds}, tokens {tokens}: {one['verdict']}")
            common.write_results(args.output, args, table(results), results=results)
        picture(results, args.output / "growth.png")
    console.line(common.where(args.output, picture="growth.png"))


def build_parser() -> argparse.ArgumentParser:
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    add = parser.add_argument
    common.add_output(parser)
    add_engine_options(parser, prompts=32, max_len=256)
    add("--length", type=whole(8), default=64, metavar="N", help="longest response, in tokens (default: 64)")
    add("--doublings", type=whole(1, 5), default=2, metavar="N", help="of everything but engines (default: 2)")
    add("--repeats", type=whole(1), default=6, metavar="N", help="of every setting, after one not counted (default: 6)")
    add(
        "--only",
        metavar="NAME",
        help="dimensions whose name begins so: prompts, length, boundaries, branching, engines",
    )
    add("--quick", action="store_true", help="one doubling of small settings, 2 repeats: two minutes")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage, 130 when interrupted."""
    return common.run(PROGRAM, lambda console: measure(build_parser().parse_args(argv), console))


if __name__ == "__main__":
    sys.exit(main())
