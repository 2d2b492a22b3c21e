"""What the soak injects and what it looks at: its faults, the growth of memory, the comparison of two runs, tables and the picture."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
from report import CONFIDENCE

from spo_rlhf.core.intervals import wilson_interval

PREEMPTION, KILL = "SIGTERM", "kill -9"
ENGINE, CORE = "engine", "core"
# A process is looked at once the first part of its samples, in which allocators and caches fill, is left out. In fewer steps than these
# filling is all that there is to see.
SETTLING, BLOCKS, FEWEST_STEPS = 0.3, 8, 50
#: MiB per 100 steps that the lower end of a process's interval may have.
FLAT = 5.0
#: How much larger than the unbroken run's a process of the broken one may be: a share, and MiB.
LARGER, LARGER_MIB = 0.1, 5.0
NAMELESS = "ray::IDLE"


@dataclass(frozen=True)
class Fault:
    """kind: PREEMPTION and KILL are of spo-train, ENGINE and CORE of an engine (the first or the second); after that step."""

    kind: str
    after_step: int
    engine: int = 0

    @property
    def ends_the_run(self) -> bool:
        return self.kind in (PREEMPTION, KILL)


def plan_faults(steps: int, kills: int, seed: int) -> list[Fault]:
    """Two preemptions and one kill -9 in random order near the quarters of a run, and `kills` of engines anywhere, by step."""
    draw = random.Random(seed)
    ends = [PREEMPTION, PREEMPTION, KILL]
    draw.shuffle(ends)
    spread = steps // 16
    faults = [Fault(kind, steps * (i + 1) // 4 + draw.randint(-spread, spread)) for i, kind in enumerate(ends)]
    for number in range(kills):
        first, last = 1 + number * (steps - 1) // kills, (number + 1) * (steps - 1) // kills
        faults.append(Fault((ENGINE, CORE)[number % 2], draw.randint(first, max(first, last)), draw.randrange(2)))
    return sorted(faults, key=lambda fault: (fault.after_step, fault.ends_the_run))


def growth(step_N: Sequence[float], mib_N: Sequence[float]) -> tuple[float, float] | None:
    """MiB per 100 steps of one process, and the half width of its 95 % interval; None where it was not seen for long enough.

    Least squares through the means of BLOCKS consecutive parts: what one sample and the next have in common makes the
    interval of the samples themselves too narrow.
    """
    kept = int(SETTLING * len(step_N))
    at_N, size_N = np.asarray(step_N[kept:], float), np.asarray(mib_N[kept:], float)
    if len(at_N) < 2 * BLOCKS or at_N[-1] - at_N[0] < FEWEST_STEPS:
        return None
    x, y = (np.array([part.mean() for part in np.array_split(values, BLOCKS)]) for values in (at_N, size_N))
    centred = x - x.mean()
    slope = centred @ y / (centred @ centred)
    residual = y - y.mean() - slope * centred
    error = np.sqrt(residual @ residual / (BLOCKS - 2) / (centred @ centred))
    from scipy.stats import t

    return 100 * float(slope), 100 * float(error * t.ppf(0.5 + CONFIDENCE / 2, BLOCKS - 2))


def growths(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`growth` of every process that was seen for long enough: part, what it is, its number, largest memory in MiB."""
    seen: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        for pid, (kind, mib) in sample["processes"].items():
            seen[sample["part"], kind, pid].append((sample["step"], mib))
    found = []
    for (part, kind, pid), points in seen.items():
        step_N, mib_N = zip(*points, strict=True)
        if (estimate := growth(step_N, mib_N)) is not None:
            slope, half = estimate
            row = {"part": part, "process": kind, "pid": int(pid), "samples": len(points), "largest_mib": max(mib_N)}
            found.append({**row, "mib_per_100_steps": round(slope, 3), "half_width": round(half, 3)})
    return sorted(found, key=lambda row: (row["part"], row["process"], row["pid"]))


def differing(
    whole: list[dict[str, Any]], broken: list[dict[str, Any]], leave_out: tuple[str, ...]
) -> dict[str, list[int]]:
    """Metric -> steps where the two runs differ, by position; a metric that one of them lacks differs too."""
    found = defaultdict(list)
    for step, (one, two) in enumerate(zip(whole, broken, strict=False), start=1):
        for name in sorted(one.keys() | two.keys()):
            if not name.startswith(leave_out) and one.get(name) != two.get(name):
                found[name].append(step)
    return dict(found)


