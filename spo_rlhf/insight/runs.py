"""A run from its own files, as the report and the health rules look at it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.event_lines import read_events
from spo_rlhf.host.files import read_json
from spo_rlhf.insight.credit import Credit, credit_of
from spo_rlhf.rollouts.reader import files, read

# Options that differ between repeats of one experiment.
OF_A_REPEAT = {
    "train.seed",
    "spo.run_dir",
    "ckpt.path",
    "ckpt.output_dir",
    "ckpt.load_enable",
    "spo.resume",
    "dry_run",
    "spo.verbose",
}


@dataclass(frozen=True)
class Point:
    """The metrics of a step or of an evaluation, and when it ended."""

    step: int
    tokens: float  # sampled for training since the start, Monte Carlo included
    seconds: float  # that the run has worked, pauses between its starts left out
    metrics: dict[str, float]


@dataclass
class Run:
    """What the files of one run say; a run that is still at work, or was killed, has no summary or an old one."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    steps: list[Point] = field(default_factory=list)
    evals: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # what is to be told of its record
    starts: int = 1
    credit: Credit = field(default_factory=Credit)

    def values(self, name: str) -> list[float]:
        """A metric over the steps that have it."""
        return [point.metrics[name] for point in self.steps if name in point.metrics]

    def late(self, name: str) -> float | None:
        """Mean of a metric over the last quarter of the steps; None where no step has it."""
        values = self.values(name)
        return fmean(values[-max(1, len(values) // 4) :]) if values else None

    def total(self, name: str) -> float:
        """Sum of a metric over the steps."""
        return sum(self.values(name))

    @property
    def experiment(self) -> str:
        """Equal for runs that repeat each other with other seeds."""
        kept = {name: value for name, value in self.config.items() if name not in OF_A_REPEAT}
        return json.dumps(kept, sort_keys=True, default=str) if kept else self.name


def accuracy(metrics: dict[str, float]) -> float | None:
    """Mean over the datasets of an evaluation."""
    found = [value for name, value in metrics.items() if name.startswith("eval_") and name.endswith("_pass1")]
    return fmean(found) if found else None


def load(folder: str | Path) -> Run:
    """The run in this folder.

    Raises:
        UserError: the folder holds no run.
    """
    folder = Path(folder)
    broken: list[str] = []
    events = read_events(folder / "metrics.jsonl", broken.append)
    if not any(event.get("event") in ("step", "eval") for event in events):
        below = sorted(folder.glob("*/metrics.jsonl"))
        hint = f"; did you mean {below[0].parent}?" if below else "; give the folder that --spo.run_dir named"
        raise UserError(f"{folder}: no step and no evaluation of a run is recorded here{hint}")
    run = Run(str(folder), broken=broken)
    for name in ("config", "summary"):
        path = folder / f"{name}.json"
        setattr(run, name, read_json(path) if path.exists() else {})
    _fold(events, run)
    run.notes += broken
    try:
        files(folder)
    except UserError:
        return run
    run.credit = credit_of(read(folder))
    return run


def _fold(events: list[dict[str, Any]], run: Run) -> None:
    before, started, last, tokens, run.starts = 0.0, None, 0.0, 0.0, 0
    for event in events:
        now = event.get("time", last)
        if started is None:
            started = event.get("started", now)
        if event["event"] == "plan":
            before += max(0.0, last - started) if last else 0.0
            started, tokens = event.get("started", now), event.get("first_tokens", tokens)
            run.starts += 1
            run.versions = event.get("versions", run.versions)
        elif event["event"] == "note":
            run.notes.append(event["text"])
        elif event["event"] in ("step", "eval"):
            metrics = event["metrics"]
            tokens = metrics.get("rollout/total_tokens", tokens)
            point = Point(event["step"], tokens, before + now - started, metrics)
            points = run.steps if event["event"] == "step" else run.evals
            if event["event"] == "eval" and points and points[-1].step == point.step:
                points.pop()  # a start with nothing left to train evaluates its checkpoint once more
            points.append(point)
        last = now
    run.starts = max(run.starts, 1)
