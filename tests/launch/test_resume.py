"""One record of a run over several starts, and none of two runs."""

import io
import json

import pytest

from spo_rlhf.host.console import Console
from spo_rlhf.launch import history
from spo_rlhf.launch.record import RunRecord

SECONDS_A_STEP = 10.0


def step_event(step: int, time: float) -> dict:
    metrics = {
        "optimizer_steps": 1.0,
        "rollout/total_tokens": 400.0 * step,
        "rollout/response_tokens": 100.0,
        "rollout/mc_tokens": 300.0,
        "rollout/reward_mean": 0.5,
        "timing/step_total": SECONDS_A_STEP,
        "timing/generation": SECONDS_A_STEP,
    }
    return {"event": "step", "time": time, "step": step, "metrics": metrics}


def eval_event(step: int, time: float, accuracy: float) -> dict:
    metrics = {"eval_default_pass1": accuracy, "eval_default_pass4": 1.0}
    return {"event": "eval", "time": time, "step": step, "seconds": 1.0, "metrics": metrics}


class Start:
    """One start of a run of 4 steps, 2 s after which it works."""

    def __init__(self, run_dir, *, resume: bool, first_step: int = 0):
        self.run_dir, self.terminal, self.first_step = run_dir, io.StringIO(), first_step
        self.record = RunRecord(run_dir, Console(self.terminal), resume=resume)
        self.now = self.record.start + 2.0

    def plan(self) -> "Start":
        plan = {"first_step": self.first_step, "steps": 4, "first_tokens": 400 * self.first_step, "token_budget": None}
        self.record.take({"event": "plan", "time": self.now, **plan})
        return self

    def train(self, *steps: int, evaluate: tuple[int, ...] = ()) -> "Start":
        for step in steps:
            if step:
                self.now += SECONDS_A_STEP
                self.record.take(step_event(step, self.now))
            if step in evaluate:
                self.record.take(eval_event(step, self.now, step / 10))
        return self


def events(run_dir) -> list[tuple]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(event["event"], event.get("step", event.get("first_step"))) for event in lines]


def summary(run_dir) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


@pytest.fixture
def interrupted(tmp_path):
    """A run directory of a run that was killed in step 4: evaluated before, and after steps 2 and 3; checkpoint at step 2."""
    Start(tmp_path, resume=False).plan().train(0, 1, 2, 3, evaluate=(0, 2, 3))
    return tmp_path


WHOLE = [("plan", 0), ("eval", 0), ("step", 1), ("step", 2), ("eval", 2)]


def test_a_resumed_run_keeps_its_history_up_to_the_checkpoint(interrupted):
    start = Start(interrupted, resume=True, first_step=2).plan()
    assert events(interrupted) == [*WHOLE, ("plan", 2)]
    assert summary(interrupted)["steps"] == 2 and not summary(interrupted)["finished"]
    start.train(3, 4, evaluate=(4,))
    start.record.finish(True)
    assert events(interrupted) == [*WHOLE, ("plan", 2), ("step", 3), ("step", 4), ("eval", 4)]
    cut = [json.loads(line) for line in (interrupted / "metrics.cut.jsonl").read_text().splitlines()]
    assert [(event["event"], event["step"]) for event in cut] == [("step", 3), ("eval", 3)]
    assert "goes on from step 2; what the record held beyond is in" in start.terminal.getvalue()
    assert "2 steps to go" in start.terminal.getvalue() and "step 3/4" in start.terminal.getvalue()


def test_a_broken_line_of_its_history_is_told_once_and_left_out(interrupted):
    path = interrupted / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2].replace("{", "?", 1), *lines[3:]]) + lines[0][:9])
    start = Start(interrupted, resume=True, first_step=2).plan()
    told = [line for line in start.terminal.getvalue().splitlines() if "cannot be read" in line]
    assert told == [f"note: {path}: 1 of {len(lines)} lines cannot be read and are left out (line 3)"]
    assert events(interrupted) == [one for one in [*WHOLE, ("plan", 2)] if one != ("step", 1)]


def test_its_totals_are_those_of_a_run_that_was_never_interrupted(interrupted, tmp_path_factory):
    one_go = tmp_path_factory.mktemp("one_go")
    whole = Start(one_go, resume=False).plan().train(0, 1, 2, 3, 4, evaluate=(0, 2, 4)).record.finish(True)
    start = Start(interrupted, resume=True, first_step=2).plan().train(3, 4, evaluate=(4,))
    total = start.record.finish(True)
    for name in ("finished", "steps", "generated_tokens", "mc_tokens", "accuracy", "accuracy_before", "accuracy_best"):
        assert total[name] == whole[name], name
    assert total["accuracy"] == [[0, 0.0], [2, 0.2], [4, 0.4]] and total["generated_tokens"] == 4 * 400
    assert total["seconds_by_phase"]["generate"] == 4 * SECONDS_A_STEP
    assert total["seconds_by_phase"]["start"] == pytest.approx(2 + 2), "there were two starts"
    # 2 s until it worked and 2 steps; the third step is cut, and no clock ran for the second start's events.
    assert total["seconds_total"] == pytest.approx(2 + 2 * SECONDS_A_STEP, abs=1.0)


