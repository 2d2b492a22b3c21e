"""The learning-curve benchmark: its options are those of spo-train, its numbers are what they say."""

import json
import subprocess
import sys
import time

import common
import learning_curves
import numpy as np
import psutil
import pytest
import report
import stack
import study
from scipy import stats

from spo_rlhf.errors import UserError

DIAGNOSED = "spo_tree_diagnosed"


def accepted(command: list[str]) -> dict:
    """The configuration that spo-train makes of a command, checked as in a dry run."""
    from spo_rlhf.cli.train import parse
    from spo_rlhf.launch.output import flatten, plain

    args, _ = parse([*command[command.index("spo_rlhf.cli.train") + 1 :], "--dry-run"])
    return flatten(plain(args))


@pytest.mark.timeout(600)
def test_every_run_is_one_that_spo_train_accepts(prepared, tmp_path, monkeypatch):
    options = dict(seed=3, budget=1000, points=3)
    tree = study.METHODS["spo_tree"]
    for name, folder in prepared.items():  # model, data, prompt and reward are a workload's
        config = accepted(study.train_command(study.WORKLOADS[name], tree, folder, tmp_path, **options))
        assert config["spo.tree_segment_tokens"] == (study.WORKLOADS[name].segment_tokens,)
    # The rest is a method's: a trial of the same reward for each takes most of the time.
    monkeypatch.setattr("spo_rlhf.launch.preflight.check_inputs", lambda *args, **kwargs: [])
    for name, folder in prepared.items():
        workload = study.WORKLOADS[name]
        methods = (
            study.METHODS if name == "arithmetic-short" else {"spo_tree": tree, DIAGNOSED: study.METHODS[DIAGNOSED]}
        )
        for label, method in methods.items():
            if method.diagnosed and not workload.diagnosed:
                continue
            for changes in ({}, study.STABILITY):
                changed = method.with_options(changes)
                config = accepted(study.train_command(workload, changed, folder, tmp_path, **options))
                assert config["spo.token_budget"] == 1000 and config["train.seed"] == 3, label
                samples = config["rollout.batch_size"] * config["rollout.n_samples_per_prompt"]
                steps = workload.optimizer_steps * changed.options.get("optimizer_steps", 1)
                assert samples / config["train.batch_size"] == steps, label
                assert config["train.max_epochs"] == (2 if changes else 1)


def test_a_diagnosed_tree_is_the_workloads_unless_the_command_says_otherwise(prepared, tmp_path):
    options = dict(seed=3, budget=1000, points=3)
    workload, method = study.WORKLOADS["check_last"], study.METHODS[DIAGNOSED]
    changed = method.with_options({"responses": 16, "spo.tree_settled": 0.5})
    commands = [
        study.train_command(workload, one, prepared["check_last"], tmp_path, **options) for one in (method, changed)
    ]
    of = [dict(zip(command, command[1:], strict=False)) for command in commands]
    for one, responses, settled in zip(of, ("32", "16"), ("0.17", "0.5"), strict=True):
        assert one["--spo.tree_branching"] == "8,4" and one["--spo.tree_segment_tokens"] == "56"
        assert one["--rollout.n_samples_per_prompt"] == responses and one["--spo.tree_settled"] == settled
        assert one["--rollout.batch_size"] == "8", "half of the tree's prompts"
    with pytest.raises(UserError, match="no tree was diagnosed for the model of arithmetic"):
        method.on(study.WORKLOADS["arithmetic-short"])


def test_runs_that_sample_ahead_share_no_device(prepared, tmp_path):
    options = dict(seed=3, budget=1000, points=3)
    workload, chain = study.WORKLOADS["arithmetic-short"], study.METHODS["spo_chain"]
    ahead = chain.with_options({"train.async_enable": True})
    commands = [
        study.train_command(workload, one, prepared["arithmetic-short"], tmp_path, **options) for one in (chain, ahead)
    ]
    assert "--train.colocate_all" in commands[0] and "--train.colocate_all" not in commands[1]
    assert accepted(commands[1])["train.async_enable"]


