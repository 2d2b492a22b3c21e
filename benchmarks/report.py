"""Tables and pictures of the learning-curve benchmark."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import common
import numpy as np

CONFIDENCE = 0.95
# Costs of a run, by the name in its record, as the table calls them.
COSTS = {
    "generated_tokens": "tokens",
    "mc_tokens": "of them MC",
    "trained_tokens": "trained tokens",
    "optimizer_steps": "steps",
    "seconds_training": "seconds",
}


def by_method(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[dict]]]:
    """task -> method -> runs, in the order given."""
    grouped: dict[str, Any] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        grouped[run["task"]][run["method"]].append(run)
    return grouped


def at(run: dict[str, Any], axis: str, position: float) -> float:
    """Accuracy of a run where it had spent `position` tokens or seconds, linear between its evaluations."""
    points = run["accuracy"]
    return float(np.interp(position, [point[axis] for point in points], [point["accuracy"] for point in points]))


def late_reward(run: dict[str, Any], axis: str = "tokens", end: float | None = None) -> float:
    """Mean reward of the sampled responses in the last third of what a run spent, on problems it had not trained on before.

    axis: "tokens", "seconds" or "step"; end: where what is spent ends, default: with the run.
    """
    steps = run["steps"]
    spent: float = steps[-1][axis] if end is None else end
    steps = [step for step in steps if step["rollout/reward_mean"] is not None]  # a skipped step may have none
    until = [step for step in steps if step[axis] <= spent] or steps[:1]
    late = [step for step in until if step[axis] > 2 / 3 * spent] or until[-1:]
    return float(np.mean([step["rollout/reward_mean"] for step in late]))


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of the Student interval; the width is nan for a single value."""
    value_N = np.asarray(values, dtype=float)
    if len(value_N) < 2:
        return float(value_N.mean()), float("nan")
    from scipy.stats import t

    half = t.ppf(0.5 + CONFIDENCE / 2, len(value_N) - 1) * value_N.std(ddof=1) / np.sqrt(len(value_N))
    return float(value_N.mean()), float(half)


def compare(methods: dict[str, list[dict]], measures: dict[str, Any], costs: tuple[str, ...] = ()) -> list[str]:
    """Markdown rows: each measure's mean and interval, its difference to the first method paired by seed, mean costs."""
    baseline = next(iter(methods))
    rows = []
    for method, runs in methods.items():
        cells = [method, str(len(runs))]
        for measure in measures.values():
            other = {run["seed"]: measure(run) for run in methods[baseline]}
            cells.append(percent(interval([measure(run) for run in runs])))
            pairs = [measure(run) - other[run["seed"]] for run in runs if run["seed"] in other]
            cells.append(percent(interval(pairs), sign=True) if pairs and method != baseline else "-")
        cells += [f"{np.mean([run[name] for run in runs]):,.0f}" for name in costs]
        rows.append(cells)
    measured = [part for name in measures for part in (name, f"minus {baseline}")]
    head = ["method", "seeds", *measured, *(COSTS[name] for name in costs)]
    return [*common.markdown(" | ".join(head), rows), ""]


def table(task: str, methods: dict[str, list[dict]]) -> list[str]:
    """Markdown lines: held-out accuracy before, at the end and at equal seconds, and costs."""
    seconds = min(run["accuracy"][-1]["seconds"] for runs in methods.values() for run in runs)
    measures = {
        "before": lambda run: run["accuracy"][0]["accuracy"],
        "after": lambda run: at(run, "tokens", float("inf")),
        f"after {seconds:.0f} s": lambda run: at(run, "seconds", seconds),
    }
    return [f"### {task}", "", "Held-out problems solved (%):", "", *compare(methods, measures, tuple(COSTS))]


def reward_table(methods: dict[str, list[dict]]) -> list[str]:
    """Markdown lines: late reward of all tokens, of equal seconds and of equal iterations (those of the shortest run)."""
    shortest = {
        axis: min(run["steps"][-1][axis] for runs in methods.values() for run in runs) for axis in ("seconds", "step")
    }
    measures = {
        "of all tokens": late_reward,
        f"of {shortest['seconds']:.0f} s": lambda run: late_reward(run, "seconds", shortest["seconds"]),
        f"of {shortest['step']} iterations": lambda run: late_reward(run, "step", shortest["step"]),
    }
    return ["Reward of the samples of training (%), last third:", "", *compare(methods, measures)]


