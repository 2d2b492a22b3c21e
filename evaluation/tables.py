"""The tables of a report: finished runs as rows of text."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.paper import published
from evaluation.results import problem_contents, problem_scores
from evaluation.stats import mcnemar, paired_difference
from spo_rlhf.errors import UserError
from spo_rlhf.graders.verdict import MODES
from spo_rlhf.host.files import read_json, read_jsonl

# Where the samples of a problem decide how wide an interval is: at most so many problems, and samples that are enough for them.
FEW_PROBLEMS, ENOUGH_SAMPLES = 50, 16
HEADER = [
    "model",
    "task",
    "context",
    "problems",
    "samples",
    "pass@1 strict",
    "95 % interval",
    "pass@1 lenient",
    "95 % interval ",
    "best of k",
    "majority",
    "truncated",
    "no answer",
    "mean tokens",
    "tokens per correct",
]


@dataclass(frozen=True)
class Run:
    """A finished run: `label` tells it from the others, `value` is its results file."""

    label: str
    folder: Path
    value: dict[str, Any]


def load_runs(folders: list[Path]) -> list[Run]:
    """The runs, labelled by model, and by folder where two runs share a model's name; no two have one label.

    Raises:
        UserError: a folder without results, or one that is there twice.
    """
    for folder in folders:
        if [other.resolve() for other in folders].count(folder.resolve()) > 1:
            raise UserError(f"{folder} is there twice; name the folder of each run once")
    values = [read_json(folder / "results.json") for folder in folders]
    names = [Path(str(value["settings"]["model"])).name for value in values]
    short = [folder.resolve().name for folder in folders]
    labels = [
        name if names.count(name) == 1 else own if short.count(own) == 1 else str(folder)
        for name, own, folder in zip(names, short, folders)
    ]
    if len(set(labels)) < len(labels):  # one run's model is called as another's folder
        labels = list(map(str, folders))
    return [Run(*parts) for parts in zip(labels, folders, values)]


def cells(runs: list[Run]) -> list[dict[str, Any]]:
    """One row per model, task and context, as data: what `summarize` of the results says, and whose it is."""
    return [
        {"model": run.label, "task": task, "context": int(context), **summary}
        for run in runs
        for task, known in run.value["tasks"].items()
        for context, summary in sorted(known["contexts"].items(), key=lambda item: int(item[0]))
        if summary
    ]


def comparisons(runs: list[Run], mode: str = "strict") -> list[dict[str, Any]]:
    """Every pair of runs on every task and context that both have, over the problems that both have: those of one text
    and right answer, whatever their ids, which may be row numbers of different files.

    The difference of pass@1 (second minus first) with its interval, and McNemar's exact p, where a problem counts as
    solved if at least half of its samples are right.
    """
    rows = []
    for first, second in itertools.combinations(runs, 2):
        for task in first.value["tasks"]:
            if task not in second.value["tasks"]:
                continue
            samples = [list(read_jsonl(run.folder / "samples" / f"{task}.jsonl")) for run in (first, second)]
            contents = [problem_contents(own) for own in samples]
            for context in sorted(
                set(map(int, first.value["tasks"][task]["contexts"]))
                & set(map(int, second.value["tasks"][task]["contexts"]))
            ):
                scores = [
                    {names[problem]: right for problem, right in problem_scores(own, context, mode).items()}
                    for own, names in zip(samples, contents)
                ]
                shared = sorted(scores[0].keys() & scores[1].keys())
                if not shared:
                    continue
                means = [[sum(own[key]) / len(own[key]) for key in shared] for own in scores]
                difference, low, high = paired_difference(*means)
                solved = [[mean >= 0.5 for mean in own] for own in means]
                only_first = sum(a and not b for a, b in zip(*solved))
                only_second = sum(b and not a for a, b in zip(*solved))
                rows.append(
                    {
                        "first": first.label,
                        "second": second.label,
                        "task": task,
                        "context": context,
                        "problems": len(shared),
                        "difference": difference,
                        "low": low,
                        "high": high,
                        "only_first": only_first,
                        "only_second": only_second,
                        "p": mcnemar(only_first, only_second),
                    }
                )
    return rows


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def interval(bounds: list[float | None]) -> str:
    return "-" if bounds[0] is None else f"{percent(bounds[0])} to {percent(bounds[1])}"


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The cells as text, in the order of HEADER."""
    text = []
    for row in rows:
        strict, lenient = (row[mode] for mode in MODES)
        best = max(strict["pass@k"], key=int, default=None)
        text.append(
            [
                row["model"],
                row["task"],
                str(row["context"]),
                str(row["n"]),
                str(row["samples"]),
                percent(strict["pass@1"]),
                interval(strict["interval"]),
                percent(lenient["pass@1"]),
                interval(lenient["interval"]),
                "-" if best is None else f"{percent(strict['pass@k'][best])} (k={best})",
                percent(strict["majority"]),
                percent(row["truncated"]),
                percent(row["no_answer"]),
                f"{row['mean_tokens']:.0f}",
                "-" if strict["tokens_per_correct"] is None else f"{strict['tokens_per_correct']:.0f}",
            ]
        )
    return text