def test_recorded_commands_name_no_folder_of_this_machine(prepared, tmp_path):
    folder = prepared["arithmetic-short"]
    workload, method = study.WORKLOADS["arithmetic-short"], study.METHODS["grpo"]
    command = study.train_command(workload, method, folder, tmp_path / "run", seed=0, budget=1000, points=3)
    told = common.portable(command, tmp_path)
    assert told[0] == "python" and "OUTPUT/run" in told and "spo_rlhf/tasks/math_reward.py" in told
    assert str(common.ROOT) not in " ".join(told) and str(tmp_path) not in " ".join(told)


def test_intervals_are_students():
    values = [0.4, 0.5, 0.7]
    mean, half = report.interval(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert np.isnan(report.interval([0.4])[1])


def run_of(method: str, seed: int, accuracy: list[float], pace: float = 1.0) -> dict:
    points = [{"step": i, "tokens": 100.0 * i, "seconds": pace * i, "accuracy": a} for i, a in enumerate(accuracy)]
    rewards = {"rollout/reward_mean": accuracy[-1], "ppo_clip_ratio": 0.0}
    steps = [
        {"step": i + 1, "tokens": 30.0 * (i + 1), "seconds": pace * (i + 1), "ppo_kl": 0.01 * i, **rewards}
        for i in range(3)
    ]
    steps[0]["rollout/reward_mean"] = 0.0  # not in the last third
    costs = dict.fromkeys(("mc_tokens", "trained_tokens", "optimizer_steps", "seconds_training"), 1.0)
    costs["generated_tokens"] = 90.0
    return {"task": "t", "method": method, "seed": seed, "accuracy": points, "steps": steps, **costs}


def test_differences_are_paired_by_seed_and_times_compared_at_the_shortest(tmp_path):
    runs = [run_of("grpo", s, [0.2, 0.3 + s / 10]) for s in range(3)] + [
        run_of("spo", s, [0.2, 0.4 + s / 10], 2.0) for s in range(3)
    ]
    lines = report.tables(runs)
    report.draw(tmp_path, runs)
    accuracy, reward, _ = (line.split(" | ") for line in lines if line.startswith("| spo |"))
    assert accuracy[5] == "+10.0 ± 0.0", "the seeds differ by 10 points, the pairs do not"
    assert accuracy[6].startswith("35.0"), "after one second spo is half way: 0.2 + (0.4 + s/10 - 0.2) / 2, mean over s"
    assert reward[2].startswith("50.0") and reward[3] == "+10.0 ± 0.0", "the steps beyond 60 of 90 tokens"
    assert reward[4].startswith("0.0") and reward[6].startswith("50.0"), (
        "in 3 s spo has made its first step, in 3 steps all"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"t.png", "t-steps.png"}


def test_finished_runs_are_collected_whatever_made_them(tmp_path, capsys):
    for number, method in enumerate(("grpo:lr=1e-3", "rloo", "spo")):
        folder = tmp_path / "arithmetic-short" / f"run{number}"
        folder.mkdir(parents=True)
        run = {**run_of(method, 0, [0.2, 0.3 + number / 10]), "task": "arithmetic-short"}
        (folder / "result.json").write_text(json.dumps(run), encoding="utf-8")
    arguments = ["--collect", "--task", "arithmetic-short", "--output", str(tmp_path)]
    assert learning_curves.main([*arguments, "--baseline", "rloo"]) == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [one["method"] for one in results["runs"]] == ["rloo", "grpo:lr=1e-3", "spo"]
    assert results["settings"]["baseline"] == "rloo" and results["machine"]["cores"] >= 1
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "results.json",
        "results.md",
        "arithmetic-short.png",
        "arithmetic-short-steps.png",
    }
    assert "| minus rloo |" in capsys.readouterr().out
    assert learning_curves.main([*arguments, "--only", "spo|rloo"]) == 0
    told = capsys.readouterr().out
    assert "| spo |" in told and "| rloo |" in told and "lr=1e-3" not in told
    assert learning_curves.main([*arguments, "--only", "vineppo"]) == 2
    assert "--only vineppo: choose from grpo:lr=1e-3, rloo, spo" in capsys.readouterr().err.replace("'", "")
    assert learning_curves.main([*arguments, "--baseline", "ppo"]) == 2
    assert "no run of it among those of grpo:lr=1e-3, rloo, spo" in capsys.readouterr().err
    assert learning_curves.main([*arguments[:2], "arithmetic-long", *arguments[3:]]) == 2
    assert "no finished run of arithmetic-long" in capsys.readouterr().err


