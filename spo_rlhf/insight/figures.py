"""The figures of a report: which numbers, of which runs, with a band where runs repeat each other."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from spo_rlhf.insight.runs import OF_A_REPEAT, Point, Run, accuracy

# x axes: field of a point -> in a title, at the axis
AXES = {
    "step": ("steps", "steps"),
    "tokens": ("tokens", "tokens sampled for training, Monte Carlo included"),
    "seconds": ("time", "seconds of work"),
}

STEPS = AXES["step"][1]


@dataclass(frozen=True)
class Curve:
    """A line: at each x the mean over `runs` runs, and the smallest and largest of them."""

    label: str
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    runs: int


@dataclass(frozen=True)
class Figure:
    """One picture. `note` says how to read it, where that is not plain."""

    title: str
    x_label: str
    y_label: str
    curves: list[Curve]
    note: str = ""
    diagonal: bool = False  # y = x, where a calibrated value lies


@dataclass(frozen=True)
class Group:
    """Runs of one experiment, which differ in their seeds."""

    label: str
    runs: list[Run]


Value = Callable[[Point], float | None]


def metric(name: str) -> Value:
    return lambda point: point.metrics.get(name)


def replay_age(point: Point) -> float | None:
    """Mean iterations that the nodes trained in a step have waited."""
    ages = {name.removeprefix("replay/age_"): count for name, count in point.metrics.items() if "replay/age_" in name}
    total = sum(ages.values())
    return sum(int(age) * count for age, count in ages.items()) / total if total else None


def engine_rate(point: Point) -> float | None:
    """Tokens that the engines sampled in a second of their phase."""
    seconds = point.metrics.get("timing/generation", 0.0)
    tokens = point.metrics.get("rollout/response_tokens", 0.0) + point.metrics.get("rollout/mc_tokens", 0.0)
    return tokens / seconds if seconds else None


# title, unit, {label in the legend: value}, note
STEP_FIGURES: list[tuple[str, str, dict[str, Value], str]] = [
    ("Segments of a response", "segments", {"": metric("segments")}, ""),
    ("Length of a response", "tokens", {"": metric("rollout/response_length_mean")}, ""),
    ("Cut by the length limit", "share of responses", {"": metric("rollout/truncated_rate")}, ""),
    (
        "Mask density",
        "share of tokens",
        {"": metric("mask_density")},
        "tokens under the loss: those at which the policy hesitated",
    ),
    (
        "Nothing to learn",
        "share",
        {"tokens": metric("zero_advantage"), "nodes": metric("tree/zero_advantage_nodes")},
        "tokens under the loss, and nodes of trees, whose advantage is 0",
    ),
    ("KL", "nats", {"to the reference": metric("kl"), "to the sampling policy": metric("ppo_kl")}, ""),
    (
        "Clipping",
        "share",
        {"tokens": metric("ppo_clip_ratio"), "units": metric("ratio/clipped_units")},
        "0 with one update a batch",
    ),
    (
        "Engine against actor",
        "nats",
        {"largest": metric("rollout/logprob_gap_max"), "mean (vllm_kl)": metric("vllm_kl")},
        "difference of their log-probs at a sampled token; top-p adds to it",
    ),
    ("Age of what is trained", "iterations", {"": replay_age}, "nodes that waited in the replay buffer"),
    (
        "What credit could win",
        "share of the noise that is left",
        {
            "free baseline": metric("diagnosis/oracle_baseline"),
            "free advantage": metric("diagnosis/oracle_advantage"),
            "best segments over RLOO": metric("diagnosis/segments_over_group"),
        },
        "with --spo.diagnose_every; above 0.5 no credit assignment can win clearly",
    ),
    ("Planned trees", "nodes", {"children": metric("plan/children"), "leaves of each": metric("plan/leaves")}, ""),
    ("Gradient norm", "before clipping", {"": metric("actor_grad_norm")}, ""),
    ("Engines", "tokens a second", {"": engine_rate}, "over the sampling phase, rewards included"),
    ("Prefix cache", "share of prefix tokens", {"": metric("rollout/cache_hit_rate")}, ""),
]


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs by experiment, in their order, called by what tells them apart."""
    by_experiment: dict[str, list[Run]] = {}
    for run in runs:
        by_experiment.setdefault(run.experiment, []).append(run)
    groups = list(by_experiment.values())
    return [Group(label, group) for label, group in zip(_labels([group[0] for group in groups]), groups)]


