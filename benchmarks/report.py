"""Tables and pictures of the learning-curve benchmark."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

CONFIDENCE = 0.95


def by_method(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[dict]]]:
    """task -> method -> runs, in the order given."""
    grouped: dict = defaultdict(lambda: defaultdict(list))
    for run in runs:
        grouped[run["task"]][run["method"]].append(run)
    return grouped


def at(run: dict[str, Any], axis: str, position: float) -> float:
    """Accuracy of a run where it had spent `position` tokens or seconds, linear between its evaluations."""
    points = run["accuracy"]
    return float(np.interp(position, [point[axis] for point in points], [point["accuracy"] for point in points]))


def interval(value_N: list[float]) -> tuple[float, float]:
    """Mean and half width of the Student interval; the width is nan for a single value."""
    value_N = np.asarray(value_N, dtype=float)
    if len(value_N) < 2:
        return float(value_N.mean()), float("nan")
    from scipy.stats import t

    half = t.ppf(0.5 + CONFIDENCE / 2, len(value_N) - 1) * value_N.std(ddof=1) / np.sqrt(len(value_N))
    return float(value_N.mean()), float(half)


def table(task: str, methods: dict[str, list[dict]]) -> list[str]:
    """Markdown lines: accuracy at the end and at equal seconds, costs, and differences to the first method, paired by seed."""
    baseline = next(iter(methods))
    seconds = min(run["accuracy"][-1]["seconds"] for runs in methods.values() for run in runs)
    lines = [
        f"### {task}",
        "",
        f"| method | seeds | before | after | minus {baseline} | after {seconds:.0f} s | minus {baseline} | tokens | of them MC | trained tokens | steps | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method, runs in methods.items():
        cells = [method, str(len(runs)), percent(interval([run["accuracy"][0]["accuracy"] for run in runs]))]
        for axis, position in (("tokens", float("inf")), ("seconds", seconds)):
            other = {run["seed"]: at(run, axis, position) for run in methods[baseline]}
            cells.append(percent(interval([at(run, axis, position) for run in runs])))
            pairs = [at(run, axis, position) - other[run["seed"]] for run in runs if run["seed"] in other]
            cells.append(percent(interval(pairs), sign=True) if pairs and method != baseline else "-")
        for name in ("generated_tokens", "mc_tokens", "trained_tokens", "optimizer_steps", "seconds_training"):
            cells.append(f"{np.mean([run[name] for run in runs]):,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def percent(estimate: tuple[float, float], *, sign: bool = False) -> str:
    mean, half = estimate
    text = f"{100 * mean:+.1f}" if sign else f"{100 * mean:.1f}"
    return text if np.isnan(half) else f"{text} ± {100 * half:.1f}"


def draw(task: str, methods: dict[str, list[dict]], path: Path) -> None:
    """Accuracy over tokens and over seconds: mean over seeds, band from the lowest to the highest seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for axes, axis, label in zip(panels, ("tokens", "seconds"), ("generated tokens, Monte Carlo included", "seconds of training")):
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


def write(output: Path, runs: list[dict[str, Any]]) -> list[str]:
    """results.md and one PNG per task into `output`; returns the lines of the tables and where the files are."""
    lines = []
    for task, methods in by_method(runs).items():
        lines += table(task, methods)
        draw(task, methods, output / f"{task}.png")
    (output / "results.md").write_text("\n".join(lines), encoding="utf-8")
    return [*lines, f"results: {output / 'results.json'}  table: {output / 'results.md'}  pictures: {output}/*.png"]
