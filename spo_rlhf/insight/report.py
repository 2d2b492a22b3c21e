"""The report of one or several runs as data, Markdown and a page of one file."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spo_rlhf.host.console import count, duration
from spo_rlhf.insight import page, svg
from spo_rlhf.insight.figures import Figure, Group, figures, grouped
from spo_rlhf.insight.rules import Warning, warnings
from spo_rlhf.insight.runs import Run, accuracy

SCHEMA = 1
# Options that a reader looks for first, as far as a run has them.
SHOWN = (
    "spo.mode spo.preset spo.partition spo.cutpoint_interval spo.segment_length spo.estimator spo.mc_rollouts spo.tree_branching "
    "spo.tree_segment_tokens spo.tree_advantage spo.replay_max_age spo.prob_threshold spo.prob_mask spo.advantage_norm spo.ratio_level "
    "actor.model_name_or_path data.prompt_dataset eval.dataset algo.advantage.estimator rollout.batch_size rollout.n_samples_per_prompt "
    "rollout.temperature rollout.top_p rollout.max_new_tokens train.batch_size train.max_epochs actor.adam.lr actor.eps_clip_low_high "
    "algo.kl.init_coef train.seed spo.token_budget"
).split()


@dataclass(frozen=True)
class Report:
    """Everything that the three forms say."""

    runs: list[Run]
    groups: list[Group]
    warnings: list[Warning]
    figures: list[Figure]


def report(runs: Sequence[Run]) -> Report:
    """Of runs, those that differ in their seed alone taken together."""
    groups = grouped(runs)
    return Report(list(runs), groups, [one for run in runs for one in warnings(run)], figures(groups))


# ---- what the forms share ----------------------------------------------------------------------------------------------------


def overview(run: Run) -> dict[str, str]:
    """A run in a line of a table."""
    known = [value for point in run.evals if (value := accuracy(point.metrics)) is not None]
    last = run.steps[-1] if run.steps else None
    rewards = run.values("rollout/reward_mean")
    return {
        "run": run.name,
        "steps": f"{len(run.steps)}" + ("" if run.summary.get("finished") else ", not finished"),
        "accuracy": f"{known[0]:.1%} to {known[-1]:.1%}" if known else "not measured",
        "best": f"{max(known):.1%}" if known else "",
        "reward": f"{rewards[0]:.3f} to {rewards[-1]:.3f}" if rewards else "",
        "tokens": f"{count(last.tokens)} ({_mc_share(run)} Monte Carlo)" if last else "",
        "time": duration(last.seconds) if last else "",
        "starts": str(run.starts),
        "reward timeouts": f"{max(run.values('rollout/reward_timeouts'), default=0.0):.0f}",
    }


def _mc_share(run: Run) -> str:
    mc, own = run.total("rollout/mc_tokens"), run.total("rollout/response_tokens")
    return f"{mc / (mc + own):.0%}" if mc + own else "0%"


def settings(report: Report) -> Iterator[list[str]]:
    """Rows of option and its value in each group, where a group has it."""
    for name in SHOWN:
        values = [group.runs[0].config.get(name) for group in report.groups]
        if name == "train.seed":
            values = [", ".join(str(run.config.get(name)) for run in group.runs) for group in report.groups]
        if any(value not in (None, "None", False) for value in values):
            yield [f"--{name}", *(str(value) for value in values)]


def phases(run: Run) -> list[tuple[str, float]]:
    """(phase, seconds) of a run; of one without a summary from its steps."""
    known = run.summary.get("seconds_by_phase")
    if known:
        return [(name, float(seconds)) for name, seconds in known.items()]
    names = sorted(
        {name for point in run.steps for name in point.metrics if name.startswith("timing/")} - {"timing/step_total"}
    )
    return [(name.removeprefix("timing/"), run.total(name)) for name in names]


# ---- JSON --------------------------------------------------------------------------------------------------------------------


def as_data(made: Report) -> dict[str, Any]:
    """The report as one JSON object; curves with all their points."""
    return _finite(
        {
            "schema": SCHEMA,
            "runs": [
                {
                    **overview(run),
                    "versions": run.versions,
                    "config": run.config,
                    "summary": run.summary,
                    "notes": run.notes,
                }
                | {"calibration": run.credit.calibration and dataclasses.asdict(run.credit.calibration)}
                for run in made.runs
            ],
            "groups": [{"label": group.label, "runs": [run.name for run in group.runs]} for group in made.groups],
            "warnings": [dataclasses.asdict(one) for one in made.warnings],
            "figures": [dataclasses.asdict(one) for one in made.figures],
        }
    )


def _finite(value: Any) -> Any:
    """JSON has no word for what is no finite number: null."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- Markdown ----------------------------------------------------------------------------------------------------------------


def as_markdown(made: Report) -> str:
    """The report as text: tables, warnings, and of each figure its first, last, smallest and largest value."""
    return "\n".join(_markdown(made)).rstrip() + "\n"