def test_a_second_resume_builds_on_the_first(interrupted):
    Start(interrupted, resume=True, first_step=2).plan().train(3)
    start = Start(interrupted, resume=True, first_step=3).plan().train(4)
    assert events(interrupted) == [*WHOLE, ("plan", 2), ("step", 3), ("plan", 3), ("step", 4)]
    assert start.record.finish(True)["generated_tokens"] == 4 * 400


def test_an_older_checkpoint_cuts_the_later_start_too(interrupted):
    Start(interrupted, resume=True, first_step=2).plan().train(3)
    Start(interrupted, resume=True, first_step=1).plan()
    assert events(interrupted) == [("plan", 0), ("eval", 0), ("step", 1), ("plan", 1)]


def test_a_resume_that_finds_no_checkpoint_starts_anew_and_keeps_the_old_record_beside(interrupted):
    start = Start(interrupted, resume=True, first_step=0).plan().train(1)
    assert events(interrupted) == [("plan", 0), ("step", 1)]
    assert start.record.finish(False)["generated_tokens"] == 400
    assert len((interrupted / "metrics.cut.jsonl").read_text().splitlines()) == 7


def test_a_resume_that_fails_before_it_goes_on_leaves_the_record_alone(interrupted):
    Start(interrupted, resume=False).plan().train(1, 2, 3, 4).record.finish(True)
    before = {path.name: path.read_text() for path in interrupted.iterdir()}
    start = Start(interrupted, resume=True)
    start.record.take({"event": "note", "time": start.now, "text": "no replay buffer"})
    start.record.finish(False)
    assert {path.name: path.read_text() for path in interrupted.iterdir()} == before
    start.plan()
    notes = [line for line in (interrupted / "metrics.jsonl").read_text().splitlines() if "no replay buffer" in line]
    assert len(notes) == 1, "what came before the plan is recorded with it"


def test_a_finished_run_that_is_evaluated_once_more_has_one_accuracy_of_its_last_step(interrupted):
    start = Start(interrupted, resume=True, first_step=3).plan()
    start.record.take(eval_event(3, start.now, 0.5))
    assert start.record.finish(True)["accuracy"] == [[0, 0.0], [2, 0.2], [3, 0.5]]


def test_history_in_another_folder_is_said(tmp_path):
    start = Start(tmp_path, resume=True, first_step=2).plan().train(3)
    assert "steps 1 to 2 are not in this folder" in start.terminal.getvalue()
    assert start.record.finish(False)["steps"] == 3 and events(tmp_path) == [("plan", 2), ("step", 3)]


def test_a_line_that_was_cut_off_by_a_kill_is_left_out(interrupted):
    with open(interrupted / "metrics.jsonl", "a") as file:
        file.write('{"event": "step", "st')
    Start(interrupted, resume=True, first_step=3).plan()
    assert events(interrupted) == [*WHOLE, ("step", 3), ("eval", 3), ("plan", 3)]


def test_a_new_run_in_the_folder_of_another_replaces_its_record(interrupted):
    Start(interrupted, resume=True, first_step=2).plan().record.finish(True)
    history.store_config(interrupted, {"actor.adam.lr": 1e-6})
    history.store_config(interrupted, {"actor.adam.lr": 1e-5})
    (interrupted / "train.log").write_text("theirs")
    Start(interrupted, resume=False)
    assert [path.name for path in interrupted.iterdir()] == ["train.log"], "the log is replaced where it is opened"
    Start(interrupted, resume=False).plan().train(1)
    assert events(interrupted) == [("plan", 0), ("step", 1)] and summary(interrupted)["steps"] == 0


def test_the_configuration_is_that_of_the_first_start_and_what_differs_is_noted(tmp_path):
    first = {"actor.adam.lr": 1e-6, "ckpt.load_enable": False, "spo.run_dir": tmp_path, "dry_run": False}
    assert history.store_config(tmp_path, first) == []
    assert history.store_config(tmp_path, {**first, "ckpt.load_enable": True}) == []
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    changed = {**first, "actor.adam.lr": 1e-5, "new.option": 1}
    notes = history.store_config(tmp_path, changed)
    assert notes == [
        "--actor.adam.lr is 1e-05; at the first start it was 1e-06",
        "--new.option is 1; at the first start it was None",
    ]
    history.store_config(tmp_path, {**first, "actor.adam.lr": 1e-4})
    stored = {path.name: json.loads(path.read_text())["actor.adam.lr"] for path in tmp_path.iterdir()}
    assert stored == {"config.json": 1e-6, "config.start2.json": 1e-5, "config.start3.json": 1e-4}