@dataclass(frozen=True)
class Check:
    """One thing that was promised: whether it held, and the figures."""

    name: str
    held: bool
    figures: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def counters(run: dict[str, Any], steps: int) -> list[Check]:
    """Every request has one answer, every step is there once, in order."""
    metrics, summary = run["steps"], run["summary"]
    sent, answered = (sum(step[f"rollout/{name}"] for step in metrics) for name in ("requests", "answers"))
    unequal = [i for i, step in enumerate(metrics, start=1) if step["rollout/requests"] != step["rollout/answers"]]
    versions = [step["weight_version"] for step in metrics]
    return [
        Check("every step is recorded once", len(metrics) == summary["steps"] == steps, f"{len(metrics)} of {steps}"),
        Check(
            "every request has one answer",
            not unequal and sent == answered and summary["requests"] == summary["answers"],
            f"{sent:.0f} sent in steps, {answered:.0f} answered, {summary['requests_resent']} sent again; "
            f"with evaluations {summary['requests']} and {summary['answers']}",
        ),
        Check("every step samples with the weights before it", versions == list(range(steps)), f"0 to {versions[-1]}"),
    ]


def equality(
    whole: dict[str, Any], broken: dict[str, Any], leave_out: tuple[str, ...], weight_gap: float
) -> list[Check]:
    """The broken run is the unbroken one: what float32 on a CPU promises to the bit."""
    differ = differing(whole["steps"], broken["steps"], leave_out)
    names = ("generated_tokens", "mc_tokens", "optimizer_steps", "requests", "answers")
    sums = {name: (whole["summary"][name], broken["summary"][name]) for name in names}
    unequal = [name for name, (one, two) in sums.items() if one != two]
    rewards = whole["summary"]["rewards"], broken["summary"]["rewards"]
    compared = {name for step in whole["steps"] for name in step if not name.startswith(leave_out)}
    told = ", ".join(f"{name} in {len(steps)} steps, first {steps[0]}" for name, steps in list(differ.items())[:6])
    return [
        Check(
            "totals are those of the unbroken run",
            not unequal,
            ", ".join(f"{name} {one:g}/{two:g}" for name, (one, two) in sums.items()),
        ),
        # What an engine counted after it was last asked and before its death is in no count.
        Check("no reward is counted twice", rewards[1] <= rewards[0], "{} in the unbroken run, {}".format(*rewards)),
        Check("metrics are equal bit for bit", not differ, told or f"{len(compared)} metrics of each step"),
        Check("evaluations are equal", whole["evals"] == broken["evals"], f"{len(broken['evals'])} evaluations"),
        Check("final weights are equal bit for bit", weight_gap == 0, f"largest difference {weight_gap:.1e}"),
    ]


def accuracy(whole: dict[str, Any], broken: dict[str, Any], problems: int) -> Check:
    """The broken run's last accuracy is within the 95 % interval of the unbroken one's."""
    one, two = whole["summary"]["accuracy_after"], broken["summary"]["accuracy_after"]
    low, high = wilson_interval(one, problems)
    before = broken["summary"]["accuracy_before"]
    figures = (
        f"{before:.1%} before; unbroken {one:.1%} ({low:.1%} to {high:.1%}), broken {two:.1%}, {problems} problems"
    )
    return Check("final accuracy is in the band of the unbroken run", low <= two <= high, figures)


def memory(rows: list[dict[str, Any]]) -> Check:
    """No process grows: the lower end of no interval is above FLAT."""
    growing = [row for row in rows if row["mib_per_100_steps"] - row["half_width"] > FLAT]
    largest = max(rows, key=lambda row: row["mib_per_100_steps"] - row["half_width"], default=None)
    told = "no process was seen for long enough"
    if largest is not None:
        told = (
            f"{len(rows)} processes; surest growth {largest['mib_per_100_steps']:+.2f} ± {largest['half_width']:.2f} "
            f"MiB per 100 steps, {largest['process']} ({largest['part']})"
        )
    return Check(f"no process grows by more than {FLAT:g} MiB per 100 steps", bool(rows) and not growing, told)


