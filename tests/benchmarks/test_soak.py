"""The soak: its faults are where it says, what it looks at sees what is wrong, and (slow) its short form on the real stack."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import soak
import soak_report
from soak_processes import Watched
from soak_report import CORE, ENGINE, KILL, PREEMPTION


@pytest.mark.parametrize("steps", [12, 200])
@pytest.mark.parametrize("seed", range(20))
def test_faults_are_two_preemptions_a_kill_and_engines_within_the_run(steps, seed):
    faults = soak_report.plan_faults(steps, 5, seed)
    assert faults == soak_report.plan_faults(steps, 5, seed)
    ends = [fault for fault in faults if fault.ends_the_run]
    assert sorted(fault.kind for fault in ends) == [PREEMPTION, PREEMPTION, KILL]
    assert [fault.kind for fault in faults if not fault.ends_the_run] == [ENGINE, CORE, ENGINE, CORE, ENGINE]
    moments = [fault.after_step for fault in ends]
    assert sorted(set(moments)) == moments, "each start takes a step before its end"
    assert all(0 < fault.after_step < steps for fault in faults)


def test_a_process_that_is_larger_after_faults_is_named():
    def sample(part: str, policy: float, engine: float) -> dict:
        return {"part": part, "step": 9, "processes": {"1": ("policy", policy), "2": ("engine", engine)}}

    whole = [sample("unbroken", 600, 300), sample("unbroken", 650, 310)]
    assert soak_report.sizes([*whole, sample("broken 1", 700, 340)], "unbroken").held
    found = soak_report.sizes([*whole, sample("broken 1", 600, 350), sample("broken 2", 721, 300)], "unbroken")
    assert not found.held and "policy 721 (650 in the unbroken run)" in found.figures
    assert not soak_report.sizes(whole, "unbroken").held, "nothing was compared"
    starting = {"part": "broken 1", "step": 8, "processes": {"2": ("python", 300)}}
    assert soak_report.sizes([*whole, starting, sample("broken 1", 600, 310)], "unbroken").held


def test_growth_is_that_of_the_line_and_its_interval_covers_it():
    draw, steps = np.random.default_rng(0), np.arange(1, 201)
    covered = 0
    for _ in range(200):
        slope, half = soak_report.growth(steps, 100 + 0.03 * steps + draw.normal(0, 1, 200))
        covered += abs(slope - 3) < half
    assert covered > 0.9 * 200 and soak_report.growth(steps, 100 + 0.03 * steps)[0] == pytest.approx(3)
    late = 100 + np.minimum(steps, 30)  # what fills up at the start is no growth
    assert soak_report.growth(steps, late)[0] == pytest.approx(0, abs=1e-9)
    assert soak_report.growth(steps[:10], late[:10]) is None


def of_a_process(mib_per_step):
    return [
        {
            "part": "unbroken",
            "step": step,
            "processes": {"7": ("raylet", 50.0), "8": ("leaky", 9 + mib_per_step * step)},
        }
        for step in range(1, 101)
    ]


def test_a_process_that_grows_is_found():
    rows = soak_report.growths(of_a_process(0.2))
    assert [(row["process"], row["mib_per_100_steps"]) for row in rows] == [("leaky", 20.0), ("raylet", 0.0)]
    assert not soak_report.memory(rows).held and "leaky" in soak_report.memory(rows).figures
    assert soak_report.memory(soak_report.growths(of_a_process(0.01))).held
    assert not soak_report.memory([]).held, "nothing seen is nothing shown"


def a_run(**changes):
    step = {"rollout/requests": 8, "rollout/answers": 8, "timing/generation": 1.0, "policy_loss": 0.5}
    steps = [{**step, "weight_version": number} | changes for number in range(3)]
    sums = dict(steps=3, generated_tokens=90, mc_tokens=50, rewards=40, optimizer_steps=3, requests=24, answers=24)
    summary = sums | {"requests_resent": 0, "accuracy_before": 0.4, "accuracy_after": 0.5}
    return {"steps": steps, "evals": [], "summary": summary}


def failed(checks):
    return [check.name for check in checks if not check.held]


def test_counters_and_comparison_see_what_is_off():
    whole = a_run()
    assert failed(soak_report.counters(whole, 3)) == []
    assert failed(soak_report.equality(whole, a_run(**{"timing/generation": 2.0}), ("timing/",), 0)) == []
    assert failed(soak_report.counters(a_run(**{"rollout/answers": 7}), 3)) == ["every request has one answer"]
    assert len(failed(soak_report.counters(a_run(weight_version=0), 3))) == 1
    assert len(failed(soak_report.counters(whole, 4))) == 2
    other = a_run(policy_loss=0.5000001)
    other["summary"]["rewards"] += 1
    assert len(failed(soak_report.equality(whole, other, ("timing/",), 1e-8))) == 3
    assert soak_report.differing(whole["steps"], other["steps"], ()) == {"policy_loss": [1, 2, 3]}


def test_accuracy_is_held_against_the_interval_of_the_unbroken_run():
    worse = a_run()
    worse["summary"]["accuracy_after"] = 0.3
    assert soak_report.accuracy(a_run(), a_run(), 128).held
    assert not soak_report.accuracy(a_run(), worse, 128).held


def test_a_kill_that_found_no_engine_is_done_by_a_later_part(tmp_path):
    args = soak.parse(["--quick", "--output", str(tmp_path)])
    state = soak.State.read(args)
    assert [part for _, part, _, _ in soak.to_do(args, state)] == ["unbroken", *(f"broken {i}" for i in range(1, 5))]
    state.add({"part": "unbroken", "injected": []}, [])
    state.add({"part": "broken 1", "injected": [{}]}, [])
    again = soak.State.read(args)
    assert [(part, len(kills)) for _, part, kills, _ in soak.to_do(args, again)] == [
        ("broken 2", 1),
        ("broken 3", 1),
        ("broken 4", 1),
    ]
    assert soak.main(["--output", str(tmp_path)]) == 2, "a folder of other settings"


def test_processes_are_looked_at_with_their_memory_until_nothing_is_left(tmp_path):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    code = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'code'])"  # both end with their input
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, **quiet) as process:
        watched = Watched(process, tmp_path, "unbroken")
        deadline = time.monotonic() + 60
        while "code" not in watched.seen.values() and time.monotonic() < deadline:
            time.sleep(0.05)
            watched.look(0)
        assert watched.samples == [], "no step yet"
        watched.look(3)
        [sample] = watched.samples
        kinds = {kind for kind, mib in sample["processes"].values() if mib > 0}
        assert "code" in kinds and len(kinds) == 2 and sample["step"] == 3
        assert not watched.kill_engine(soak_report.Fault(ENGINE, 1), 3), "it has no engines"
    seconds, left = watched.left()
    assert left == [] and seconds < 5


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quick_form_holds_every_check(tmp_path):
    assert soak.main(["--quick", "--output", str(tmp_path), "--warm-up-seconds", "20"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(check["held"] for check in results["checks"]) and len(results["parts"]) == 5
    assert (tmp_path / "soak.png").stat().st_size > 0