def test_the_same_command_again_runs_nothing_that_is_finished(tmp_path, capsys):
    folder = tmp_path / "arithmetic-short"
    records = {f"grpo-20000-seed{seed}/result.json": run_of("grpo", seed, [0.2, 0.3]) for seed in range(2)}
    for name, record in {"task/prepare.json": {}, **records}.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(json.dumps(record), encoding="utf-8")
    options = "--methods grpo --task arithmetic-short --seeds 2 --budget-tokens 20000 --parallel 2 --output"
    assert learning_curves.main([*options.split(), str(tmp_path)]) == 0
    assert "[2/2] arithmetic-short grpo seed 1  20.0% -> 30.0%  90 tokens  1 s\n" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in results["runs"]] == [0, 1]
    assert not list(folder.rglob("*.log"))


def test_varied_options_make_methods_of_their_own():
    args = learning_curves.parse(
        ["--methods", "spo_chain", "--vary", "spo.cutpoint_interval=1,3", "--vary", "prompts=16,64"]
    )
    methods = learning_curves.variants(args)
    assert len(methods) == 4
    assert methods["spo_chain:cutpoint_interval=1:prompts=64"].prompts == 64
    assert methods["spo_chain:cutpoint_interval=3:prompts=16"].options["spo.cutpoint_interval"] == "3"
    args = learning_curves.parse(["--methods", "grpo", "--vary", "spo.prob_mask=true,false"])
    masks = [method.options["spo.prob_mask"] for method in learning_curves.variants(args).values()]
    assert masks == [True, False], "a switch is on or off, not a text"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--methods", "ppo"], "--methods ppo: choose from grpo"),
        (["--task", "chess"], "--task chess: choose from arithmetic-short"),
        (["--vary", "spo.cutpoint_interval"], "give OPTION=VALUE"),
        (["--only", "grpo"], "--only: goes with --collect"),
        (["--parallel", "0"], "argument --parallel: 0 is not a whole number from 1; see learning_curves --help"),
    ],
)
def test_wrong_usage_is_one_line(arguments, says, capsys):
    assert learning_curves.main([*arguments, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert says in error.replace("'", "") and len(error.splitlines()) == 1


def test_a_terminated_benchmark_leaves_nothing_running(tmp_path):
    command = [
        sys.executable,
        str(stack.ROOT / "benchmarks" / "learning_curves.py"),
        "--quick",
        "--output",
        str(tmp_path),
    ]
    process = subprocess.Popen(
        command, env=stack.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    child, log, end = psutil.Process(process.pid), tmp_path / "arithmetic-short" / "prepare.log", time.monotonic() + 60
    while time.monotonic() < end and not (log.exists() and "loading" in log.read_text(encoding="utf-8")):
        time.sleep(0.2)
    [warm_up] = child.children()
    process.terminate()
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; finished runs are kept" in told and "Traceback" not in told
    assert not warm_up.is_running()


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_benchmark_runs_and_goes_on_where_it_was(tmp_path):
    arguments = [
        "--methods",
        "grpo",
        "--task",
        "arithmetic-short",
        "--seeds",
        "1",
        "--budget-tokens",
        "20000",
        "--points",
        "2",
    ]
    arguments += ["--warm-up-seconds", "5", "--output", str(tmp_path), "--vary", "prompts=16"]
    assert learning_curves.main(arguments) == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    [run] = results["runs"]
    assert (
        run["generated_tokens"] >= 20000 and run["optimizer_steps"] == len(run["steps"]) and run["trained_tokens"] > 0
    )
    assert [point["tokens"] for point in run["accuracy"]][0] == 0 and len(run["accuracy"]) >= 2
    log = tmp_path / "arithmetic-short" / "grpo-prompts_16-20000-seed0" / "terminal.log"
    written = log.stat().st_mtime_ns
    assert learning_curves.main(arguments) == 0 and log.stat().st_mtime_ns == written, "a finished run was run again"