def _markdown(made: Report) -> Iterator[str]:
    yield f"# Report of {_title(made)}\n"
    rows = [overview(run) for run in made.runs]
    yield from _table(list(rows[0]), (list(row.values()) for row in rows))
    yield "## Health\n"
    yield from (f"- **{_cell(one.run)}**: {_cell(one.text)} (`{one.rule}`)" for one in made.warnings)
    if not made.warnings:
        yield "No rule has anything to say."
    yield "\n## Numbers\n"
    yield from _table(
        ["figure", "curve", "runs", "first", "last", "smallest", "largest"],
        (
            [
                figure.title,
                one.label,
                str(one.runs),
                *map(svg.short, (one.mean[0], one.mean[-1], min(one.low), max(one.high))),
            ]
            for figure in made.figures
            if not figure.diagonal
            for one in figure.curves
        ),
    )
    for figure in (one for one in made.figures if one.diagonal):
        yield f"## {figure.title}: {figure.curves[0].label}\n\n{figure.note}\n"
        [one] = figure.curves
        yield from _table(
            ["V", "reward", "± error"],
            ([f"{x:.2f}", f"{y:.2f}", f"{high - y:.2f}"] for x, y, high in zip(one.x, one.mean, one.high)),
        )
    yield "## Time\n"
    yield from _table(["run", "phase", "seconds", "share"], (row for run in made.runs for row in _phase_rows(run)))
    yield "## Settings\n"
    yield from _table(["option", *(group.label for group in made.groups)], settings(made))
    yield "## Versions\n"
    yield from _table(["run", "versions"], ([run.name, _versions(run)] for run in made.runs))


def _title(made: Report) -> str:
    return made.runs[0].name if len(made.runs) == 1 else f"{len(made.runs)} runs"


def _versions(run: Run) -> str:
    return ", ".join(f"{name} {version}" for name, version in run.versions.items()) or "not recorded"


def _phase_rows(run: Run) -> list[list[str]]:
    known = phases(run)
    total = sum(seconds for _, seconds in known) or 1.0
    return [[run.name, name, f"{seconds:.1f}", f"{seconds / total:.0%}"] for name, seconds in known]


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())


def _table(head: Sequence[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(map(_cell, head))} |"
    yield "|" + "---|" * len(head)
    yield from (f"| {' | '.join(map(_cell, row))} |" for row in rows)
    yield ""


# ---- HTML --------------------------------------------------------------------------------------------------------------------


def as_html(made: Report) -> str:
    """The report as a page of one file, without a script, its pictures drawn in it."""
    rows = [overview(run) for run in made.runs]
    health = "".join(
        f"<li><b>{page.text(one.run)}</b> {page.text(one.text)} <code>{page.text(one.rule)}</code></li>"
        for one in made.warnings
    )
    several = any(len(group.runs) > 1 for group in made.groups)
    return page.fill(
        "report.html",
        {
            "title": page.text(_title(made)),
            "style": page.part("common.css") + page.part("report.css"),
            "overview": _html_table(list(rows[0]), [list(row.values()) for row in rows]),
            "health": f'<ul class="health">{health}</ul>' if health else "<p>No rule has anything to say.</p>",
            "bands": "<p class='soft'>Lines are means over runs that differ in their seed alone, bands reach from the smallest to the largest of them.</p>"
            if several
            else "",
            "figures": "".join(map(_html_figure, made.figures)),
            "time": "".join(map(_html_phases, made.runs)),
            "settings": _html_table(["option", *(group.label for group in made.groups)], list(settings(made))),
            "versions": _html_table(["run", "versions"], [[run.name, _versions(run)] for run in made.runs]),
            "notes": "".join(f"<li>{page.text(note)}</li>" for run in made.runs for note in run.notes)
            or "<li>none</li>",
        },
    )


def _html_figure(figure: Figure) -> str:
    label = f": {page.text(figure.curves[0].label)}" if figure.diagonal else ""
    note = f'<p class="soft">{page.text(figure.note)}</p>' if figure.note else ""
    return f"<figure><figcaption>{page.text(figure.title)}{label}</figcaption>{svg.draw(figure)}{svg.legend(figure)}{note}</figure>"


def _html_phases(run: Run) -> str:
    known = phases(run)
    total = sum(seconds for _, seconds in known) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{page.text(name)}</th><td>{seconds:.1f} s</td><td>{seconds / total:.0%}</td>'
        f'<td class="wide"><i style="width:{100 * seconds / total:.1f}%"></i></td></tr>'
        for name, seconds in known
    )
    return f'<table class="phases"><caption>{page.text(run.name)}</caption><tbody>{rows}</tbody></table>'


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{page.text(one)}</th>' for one in head)
    body = "".join("<tr>" + "".join(f"<td>{page.text(one)}</td>" for one in row) + "</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
