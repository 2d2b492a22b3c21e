"""The report of runs: what it says in each form, of one run and of several."""

import json
import re
from html.parser import HTMLParser

import made_up_run
import pytest
from browser import CHROMIUM, Browser

from spo_rlhf.cli.report import main
from spo_rlhf.errors import UserError
from spo_rlhf.insight.figures import grouped
from spo_rlhf.insight.report import as_data, as_html, as_markdown, report
from spo_rlhf.insight.runs import Point, Run, load
from spo_rlhf.insight.svg import ticks

write = made_up_run.write


@pytest.fixture
def seeds(tmp_path):
    """Three repeats of one experiment and one of another method."""
    runs = [write(tmp_path / f"seed{seed}", seed=seed, gain=0.01 * seed) for seed in (1, 2, 3)]
    return [*runs, write(tmp_path / "group", spo__mode="group", spo__mc_rollouts=None)]


def test_runs_that_differ_in_their_seed_are_one_line_with_a_band(seeds):
    made = report([load(run) for run in seeds])
    assert [(group.label, len(group.runs)) for group in made.groups] == [("chain", 3), ("group", 1)]
    figure = next(one for one in made.figures if one.title == "Reward over steps")
    chain, group = figure.curves
    assert chain.x == [1, 2, 3, 4, 5, 6, 7, 8] and chain.runs == 3
    assert chain.mean[-1] == pytest.approx(0.25 + 0.02 * 8)
    assert (chain.low[-1], chain.high[-1]) == (pytest.approx(0.25 + 0.08), pytest.approx(0.25 + 0.24))
    assert group.mean == group.low == group.high
    over = {one.title: one.curves[0].x for one in made.figures}
    assert over["Held-out accuracy over steps"] == [0, 4, 8] and over["Held-out accuracy over tokens"] == [
        0,
        12000,
        24000,
    ]
    assert over["Reward over time"][0] == 20.0, "seconds since the command was started"


def test_experiments_are_called_by_as_little_as_tells_them_apart(tmp_path):
    def labels(**changes):
        return [
            group.label
            for group in grouped([load(write(tmp_path / name, **options)) for name, options in changes.items()])
        ]

    assert labels(a={"spo__mc_rollouts": 4}, b={"spo__mc_rollouts": 9}) == [
        "chain, spo.mc_rollouts 4",
        "chain, spo.mc_rollouts 9",
    ]
    assert labels(c={}, d={"seed": 2}) == ["chain"]
    assert labels(e={"actor__lr": 1, "rollout__n": 2}, f={"actor__lr": 1, "rollout__n": 3}) == [
        "chain, rollout.n 2",
        "chain, rollout.n 3",
    ]


def test_the_three_forms_say_the_same(seeds):
    made = report([load(run) for run in seeds])
    data, markdown, html = as_data(made), as_markdown(made), as_html(made)
    json.dumps(data, allow_nan=False)
    assert [figure["title"] for figure in data["figures"]] == [figure.title for figure in made.figures]
    for figure in made.figures:
        assert figure.title in markdown and f"<figcaption>{figure.title}" in html
    for run in seeds:
        assert str(run) in markdown and str(run) in html
    for text in ("--spo.mc_rollouts", "torch 2.13.0", "generate"):
        assert text in markdown and text in html
    assert html.count('<svg viewBox="0 0 460') == len(made.figures) >= 15
    assert "bands reach from the smallest to the largest" in html
    assert "Reliability of the values" in html and "mean V minus mean reward" in html


def test_a_diagnosis_now_and_then_is_a_figure():
    point = Point(step=50, tokens=1.0, seconds=1.0, metrics={"diagnosis/oracle_advantage": 0.3})
    run = Run("one", steps=[Point(1, 0.5, 0.5, {}), point, Point(100, 2.0, 2.0, {"diagnosis/oracle_advantage": 0.6})])
    [figure] = [one for one in report([run]).figures if one.title == "What credit could win"]
    [curve] = figure.curves
    assert (curve.x, curve.mean) == ([50, 100], [0.3, 0.6]) and "free advantage" in curve.label


def test_warnings_stand_in_every_form_and_on_the_terminal(tmp_path, capsys):
    run = write(tmp_path / "run", finished=False)
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "not finished: 8 steps are recorded" in out and f"{run}/report.html" in out
    for name in ("md", "html", "json"):
        assert "not finished: 8 steps" in (run / f"report.{name}").read_text()


