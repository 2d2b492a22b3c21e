"""The quickstart around the two commands it runs: wrong usage, a finished run, an interrupt, a command that fails."""

import json
import os
import shutil

import made_up_run
import pytest

from spo_rlhf.cli import quickstart
from spo_rlhf.cli.quickstart import main, settings_digest
from spo_rlhf.host.console import Console

SUMMARY = {
    "accuracy_before": 0.25,
    "accuracy_after": 0.5,
    "steps": 40,
    "generated_tokens": 5_000_000,
    "mc_tokens": 4_000_000,
    "seconds_total": 420.0,
}


@pytest.fixture
def commands(monkeypatch):
    """The commands that would have run, none of which does; each ends with status 7."""
    ran = []
    monkeypatch.setattr(quickstart, "run", lambda arguments: ran.append(arguments) or 7)
    return ran


def finished_run(folder, **changes) -> None:
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(SUMMARY | {"settings": settings_digest()} | changes))
    (folder / "curve.png").touch()


@pytest.mark.parametrize("arguments", [["--output"], ["--fast"], ["runs"]])
def test_wrong_usage_is_one_line(arguments, capsys, commands):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("quickstart: error: ") and captured.err.count("\n") == 1 and captured.out == ""
    assert "; see quickstart --help" in captured.err and commands == []


def test_a_finished_run_is_shown_and_not_done_again(tmp_path, capsys, commands):
    finished_run(tmp_path / "run")
    assert main(["--output", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "held-out accuracy  before 25.0%  after 50.0%  (+25.0 points)" in out
    assert "40 steps, 5.0M tokens sampled (4.0M of them Monte Carlo), 7 min 00 s" in out and commands == []


def test_the_pages_of_the_training_are_made_and_named(tmp_path, capsys, commands):
    finished_run(tmp_path / "run")
    assert "segments.html" not in shown(tmp_path / "run", capsys), "what is not there is not named"
    made_up_run.write(tmp_path / "run" / "train")
    quickstart.make_pages(Console(), tmp_path / "run")
    out = shown(tmp_path / "run", capsys)
    for name in ("report.html", "segments.html"):
        assert (tmp_path / "run" / name).read_text().startswith("<!doctype html>") and f"{tmp_path}/run/{name}" in out
    assert commands == []


def test_rollouts_that_were_not_kept_are_a_line_and_the_quickstart_goes_on(tmp_path, capsys):
    run = made_up_run.write(tmp_path / "train")
    shutil.rmtree(run / "rollouts")
    quickstart.make_pages(Console(), tmp_path)
    assert "note: " in (out := capsys.readouterr().out) and "holds no kept rollouts" in out
    assert (tmp_path / "report.html").exists() and not (tmp_path / "segments.html").exists()


def shown(folder, capsys) -> str:
    """What the quickstart prints of a finished run."""
    assert main(["--output", str(folder)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"settings": "of another version"}, {"settings": None}])
def test_a_run_of_other_settings_is_not_taken_for_it(tmp_path, commands, changes):
    finished_run(tmp_path / "run", **changes)
    assert main(["--output", str(tmp_path / "run")]) == 7
    assert [arguments[arguments.index("-m") + 1] for arguments in commands] == ["spo_rlhf.cli.prepare"]


def test_a_finished_run_is_done_again_on_demand_and_a_broken_one_without(tmp_path, commands):
    finished_run(tmp_path / "run")
    assert main(["--output", str(tmp_path / "run"), "--force"]) == 7
    (tmp_path / "run" / "summary.json").write_text("{")
    assert main(["--output", str(tmp_path / "run")]) == 7
    assert len(commands) == 2


def test_a_dry_run_keeps_nothing(tmp_path, commands, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--dry-run"]) == 7
    assert "--warm-up-steps" in commands[0] and os.listdir(tmp_path) == []


def test_an_interrupt_is_a_line_and_status_130(tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "run", interrupt)
    assert main(["--output", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().out.endswith("quickstart: interrupted\n")
