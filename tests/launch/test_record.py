"""The record of a run, from events."""

import io
import json
import re
from pathlib import Path

import pytest

from spo_rlhf.host.console import Console, count, duration
from spo_rlhf.host.live import LiveConsole
from spo_rlhf.launch.record import RunRecord
from spo_rlhf.launch.run import closing
from spo_rlhf.rollouts.store import RolloutStore

PLAN = {"event": "plan", "first_step": 0, "steps": 2, "first_tokens": 0, "token_budget": None}
STEP = {
    "rollout/total_tokens": 400.0,
    "rollout/response_tokens": 100.0,
    "rollout/mc_tokens": 300.0,
    "rollout/reward_mean": 0.5,
    "mask_density": 0.25,
    "actor_grad_norm": 1.0,
    "timing/step_total": 3.0,
    "timing/generation": 2.0,
    "timing/ppo_train": 1.0,
}


def test_a_step_is_on_the_disk_before_its_checkpoint(tmp_path, monkeypatch):
    """Also where the machine loses its power: what is written stays in memory until it is asked for."""
    synced = []
    monkeypatch.setattr("os.fsync", lambda file: synced.append(Path(f"/proc/self/fd/{file}").read_text()))
    record = RunRecord(tmp_path, Console(io.StringIO()))
    record.take({"event": "step", "time": record.start, "step": 1, "metrics": STEP})
    assert synced == [(tmp_path / "metrics.jsonl").read_text()]