def comparison_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = [
        "first",
        "second",
        "task",
        "context",
        "problems",
        "difference (points)",
        "95 % interval",
        "only first",
        "only second",
        "McNemar p",
    ]
    return header, [
        [
            row["first"],
            row["second"],
            row["task"],
            str(row["context"]),
            str(row["problems"]),
            f"{100 * row['difference']:+.1f}",
            "-" if row["low"] != row["low"] else f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}",
            str(row["only_first"]),
            str(row["only_second"]),
            f"{row['p']:.3g}",
        ]
        for row in rows
    ]


def paper_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The lenient scores beside the paper's, which were graded so, each with its interval."""
    header = ["task", "context", "model", "pass@1 lenient", "95 % interval"]
    lines = []
    for task, context in dict.fromkeys((row["task"], row["context"]) for row in rows):
        reference = published(task, context)
        if not reference:
            continue
        lines += [
            [task, str(context), row["model"], percent(row["lenient"]["pass@1"]), interval(row["lenient"]["interval"])]
            for row in rows
            if (row["task"], row["context"]) == (task, context)
        ]
        lines += [
            [task, str(context), f"paper: {model}", percent(score), interval([low, high])]
            for model, (score, low, high) in reference.items()
        ]
    return header, lines


def sections(runs: list[Run], paper: bool) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of every table of the report."""
    rows = cells(runs)
    parts = [("Results (percent)", HEADER, table(rows))]
    if len(runs) > 1:
        parts.append(("Paired comparison (strict)", *comparison_table(comparisons(runs))))
    if paper and (beside := paper_table(rows))[1]:
        parts.append(("Beside Table 1 of the paper", *beside))
    return parts


def few_samples(task: dict[str, Any]) -> str | None:
    """What to say where few problems have few samples each; None elsewhere."""
    points = [point for point in task["contexts"].values() if point]
    if not points or points[-1]["n"] > FEW_PROBLEMS or points[-1]["samples"] >= ENOUGH_SAMPLES * points[-1]["n"]:
        return None
    low, high = points[-1]["strict"]["interval"]
    return (
        f"{points[-1]['n']} problems with {points[-1]['samples'] // points[-1]['n']} sample(s) each tell little: the interval "
        f"is {100 * (high - low):.0f} points wide. Give --samples {ENOUGH_SAMPLES} or more, and compare intervals, not numbers."
    )


def notes(runs: list[Run]) -> list[str]:
    """What a reader must know: how contexts count, and prompts that are not those of the published runs."""
    lines = []
    for run in runs:
        settings = run.value["settings"]
        lines.append(
            f"{run.label}: {settings['samples'] or 'as many as each task says'} samples per problem, temperature {settings['temperature']}, top-p "
            f"{settings['top_p']}, seed {settings['seed']}; a context limit counts "
            f"{'prompt and response' if settings['budget'] == 'total' else 'the response only'}."
        )
        for task, known in run.value["tasks"].items():
            if few := few_samples(run.value["tasks"][task]):
                lines.append(f"{run.label}, {task}: {few}")
            if known.get("published_prompts"):
                match = known["published_prompts"]
                lines.append(
                    f"{run.label}, {task}: "
                    + (
                        "prompts differ from those of the paper's runs."
                        if match == "none"
                        else f"{match} identical to the paper's runs (by hash)."
                    )
                )
    return lines