class Page(HTMLParser):
    """Elements of a page, and its text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_no_text_of_a_run_becomes_markup(tmp_path):
    hostile = "<script>alert(1)</script> {{style}} | \"'"
    run = load(write(tmp_path / "run", actor__model_name_or_path=hostile))
    run.name = hostile
    other = load(write(tmp_path / "other", spo__mode=hostile))
    html = Page(as_html(report([run, other])))
    assert "script" not in html.tags and html.text.count("<script>alert(1)</script> {{style}} |") > 5
    lines = [line for line in as_markdown(report([run, other])).splitlines() if line.startswith("|")]
    assert not any("<script>" in line for line in lines)


def test_a_run_that_is_at_work_or_was_killed_has_a_report(tmp_path):
    run = write(tmp_path / "run")
    (run / "summary.json").unlink()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"event": "step", "ti')
    for path in (run / "rollouts").iterdir():
        path.unlink()
    made = report([load(run)])
    assert "steps are recorded" in as_markdown(made) and "timing" not in as_markdown(made)
    assert [
        name for name, *_ in [row.split(" | ")[1:] for row in as_markdown(made).splitlines() if "| generation |" in row]
    ] == ["generation"]


def test_a_line_of_the_record_that_cannot_be_read_is_told(tmp_path, capsys):
    run = write(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    steps = len(load(run).steps)
    where = next(number for number, line in enumerate(lines) if json.loads(line)["event"] == "step")
    lines[where] = "?" + lines[where]
    (run / "metrics.jsonl").write_text("".join(lines))
    told = f"metrics.jsonl: 1 of {len(lines)} lines cannot be read and are left out (line {where + 1})"
    assert main([str(run), "--output", "-", "--format", "md"]) == 0
    assert told in capsys.readouterr().err
    made = report([load(run)])
    assert len(load(run).steps) == steps - 1 and any(told in note for note in made.runs[0].notes)


def test_time_between_two_starts_does_not_count(tmp_path):
    run = write(tmp_path / "run", steps=2)
    more = [
        {"event": "plan", "time": 5010.0, "started": 5000.0, "first_step": 2, "steps": 3, "first_tokens": 6000},
        {
            "event": "step",
            "time": 5020.0,
            "step": 3,
            "metrics": {**made_up_run.HEALTHY, "rollout/total_tokens": 9000.0},
        },
    ]
    path = run / "metrics.jsonl"
    lines = [line for line in path.read_text().splitlines() if '"note"' not in line]
    path.write_text("\n".join([*lines, *map(json.dumps, more)]) + "\n")
    loaded = load(run)
    assert loaded.starts == 2 and [point.seconds for point in loaded.steps] == [20.0, 30.0, 50.0]


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "the following arguments are required: RUN"),
        (["RUN", "RUN2"], "several RUNs need --output PATH"),
        (["RUN", "--format", "pdf"], "unknown format 'pdf': choose from md, html, json"),
        (["RUN", "--output", "-"], "--output - takes one --format"),
        (["RUN", "RUN", "--output", "x"], "named twice"),
        (["RUN", "RUN AGAIN", "--output", "x"], "run2/../above/run: named twice"),
        (["BROKEN"], "config.json: not a JSON object"),
        (["nowhere"], "nowhere: no step and no evaluation of a run is recorded here"),
        (["ABOVE"], "did you mean"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_2(arguments, says, tmp_path, capsys):
    places = {"RUN": tmp_path / "above" / "run", "RUN2": tmp_path / "run2", "ABOVE": tmp_path / "above"}
    write(places["RUN"])
    write(places["RUN2"])
    places["RUN AGAIN"] = places["RUN2"] / ".." / "above" / "run"
    places["BROKEN"] = write(tmp_path / "broken")
    places["BROKEN"].joinpath("config.json").write_text("[]")
    assert main([str(places.get(one, one)) for one in arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("spo-report: error: ") and says in line


def test_one_form_goes_to_standard_output(tmp_path, capsys):
    assert main([str(write(tmp_path / "run")), "--output", "-", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == 1
    with pytest.raises(UserError, match="no step"):
        load(tmp_path)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.3, 0.31), (5.0, 5.0), (0.0, 0.0), (-3.0, 1e6)])
def test_ticks_are_few_round_and_hold_what_they_are_for(low, high):
    made = ticks(low, high)
    assert made[0] <= low + 1e-9 and made[-1] >= high - 1e-9 and 2 <= len(made) <= 8
    step = f"{made[1] - made[0]:e}".partition("e")[0]
    assert re.fullmatch(r"[125]\.0+", step)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install Debian's chromium")
def test_the_page_fits_a_phone_and_a_desk_and_says_nothing_on_the_console(seeds, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(as_html(report([load(run) for run in seeds])), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        for width in (390, 1280):
            browser.view(width, 800)
            browser.open(path, "document.readyState === 'complete' && document.querySelector('figure')")
            assert browser.run("document.documentElement.scrollWidth") <= width
            assert browser.run(
                "[...document.querySelectorAll('figure svg')].every((one) => one.getBoundingClientRect().width > 200 || one.classList.contains('key'))"
            )
        assert browser.errors == []