def test_events_become_summary_metrics_and_lines(tmp_path):
    stream = io.StringIO()
    record = RunRecord(tmp_path, Console(stream))
    now = record.start
    record.take({**PLAN, "time": now + 2})
    record.take({"event": "eval", "time": now + 3, "step": 0, "seconds": 1.0, "metrics": {"eval_default_pass1": 0.25}})
    for step in (1, 2):
        record.take({"event": "stage", "time": now, "stage": "generate", "done": 0, "total": 8})
        record.take({"event": "step", "time": now, "step": step, "metrics": STEP})
    record.take({"event": "eval", "time": now, "step": 2, "seconds": 1.0, "metrics": {"eval_default_pass1": 0.75}})
    summary = record.finish(True)

    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert (summary["accuracy_before"], summary["accuracy_after"]) == (0.25, 0.75)
    assert (summary["steps"], summary["generated_tokens"], summary["mc_tokens"]) == (2, 800, 600)
    phases = summary["seconds_by_phase"]
    assert (phases["start"], phases["generate"], phases["train"], phases["evaluate"]) == (2.0, 4.0, 2.0, 2.0)
    events = [json.loads(line)["event"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert events == ["plan", "eval", "step", "step", "eval"], "stages are for the terminal alone"
    assert "held-out accuracy 75.0%" in stream.getvalue() and "reward 0.500" in stream.getvalue()


@pytest.mark.parametrize(("step", "before", "after"), [(0, 0.25, None), (2, None, 0.25)])
def test_a_single_evaluation_is_before_or_after_the_training(step, before, after, tmp_path):
    record = RunRecord(tmp_path, Console(io.StringIO()))
    record.take({**PLAN, "time": record.start})
    record.take(
        {"event": "eval", "time": record.start, "step": step, "seconds": 1.0, "metrics": {"eval_default_pass1": 0.25}}
    )
    summary = record.finish(False)
    assert (summary["accuracy_before"], summary["accuracy_after"]) == (before, after)


def test_the_step_that_a_stopped_run_was_in_is_not_booked_as_its_finish(tmp_path):
    record = RunRecord(tmp_path, Console(io.StringIO()))
    record.start -= 9
    record.take({**PLAN, "time": record.start + 2})
    phases = record.finish(False)["seconds_by_phase"]
    assert "finish" not in phases and phases["unfinished"] == pytest.approx(7, abs=1)


def test_an_event_of_an_unknown_kind_is_refused_by_name(tmp_path):
    record = RunRecord(tmp_path, Console(io.StringIO()))
    with pytest.raises(
        ValueError,
        match="unknown event 'stpe'; a record takes plan, note, stage, step, eval, nonfinite, rewards, engines, untrained, rollouts",
    ):
        record.take({"event": "stpe", "time": record.start})
    assert not (tmp_path / "metrics.jsonl").exists()


SKIPPED = {"optimizer_steps": 0, "skipped_steps": 4, "nonfinite_steps": 4}
MADE = {"optimizer_steps": 4, "skipped_steps": 0, "nonfinite_steps": 0}


def steps(record, *metrics):
    record.take({**PLAN, "time": record.start})
    for step, more in enumerate(metrics, start=1):
        record.take({"event": "step", "time": record.start, "step": step, "metrics": {**STEP, **more}})


def test_what_is_not_finite_is_kept_in_a_file_of_its_step(tmp_path):
    stream = io.StringIO()
    record = RunRecord(tmp_path, Console(stream))
    fault = {"number": "reward", "value": float("nan"), "token_ids": [1, 2], "around": {"advantage": [float("inf")]}}
    record.take({"event": "nonfinite", "time": record.start, "step": 1, "faults": [fault, fault]})
    steps(record, {**SKIPPED, "rollout/reward_mean": 0.25})

    stored = json.loads((tmp_path / "nonfinite" / "step-1.json").read_text())
    assert stored["step"] == 1 and stored["faults"][0]["value"] == "nan"
    assert stored["faults"][0]["around"] == {"advantage": ["inf"]} and len(stored["faults"]) == 2
    [event] = [one for one in map(json.loads, (tmp_path / "metrics.jsonl").open()) if one["event"] == "nonfinite"]
    assert event["numbers"] == ["reward"] and event["file"] == "nonfinite/step-1.json" and "faults" not in event
    assert "step 1: reward not finite, see" in stream.getvalue() and "  skipped  3.0 s" in stream.getvalue()
    RunRecord(tmp_path, Console(io.StringIO()))
    assert not list((tmp_path / "nonfinite").iterdir()), "a new run in the folder begins without them"


def test_a_step_of_which_a_part_was_skipped_says_so(tmp_path):
    stream = io.StringIO()
    steps(RunRecord(tmp_path, Console(stream)), {"optimizer_steps": 3, "skipped_steps": 1, "nonfinite_steps": 1})
    assert "1 of 4 updates skipped" in stream.getvalue()


@pytest.mark.parametrize(
    ("metrics", "finished"),
    [
        ([MADE], True),
        ([SKIPPED], False),
        ([MADE, SKIPPED], True),
        ([SKIPPED, MADE, SKIPPED], False),
        ([{"optimizer_steps": 1, "skipped_steps": 2, "nonfinite_steps": 0}], True),
        ([{"optimizer_steps": 0, "skipped_steps": 2, "nonfinite_steps": 0}], False),
        ([], False),
    ],
)
def test_a_run_that_has_not_trained_has_not_finished(tmp_path, metrics, finished):
    record = RunRecord(tmp_path, Console(io.StringIO()))
    steps(record, *metrics)
    assert record.finish(True)["finished"] == finished
    assert record.finish(False)["finished"] is False


def test_a_start_from_a_checkpoint_may_have_nothing_left_to_do(tmp_path):
    record = RunRecord(tmp_path, Console(io.StringIO()))
    record.take({**PLAN, "first_step": 2, "time": record.start})
    assert record.finish(True)["finished"] is True
    metrics = {"rollout/response_tokens": 70, "rollout/mc_tokens": 0, "rollout/total_tokens": 70}
    record.take({"event": "untrained", "time": record.start, "step": 3, "metrics": metrics})
    assert record.finish(True)["finished"] is False, "it sampled, and trained nothing"


def test_tokens_that_no_step_tells_of_are_counted_once(tmp_path):
    record = RunRecord(tmp_path, Console(io.StringIO()))
    since_the_step = {"rollout/response_tokens": 70, "rollout/mc_tokens": 30, "rollout/total_tokens": 100}
    record.take({**PLAN, "time": record.start})
    for tokens in (0, 70):  # the second iteration without a step tells of the first one too
        metrics = {**since_the_step, "rollout/response_tokens": tokens}
        record.take({"event": "untrained", "time": record.start, "step": 1, "metrics": metrics})
    summary = record.finish(True)
    assert (summary["finished"], summary["generated_tokens"], summary["mc_tokens"]) == (False, 100, 30)
    record.take({"event": "step", "time": record.start, "step": 1, "metrics": {**STEP, **MADE, **since_the_step}})
    assert record.finish(True)["generated_tokens"] == 100, "those of a step are all since the one before"
    record.take({"event": "untrained", "time": record.start, "step": 2, "metrics": since_the_step})
    summary = record.finish(True)
    assert (summary["finished"], summary["generated_tokens"], summary["mc_tokens"]) == (True, 200, 60)


def test_rewards_without_an_answer_are_summed_over_steps_and_evaluations(tmp_path):
    record = RunRecord(tmp_path, Console(io.StringIO()))
    counts = {"rollout/rewards": 32.0, "rollout/reward_timeouts": 2.0, "rollout/reward_crashes": 1.0}
    steps(record, counts, counts)
    record.take({"event": "rewards", "time": record.start, "metrics": {**counts, "rollout/reward_timeouts": 5}})
    summary = record.finish(True)
    assert (summary["rewards"], summary["reward_timeouts"], summary["reward_crashes"]) == (96, 9, 3)
    assert closing(summary) == "; 9 rewards took too long and were 0; 3 rewards ended their process and were 0"
    assert (
        closing(
            RunRecord(tmp_path / "other", Console(io.StringIO())).totals.summary(finished=True, seconds_of_this_start=1)
        )
        == ""
    )


def test_dear_monte_carlo_is_noted_once(tmp_path):
    def told(mc_tokens):
        stream = io.StringIO()
        record = RunRecord(tmp_path, Console(stream))
        record.take({**PLAN, "time": record.start})
        for step in (1, 2):
            record.take(
                {
                    "event": "step",
                    "time": record.start,
                    "step": step,
                    "metrics": {**STEP, "rollout/mc_tokens": mc_tokens},
                }
            )
        return stream.getvalue()

    assert told(1000.0).count("Monte Carlo takes 10 times the responses' tokens") == 1
    assert "Monte Carlo takes" not in told(500.0) + told(0.0)


def test_the_first_step_without_any_gradient_is_told(tmp_path):
    stream = io.StringIO()
    some, none = ({"rollout/num_samples": 8.0, "samples_without_gradient": idle} for idle in (7.0, 8.0))
    steps(RunRecord(tmp_path, Console(stream)), some, {**none, "rollout/reward_mean": 0.0}, none)
    told = [line for line in stream.getvalue().splitlines() if "nothing to learn from" in line]
    assert len(told) == 1 and "step 2" in told[0] and "mean reward 0.000" in told[0]


def test_progress_is_that_of_the_token_budget_where_it_ends_first(tmp_path, monkeypatch):
    monkeypatch.setattr("spo_rlhf.launch.record.versions", dict)  # the first time takes a second or two

    def told(tokens, **plan):
        stream = io.StringIO()
        record = RunRecord(tmp_path, Console(stream))
        record.take({**PLAN, "steps": 10, **plan, "time": record.start - 60})
        record.take(
            {
                "event": "step",
                "time": record.start,
                "step": plan.get("first_step", 0) + 1,
                "metrics": {**STEP, "rollout/total_tokens": tokens},
            }
        )
        return stream.getvalue()

    assert "step 1/10 " in told(400.0) and "9 min 00 s left" in told(400.0)
    of_tokens = told(400.0, token_budget=1600)
    assert (
        "or until 1.6k tokens are generated" in of_tokens
        and "step 1 (25% done)" in of_tokens
        and "3 min 00 s left" in of_tokens
    )
    assert "step 1 (10% done)" in told(400.0, token_budget=160_000), "the steps end first"
    assert "step 6 (33% done)" in told(1600.0, first_step=5, first_tokens=1000, token_budget=2800), "resumed"
    assert "step 1 (100% done)" in told(400.0, token_budget=300) and "0 s left" in told(400.0, token_budget=300)


def test_console_replaces_the_status_line_on_a_terminal_only():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, replaced in ((Terminal(), True), (io.StringIO(), False)):
        console = Console(stream)
        console.line("first")
        for i in range(3):
            console.status(f"at {i}")
        console.line("last")
        assert ("\r" in stream.getvalue()) == replaced and stream.getvalue().endswith("last\n")


def test_numbers_as_people_read_them():
    assert [duration(s) for s in (0.4, 59, 60, 3661)] == ["0 s", "59 s", "1 min 00 s", "1 h 01 min"]
    assert [count(n) for n in (12, 1234, 5.6e6, 7e9)] == ["12", "1.2k", "5.6M", "7.0G"]


def test_rollouts_go_into_their_folder_and_a_resumed_run_replaces_its_later_steps(tmp_path):
    def record(resume):
        console = Console(io.StringIO())
        store = RolloutStore(tmp_path, 1, console.line)
        return RunRecord(tmp_path, console, resume=resume, rollouts=store)

    def kept():
        return {path.name[5:13].lstrip("0"): path.read_bytes() for path in sorted((tmp_path / "rollouts").iterdir())}

    first = record(False)
    first.take({**PLAN, "time": first.start})
    for step in (1, 2, 3):
        first.take({"event": "step", "time": first.start, "step": step, "metrics": STEP})
        first.take({"event": "rollouts", "time": first.start, "step": step, "content": b"first"})
    assert kept() == dict.fromkeys("123", b"first")
    assert "rollouts" not in {json.loads(line)["event"] for line in (tmp_path / "metrics.jsonl").open()}

    second = record(True)
    assert kept() == dict.fromkeys("123", b"first"), "nothing changes before it is known where the run goes on"
    second.take({**PLAN, "first_step": 2, "time": second.start})
    second.take({"event": "rollouts", "time": second.start, "step": 3, "content": b"second"})
    assert kept() == {"1": b"first", "2": b"first", "3": b"second"}

    record(False)
    assert kept() == {}, "a new run in the folder of another"


def test_on_a_terminal_the_steps_stand_in_a_table_with_the_accuracy_beside(tmp_path):
    stream = io.StringIO()
    console = LiveConsole(stream, width=120)
    record = RunRecord(tmp_path, console)
    record.take({**PLAN, "time": record.start})
    record.take({"event": "step", "time": record.start, "step": 1, "metrics": STEP})
    metrics = {"eval_default_pass1": 0.75}
    record.take({"event": "eval", "time": record.start, "step": 1, "seconds": 1.0, "metrics": metrics})
    record.take({"event": "stage", "time": record.start, "stage": "generate", "done": 1, "total": 8})
    assert "generate 1/8" in stream.getvalue()
    console.close()
    row = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).splitlines()[-1]
    assert row.split() == ["1/2", "0.500", "75.0%", "100", "300", "25%", "1.000", "0", "3.0", "s"]