def percent(estimate: tuple[float, float], *, sign: bool = False) -> str:
    mean, half = estimate
    text = f"{100 * mean:+.1f}" if sign else f"{100 * mean:.1f}"
    return text if np.isnan(half) else f"{text} ± {100 * half:.1f}"


def draw_accuracy(task: str, methods: dict[str, list[dict]], path: Path) -> None:
    """Accuracy over tokens and over seconds: mean over seeds, band from the lowest to the highest seed."""
    pyplot = common.pyplot()
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for axes, axis, label in zip(
        panels, ("tokens", "seconds"), ("generated tokens, Monte Carlo included", "seconds of training")
    ):
        for number, (method, runs) in enumerate(methods.items()):
            end = min(run["accuracy"][-1][axis] for run in runs)
            grid = np.linspace(0, end, 60)
            value_SP = 100 * np.array([[at(run, axis, position) for position in grid] for run in runs])
            axes.plot(grid, value_SP.mean(0), color=f"C{number}", label=method)
            axes.fill_between(grid, value_SP.min(0), value_SP.max(0), color=f"C{number}", alpha=0.15, linewidth=0)
        axes.set(xlabel=label)
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="held-out problems solved (%)", title=task)
    panels[1].legend(frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


STEP_PANELS = {
    "rollout/reward_mean": "mean reward of the batch",
    "ppo_kl": "KL(old || new) per trained token",
    "ppo_clip_ratio": "trained tokens with an active clip",
}


def draw_steps(task: str, methods: dict[str, list[dict]], path: Path) -> None:
    """Reward, KL and clip fraction over steps, a line per seed: where a method collapses, these show it."""
    pyplot = common.pyplot()
    figure, panels = pyplot.subplots(1, len(STEP_PANELS), figsize=(15, 4.2), layout="constrained")
    for axes, (name, label) in zip(panels, STEP_PANELS.items()):
        for number, (method, runs) in enumerate(methods.items()):
            for run in runs:
                steps = [step for step in run["steps"] if step[name] is not None]
                title = method if run is runs[0] else None
                axes.plot([s["step"] for s in steps], [s[name] for s in steps], color=f"C{number}", label=title)
        axes.set(xlabel="step", title=label)
        axes.grid(alpha=0.3)
    panels[1].set_yscale("symlog", linthresh=1e-4)
    panels[0].legend(frameon=False)
    figure.suptitle(task)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def steps_table(methods: dict[str, list[dict]]) -> list[str]:
    """Markdown lines: reward at the start, at its best and at the end, and the extremes of KL and clip fraction."""
    head = "method | steps | reward, first 3 steps | best 3 | last 3 | KL, median | KL, largest | clip fraction, median | largest"
    rows = []
    for method, runs in methods.items():
        cells: dict[str, list[float]] = defaultdict(list)
        for run in runs:
            series = {name: np.array([s[name] for s in run["steps"] if s[name] is not None]) for name in STEP_PANELS}
            reward = series["rollout/reward_mean"]
            smooth = np.convolve(reward, np.ones(3) / 3, mode="valid") if len(reward) >= 3 else reward
            cells["steps"].append(len(reward))
            cells["first"].append(smooth[0])
            cells["best"].append(smooth.max())
            cells["last"].append(smooth[-1])
            for name in ("ppo_kl", "ppo_clip_ratio"):
                cells[f"{name} median"].append(float(np.median(series[name])))
                cells[f"{name} max"].append(series[name].max())
        means = {name: float(np.mean(values)) for name, values in cells.items()}
        rewards = (f"{means[name]:.3f}" for name in ("first", "best", "last"))
        kl, clipped = (
            [format(means[f"{name} {end}"], form) for end in ("median", "max")]
            for name, form in (("ppo_kl", ".2g"), ("ppo_clip_ratio", ".2%"))
        )
        rows.append([method, f"{means['steps']:.0f}", *rewards, *kl, *clipped])
    return [*common.markdown(head, rows), ""]


def tables(runs: list[dict[str, Any]]) -> list[str]:
    """Markdown lines of all tables, task by task."""
    lines = []
    for task, methods in by_method(runs).items():
        lines += table(task, methods) + reward_table(methods) + steps_table(methods)
    return lines


def draw(output: Path, runs: list[dict[str, Any]]) -> None:
    """Two PNGs per task into `output`."""
    for task, methods in by_method(runs).items():
        draw_accuracy(task, methods, output / f"{task}.png")
        draw_steps(task, methods, output / f"{task}-steps.png")
