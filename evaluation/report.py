"""The command `report`: one or more runs as tables, a page, a picture or data."""

import argparse
import base64
import html
import io
from pathlib import Path
from typing import BinaryIO

from evaluation.tables import Run, cells, comparisons, load_runs, notes, sections
from spo_rlhf.errors import UserError
from spo_rlhf.host.files import write_json

MAX_TICKS = 8
FORMATS = ("md", "html", "png", "json")


def markdown(runs: list[Run], paper: bool) -> str:
    parts = []
    for title, header, rows in sections(runs, paper):
        parts += [
            f"## {title}",
            "",
            "| " + " | ".join(name.strip() for name in header) + " |",
            "|" + " --- |" * len(header),
        ]
        parts += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows] + [""]
    return "\n".join(parts + [f"- {line}" for line in notes(runs)]) + "\n"


def page(runs: list[Run], paper: bool) -> str:
    """The report as one HTML page that needs no other file; the picture of the curves is in it."""
    body = []
    for title, header, rows in sections(runs, paper):
        body.append(
            f"<h2>{html.escape(title)}</h2><div><table><tr>"
            + "".join(f"<th>{html.escape(name.strip())}</th>" for name in header)
            + "</tr>"
        )
        body += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows] + [
            "</table></div>"
        ]
    body += [f"<p>{html.escape(line)}</p>" for line in notes(runs)]
    picture = io.BytesIO()
    draw(runs, picture)
    encoded = base64.b64encode(picture.getvalue()).decode()
    body.append(f'<h2>Accuracy over context</h2><img src="data:image/png;base64,{encoded}" alt="the curves">')
    style = (
        "body{font-family:sans-serif;margin:2em}div{overflow-x:auto}table{border-collapse:collapse}img{max-width:100%}"
        "th,td{border-bottom:1px solid #ddd;padding:.3em .6em;text-align:right;white-space:nowrap}"
        "th{white-space:normal;background:#f5f5f5}th:first-child,td:first-child{text-align:left}"
    )
    return (
        f'<!DOCTYPE html><html><head><meta charset="utf-8"><title>Evaluation</title><style>{style}</style></head>'
        "<body>" + "\n".join(body) + "</body></html>\n"
    )


def curves(
    runs: list[Run], mode: str = "strict"
) -> dict[str, dict[str, list[tuple[int, float, float | None, float | None]]]]:
    """Task -> model -> (context, accuracy, low, high) along the curve: the numbers behind the picture."""
    lines: dict[str, dict[str, list]] = {}
    for run in runs:
        for task, known in run.value["tasks"].items():
            source = known["curve"] or known["contexts"]
            points = [(int(context), at[mode]["pass@1"], *at[mode]["interval"]) for context, at in source.items() if at]
            lines.setdefault(task, {})[run.label] = sorted(points)
    return lines


def draw(runs: list[Run], target: Path | BinaryIO) -> None:
    """Accuracy over context length as PNG, a panel per task, bands showing the 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    lines = curves(runs)
    figure, axes = pyplot.subplots(1, len(lines), figsize=(5 * len(lines), 3.8), squeeze=False, layout="constrained")
    for axis, (task, models) in zip(axes[0], lines.items()):
        for model, points in models.items():
            contexts, accuracy, low, high = zip(*points)
            (line,) = axis.plot(contexts, [100 * value for value in accuracy], marker="o", markersize=3, label=model)
            if None not in low + high:
                axis.fill_between(
                    contexts,
                    [100 * value for value in low],
                    [100 * value for value in high],
                    color=line.get_color(),
                    alpha=0.15,
                )
        axis.set_xscale("log", base=2)
        ticks = _ticks(runs, task, shortest=min(points[0][0] for points in models.values()))
        axis.set_xticks(ticks, labels=map(str, ticks))
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.set(title=task, xlabel="context (tokens)", ylabel="accuracy, strict (%)", ylim=(0, None))
        axis.grid(alpha=0.3)
    labels = {label: line for axis in axes[0] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", fontsize=8)
    figure.savefig(target, format="png", dpi=120)
    pyplot.close(figure)


def _ticks(runs: list[Run], task: str, shortest: int) -> list[int]:
    """The contexts that were asked for, and below them every second halving; of the longest ones at most MAX_TICKS."""
    ticks = {int(context) for run in runs for context in run.value["tasks"].get(task, {}).get("contexts", ())}
    while (lower := min(ticks) // 4) >= shortest:
        ticks.add(lower)
    return sorted(ticks)[-MAX_TICKS:]


def run_report(args: argparse.Namespace) -> None:
    formats = [name.strip() for name in args.format.split(",")]
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UserError(f"--format: unknown {', '.join(unknown)}; choose from {', '.join(FORMATS)}")
    runs = load_runs(args.folders)
    target = args.output or runs[0].folder
    target.mkdir(parents=True, exist_ok=True)
    if "md" in formats:
        text = markdown(runs, args.paper)
        (target / "report.md").write_text(text, encoding="utf-8")
        print(text)
    if "png" in formats:
        draw(runs, target / "report.png")
    if "html" in formats:
        (target / "report.html").write_text(page(runs, args.paper), encoding="utf-8")
    if "json" in formats:
        write_json(
            target / "report.json", {"cells": cells(runs), "comparisons": comparisons(runs), "curves": curves(runs)}
        )
    print(f"Written to {target}: " + ", ".join(f"report.{name}" for name in formats))
