"""The picture of a run: held-out accuracy and training reward over its steps."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

Points = list[tuple[int, float]]


def accuracies(events: Iterable[dict[str, Any]]) -> Points:
    """(step, per cent) of every evaluation; `events` are the rows of metrics.jsonl."""
    return [
        (event["step"], 100 * value)
        for event in events
        if event["event"] == "eval"
        for name, value in event["metrics"].items()
        if name.endswith("_pass1")
    ]


def rewards(events: Iterable[dict[str, Any]]) -> Points:
    """(step, per cent) of the mean reward of every step's responses."""
    return [
        (event["step"], 100 * event["metrics"]["rollout/reward_mean"])
        for event in events
        if event["event"] == "step" and "rollout/reward_mean" in event["metrics"]  # a skipped step may have none
    ]


def draw_curve(events: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw both as PNG. The run must have been evaluated and have done a step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    evaluations = accuracies(events)
    axes.plot(*zip(*rewards(events)), color="0.7", label="training problems, sampled")
    axes.plot(*zip(*evaluations), marker="o", color="tab:blue", label="held-out problems, greedy")
    for step, accuracy in (evaluations[0], evaluations[-1]):
        axes.annotate(f"{accuracy:.0f} %", (step, accuracy), xytext=(0, 8), textcoords="offset points", ha="center")
    axes.set(xlabel="step", ylabel="solved (%)", ylim=(0, 100), title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