def _labels(firsts: Sequence[Run]) -> list[str]:
    """The method, and as few other options as tell the experiments apart, ours first."""
    names = {name for run in firsts for name in run.config} - OF_A_REPEAT
    left = sorted(names, key=lambda name: (not name.startswith("spo."), name))
    made = [str(run.config.get("spo.mode", run.name)) for run in firsts]

    def with_option(name: str) -> list[str]:
        return [
            label if run.config.get(name) is None else f"{label}, {name} {_short(run.config[name])}"
            for label, run in zip(made, firsts)
        ]

    while len(set(made)) < len(made):
        best = max(left, key=lambda name: len(set(with_option(name))), default=None)
        if best is None or len(set(with_option(best))) == len(set(made)):
            return [f"{label} ({run.name})" for label, run in zip(made, firsts)]
        made, left = with_option(best), [name for name in left if name != best]
    return made


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:19]}..{text[-19:]}"


def curve(
    group: Group, points_of: Callable[[Run], Sequence[Point]], value: Value, axis: str, label: str
) -> Curve | None:
    """Of the steps that all runs of the group have; None where none has a value."""
    tables = [
        {point.step: (getattr(point, axis), found) for point in points_of(run) if (found := value(point)) is not None}
        for run in group.runs
    ]
    steps = sorted(set.intersection(*map(set, tables)))
    if not steps:
        return None
    rows = [[table[step] for table in tables] for step in steps]
    return Curve(
        label,
        x=[fmean(x for x, _ in row) for row in rows],
        mean=[fmean(y for _, y in row) for row in rows],
        low=[min(y for _, y in row) for row in rows],
        high=[max(y for _, y in row) for row in rows],
        runs=len(tables),
    )


def figures(groups: Sequence[Group]) -> list[Figure]:
    """All figures that these runs have numbers for."""
    made: list[Figure] = []
    for title, unit, points_of, value in (
        ("Held-out accuracy", "share solved", lambda run: run.evals, lambda point: accuracy(point.metrics)),
        ("Reward", "mean of the responses", lambda run: run.steps, metric("rollout/reward_mean")),
    ):
        for axis, (over, x_label) in AXES.items():
            curves = [curve(group, points_of, value, axis, group.label) for group in groups]
            made += _figure(f"{title} over {over}", x_label, unit, curves)
    for title, unit, values, note in STEP_FIGURES:
        curves = {
            label: [curve(group, lambda run: run.steps, value, "step", group.label) for group in groups]
            for label, value in values.items()
        }
        if len(groups) == 1:  # its numbers share a picture
            together = [replace(one, label=label or one.label) for label, [one] in curves.items() if one is not None]
            made += _figure(title, STEPS, unit, together, note)
            continue
        for label, known in curves.items():
            made += _figure(f"{title}: {label}" if label else title, STEPS, unit, known, note)
    made += _figure(
        "Variance of the advantages",
        STEPS,
        "reward²",
        (_of_credit(group, "variance") for group in groups),
        "of the tokens under the loss, in the rollouts that were kept",
    )
    made += _figure(
        "Groups that agree",
        STEPS,
        "share of prompts",
        (_of_credit(group, "agreeing") for group in groups),
        "all outcomes of a prompt have one reward, in the rollouts that were kept",
    )
    return made + [one for group in groups if (one := reliability(group)) is not None]


def _figure(title: str, x_label: str, unit: str, curves: Iterable[Curve | None], note: str = "") -> list[Figure]:
    known = [one for one in curves if one is not None]
    return [Figure(title, x_label, unit, known, note)] if known else []


def _of_credit(group: Group, name: str) -> Curve | None:
    def points(run: Run) -> list[Point]:
        return [
            Point(step, 0.0, 0.0, {name: value}) for step, value in zip(run.credit.steps, getattr(run.credit, name))
        ]

    return curve(group, points, metric(name), "step", group.label)


def reliability(group: Group) -> Figure | None:
    """The rewards of responses over the values of their inner boundaries, of the run with the most of them."""
    found = [run.credit.calibration for run in group.runs if run.credit.calibration]
    if not found:
        return None
    best = max(found, key=lambda one: one.states)
    x, y = [one.value for one in best.bins], [one.reward for one in best.bins]
    low, high = ([one.reward + side * one.stderr for one in best.bins] for side in (-1, 1))
    slopes = (
        ""
        if best.slope is None
        else f"; slope {best.slope:.2f}, the noise of the estimates alone makes it {best.noise_slope:.2f}"
    )
    return Figure(
        "Reliability of the values",
        "V, Monte Carlo",
        "reward of the response",
        [Curve(group.label, x, y, low, high, 1)],
        f"{best.states} inner borders of {best.responses} responses; mean V minus mean reward {best.gap:+.3f} ± {best.stderr:.3f}{slopes}",
        diagonal=True,
    )