def sizes(samples: list[dict[str, Any]], unbroken: str) -> Check:
    """No process of the broken run is larger than the largest of its kind in the unbroken one: faults leave nothing in those that outlive them."""
    largest: dict[bool, dict[str, float]] = {True: {}, False: {}}
    # A process takes its name once it has loaded its libraries: what it is at the end counts, and a Ray worker without one is loading.
    kinds = {(sample["part"], pid): kind for sample in samples for pid, (kind, _) in sample["processes"].items()}
    for sample in samples:
        of = largest[sample["part"] == unbroken]
        for pid, (_, mib) in sample["processes"].items():
            if (kind := kinds[sample["part"], pid]) != NAMELESS:
                of[kind] = max(mib, of.get(kind, 0.0))
    pairs = [(broken, largest[True][kind], kind) for kind, broken in largest[False].items() if kind in largest[True]]
    larger = [pair for pair in pairs if pair[0] > (1 + LARGER) * pair[1] + LARGER_MIB]
    worst = sorted(larger or pairs, key=lambda pair: pair[1] - pair[0])[:3]
    told = ", ".join(f"{kind} {broken:.0f} ({whole:.0f} in the unbroken run)" for broken, whole, kind in worst)
    return Check("no process is larger for the faults", bool(pairs) and not larger, f"{len(pairs)} kinds; MiB: {told}")


def tables(checks: list[Check], parts: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: checks, what was injected, memory."""
    held = [(check.name, "yes" if check.held else "**no**", check.figures) for check in checks]
    starts = []
    for part in parts:
        killed = ", ".join(f"{one['what']} after step {one['step']}" for one in part["injected"])
        ended = (part["ended_by"], str(part["status"]), f"{part['seconds']:.0f}", f"{part['end_seconds']:.1f}")
        starts.append((part["part"], f"{part['first_step']} to {part['last_step']}", *ended, killed))
    growing = [
        (
            row["process"],
            row["part"],
            f"{row['largest_mib']:.0f}",
            f"{row['mib_per_100_steps']:+.2f}",
            f"{row['half_width']:.2f}",
        )
        for row in rows
    ]
    return [
        *common.markdown("check | held | figures", held),
        "",
        *common.markdown(
            "part | steps | ended by | status | seconds | until all had ended, s | engines killed", starts
        ),
        "",
        *common.markdown("process | part | MiB, largest | MiB per 100 steps | ±", growing),
    ]


def draw(samples: list[dict[str, Any]], parts: list[dict[str, Any]], runs: dict[str, dict], path: Path) -> None:
    """Memory by kind of process over the steps of the broken run with its faults, and the reward of both runs."""
    pyplot = common.pyplot()
    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(10, 7), sharex=True, layout="constrained")
    broken = [sample for sample in samples if sample["part"].startswith("broken")]
    totals: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in broken:
        by_kind: dict[str, float] = defaultdict(float)
        for kind, mib in sample["processes"].values():
            by_kind[kind] += mib
        for kind, mib in by_kind.items():
            totals[kind].append((sample["step"], mib))
    largest = sorted(totals, key=lambda kind: -max(mib for _, mib in totals[kind]))[:8]
    for kind in largest:
        upper.plot(*zip(*totals[kind], strict=True), ".", markersize=3, label=kind)
    upper.set(ylabel="MiB of all processes of a kind", yscale="log", title="memory of the broken run")
    upper.legend(frameon=False, fontsize=8, ncols=2)
    for name, run in runs.items():
        reward = [step["rollout/reward_mean"] for step in run["steps"]]
        smooth = np.convolve(reward, np.ones(5) / 5, mode="valid") if len(reward) >= 5 else np.array(reward)
        style = "-" if name == "unbroken" else "--"
        lower.plot(np.arange(len(smooth)) + 1 + (len(reward) - len(smooth)), smooth, style, label=name)
    lower.set(xlabel="step", ylabel="mean reward, last 5 steps")
    lower.legend(frameon=False)
    for axes in (upper, lower):
        for part in parts:
            for one in part["injected"]:
                axes.axvline(one["step"], color="C1", linewidth=0.8, alpha=0.6)
            if part["ended_by"] in (PREEMPTION, KILL):
                axes.axvline(part["last_step"], color="C3", linestyle=":")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
