"""The record of a supervised or preference run, and the process it runs in."""

import io
import json
import os
from types import SimpleNamespace

import pytest

from spo_rlhf.host.console import Console
from spo_rlhf.launch import offline_run
from spo_rlhf.launch.offline_run import StepRecord


def test_steps_become_metrics_lines_and_a_summary(tmp_path, monkeypatch):
    now = iter([0.0, 100.0, 110.0, 120.0])
    monkeypatch.setattr(offline_run, "time", SimpleNamespace(monotonic=lambda: next(now)))
    (tmp_path / "metrics.jsonl").write_text("of a run before\n")
    stream = io.StringIO()
    record = StepRecord(tmp_path, Console(stream))
    for step, loss in ((1, 2.0), (2, 0.5)):
        record.take(step, 4, {"loss": loss})
    assert record.finish(True, "runs/model") == "2 steps in 2 min 00 s, model in runs/model"
    # The first step, which takes longest, tells nothing of the others.
    assert stream.getvalue().splitlines() == ["step 1/4  loss 2", "step 2/4  loss 0.5  20 s left"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["metrics"]) for row in rows] == [(1, {"loss": 2.0}), (2, {"loss": 0.5})]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["finished"], summary["steps"], summary["planned_steps"]) == (True, 2, 4)


@pytest.fixture
def environment(monkeypatch):
    """The environment without a launcher's variables; whatever is set in it is taken back."""
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_PORT")}
    monkeypatch.setattr(offline_run.os, "environ", clean)
    return clean


def test_without_a_launcher_the_process_is_the_only_one(environment):
    offline_run.set_up_process()
    assert (environment["RANK"], environment["WORLD_SIZE"]) == ("0", "1") and int(environment["MASTER_PORT"]) > 0


def test_a_launchers_environment_stays(environment):
    environment |= {"RANK": "3", "WORLD_SIZE": "4", "MASTER_PORT": "5"}
    offline_run.set_up_process()
    assert (environment["RANK"], environment["WORLD_SIZE"], environment["MASTER_PORT"]) == ("3", "4", "5")
