"""spo-train on the real stack: Ray, vLLM, DeepSpeed, nothing of it mocked."""

import json
import math
import os
import signal
import time
from types import SimpleNamespace

import psutil
import pytest
import stack
import torch

from spo_rlhf import rollouts
from spo_rlhf.cli.train import parse
from spo_rlhf.launch.history import OF_A_START
from spo_rlhf.launch.output import resolved

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=8)


@pytest.fixture(scope="module")
def chain_runs(task, tmp_path_factory):
    """The same two steps of SPO-chain twice, evaluated before and after them.

    The first run ends there. The second would go on for long, and its reward function fails once it has done as much.
    """
    changes = dict(
        actor__lr_scheduler="constant",  # the same for any number of steps
        eval__dataset=task / "test.jsonl",
        eval__temperature=0,
        eval__n_samples_per_prompt=1,
    )
    first_dir, second_dir = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    first = stack.train(
        stack.options(task, first_dir, **changes, logger__tensorboard_dir=first_dir / "board"), first_dir
    )

    changes |= dict(train__num_episodes=50, eval__steps=2, ckpt__save_steps=2, ckpt__save_hf=True)
    reward, failing = second_dir / "reward.py", second_dir / "failing"
    reward.write_text(
        f"{stack.COIN_REWARD.read_text()}\n\n"
        "import os\n\ngood_reward = reward_func\n\n\n"
        "def reward_func(queries, prompts, labels):\n"
        f"    if os.path.exists({str(failing)!r}):\n"
        "        raise KeyError('answer sheet')\n"
        "    return good_reward(queries, prompts, labels)\n"
    )
    process = stack.start(stack.options(task, second_dir, **changes, reward__remote_url=reward))
    stack.wait_for_events(process, second_dir, "eval", 2)
    failing.touch()
    return (first_dir, first), (second_dir, stack.finish(process, second_dir, status=2))


def test_a_step_moves_the_weights_with_a_gradient(task, chain_runs):
    run_dir, run = chain_runs[0]
    before, after = stack.weights(task / "model"), stack.weights(run_dir / "model")
    assert before.keys() <= after.keys(), "a tied output layer is saved as well"
    assert all(not torch.equal(before[name].float(), after[name].float()) for name in before)
    for metrics in run["steps"]:
        assert metrics["actor_grad_norm"] > 0 and math.isfinite(metrics["policy_loss"])
        assert not [name for name, value in metrics.items() if math.isnan(value)]


def test_the_model_has_a_card_and_the_run_the_file_that_repeats_it(chain_runs):
    run_dir, run = chain_runs[0]
    card = (run_dir / "model" / "README.md").read_text(encoding="utf-8")
    assert "SPO-chain" in card and "8 held-out problems, 1 sample each" in card
    assert f"| after | {run['summary']['accuracy_after']:.1%} |" in card
    assert json.loads((run_dir / "model" / "generation_config.json").read_text())["do_sample"] is False
    args, _ = parse(["--config", str(run_dir / "run" / "config.yaml"), "--dry-run"])
    again, first = json.loads(json.dumps(resolved(args), default=str)), run["config"]
    assert {name for name in again.keys() | first.keys() if again.get(name) != first.get(name)} <= OF_A_START


def test_engine_and_actor_agree_after_every_sync(chain_runs):
    """Each batch is sampled after a sync (the first one with the initial weights) and scored by the actor before it steps."""
    for metrics in chain_runs[0][1]["steps"]:
        mean, p50, p99, largest = (metrics[f"rollout/logprob_gap_{name}"] for name in ("mean", "p50", "p99", "max"))
        assert 0 < p50 <= p99 <= largest < 1e-3 and 0 < mean < largest
    assert [metrics["weight_version"] for metrics in chain_runs[0][1]["steps"]] == [0, 1]


def test_monte_carlo_is_what_the_partition_says(chain_runs):
    for metrics in chain_runs[0][1]["steps"]:
        samples, rollouts = 32, 3
        inner_states = round(metrics["segments"] * samples) - samples
        assert metrics["rollout/mc_states"] == inner_states > 0
        assert metrics["rollout/mc_requests"] <= inner_states
        assert metrics["rollout/mc_continuations"] == rollouts * metrics["rollout/mc_requests"]
        assert metrics["rollout/cached_tokens"] > 0, "continuations did not share their prefix"


def test_rollouts_of_a_few_prompts_are_kept_with_the_advantages_of_the_loss(chain_runs):
    (first_dir, _), (second_dir, _) = chain_runs
    rows = list(rollouts.read(first_dir / "run"))
    assert [(row["step"], row["sample"]) for row in rows] == [
        (step, sample) for step in (1, 2) for _ in range(4) for sample in (1, 2, 3, 4)
    ]
    assert [row["weight_version"] for row in rows] == [row["step"] - 1 for row in rows]
    for row in rows:
        assert row["trained"] and row["response"] and len(row["values"]) == len(row["boundaries"]) > 1
        credit = sum(row["segment_advantages"])
        assert credit == pytest.approx(row["reward"] - row["values"][0], abs=1e-4)
        starts = row["boundaries"][:-1]
        assert [row["advantages"][start] for start in starts] == pytest.approx(row["segment_advantages"], abs=1e-5)
        assert row["value_counts"][1:-1] == [3] * (len(row["values"]) - 2)
    again = [row for row in rollouts.read(second_dir / "run") if row["step"] <= 2]
    for one, two in zip(rows, again, strict=True):  # the engine's log-probs vary in the last digits with its batches
        assert {**one, "logprobs": []} == {**two, "logprobs": []}, "the same seed keeps the same"
        assert one["logprobs"] == pytest.approx(two["logprobs"], abs=1e-4)


def test_tensorboard_shows_a_sample_a_step_with_its_advantages(chain_runs):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (first_dir, first), _ = chain_runs
    [folder] = (first_dir / "board").iterdir()
    board = accumulator.EventAccumulator(str(folder))
    board.Reload()
    texts = [
        event.tensor_proto.string_val[0].decode() for event in board.Tensors("train/generated_samples/text_summary")
    ]
    rows = list(rollouts.read(first_dir / "run"))
    assert len(texts) == 2
    for step, text in enumerate(texts, 1):
        assert any(row["step"] == step and f"[{row['segment_advantages'][0]:+.2f}|" in text for row in rows)
    assert [event.value for event in board.Scalars("train/rollout/reward_mean")] == pytest.approx(
        [metrics["rollout/reward_mean"] for metrics in first["steps"]]
    )


def test_the_same_seed_gives_the_same_run(chain_runs):
    (first_dir, first), (second_dir, second) = chain_runs
    assert len(first["steps"]) == 2
    for one, two in zip(first["steps"], second["steps"]):
        assert one.keys() == two.keys()
        for name in one:
            if not name.startswith(("timing/", "rollout/logprob_gap_")) and name not in (
                "rollout/cached_tokens",
                "rollout/cache_hit_rate",
            ):
                assert one[name] == two[name], name
    one, two = stack.weights(first_dir / "model"), stack.weights(second_dir / "checkpoints" / "global_step2_hf")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert first["evals"] == second["evals"][:2] and len(first["evals"]) == 2


def test_a_reward_that_fails_while_training_stops_the_run_with_one_line(chain_runs):
    last_line = chain_runs[1][1]["stdout"].splitlines()[-1]
    assert last_line.startswith("spo-train: error: --reward.remote_url") and "answer sheet" in last_line
    assert not chain_runs[1][1]["summary"]["finished"]


def test_sigterm_saves_and_the_next_start_ends_where_the_unbroken_run_does(task, chain_runs, tmp_path):
    first_dir, first = chain_runs[0]
    changes = dict(
        actor__lr_scheduler="constant",
        eval__dataset=task / "test.jsonl",
        eval__temperature=0,
        eval__n_samples_per_prompt=1,
        spo__resume="auto",
        ckpt__path=None,
        reward__remote_url=tmp_path / "reward.py",
    )
    # The same rewards, and a step that lasts until the signal has come: a run that ends before it sees one has finished.
    (tmp_path / "reward.py").write_text(
        f"{stack.COIN_REWARD.read_text()}\n\n"
        "import os\nimport time\n\nquick_reward = reward_func\n\n\n"
        "def reward_func(queries, prompts, labels):\n"
        f"    time.sleep(os.path.exists({str(tmp_path / 'slowly')!r}))\n"
        "    return quick_reward(queries, prompts, labels)\n"
    )
    (tmp_path / "slowly").touch()
    process = stack.start(stack.options(task, tmp_path, **changes))
    stack.wait_for_events(process, tmp_path, "eval", 1)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    stopped = stack.finish(process, tmp_path, status=75)
    print(f"SIGTERM: ended after {time.monotonic() - began:.1f} s, {stopped['stdout'].splitlines()[-1]}")
    (tmp_path / "slowly").unlink()
    [checkpoint] = (tmp_path / "run" / "checkpoints").iterdir()
    assert f"SIGTERM ended the run; the checkpoint is {checkpoint}" in stopped["stdout"].splitlines()[-1]
    assert not stopped["summary"]["finished"] and stopped["summary"]["steps"] == 1
    resumed = stack.train(stack.options(task, tmp_path, **changes), tmp_path)
    assert f"goes on from {checkpoint}, the newest whole checkpoint" in resumed["stdout"]
    assert resumed["summary"]["finished"] and resumed["summary"]["steps"] == 2
    stack.assert_same_run(first_dir, first, tmp_path, resumed)


def test_the_summary_and_the_terminal_say_what_happened(chain_runs):
    run = chain_runs[0][1]
    summary = run["summary"]
    assert summary["finished"] and summary["steps"] == 2
    assert summary["mc_tokens"] == sum(metrics["rollout/mc_tokens"] for metrics in run["steps"]) > 0
    assert summary["generated_tokens"] > summary["mc_tokens"]
    assert sum(summary["seconds_by_phase"].values()) == pytest.approx(summary["seconds_total"], rel=0.05)
    assert len(run["stdout"].splitlines()) < 25 and "held-out accuracy" in run["stdout"]
    assert (
        run["config"]["algo.advantage.estimator"] == "spo_chain" and run["config"]["critic.model_name_or_path"] is None
    )


@pytest.fixture(scope="module")
def group_run(task, tmp_path_factory):
    """GRPO through the same command, on two policy ranks, with the mask, the KL loss and a reference model.

    Interrupted after two steps. `run`: as stack.finish; `started`: its processes; `left`: those that are still there.
    """
    changes = dict(
        spo__mode="group",
        spo__mc_rollouts=None,
        spo__prob_mask=True,
        spo__kl_scope="masked",
        spo__prob_threshold=0.002,
        algo__kl__use_loss=True,
        algo__kl__estimator="k3",
        algo__kl__init_coef=0.01,
        train__num_episodes=50,
        train__colocate_all=None,
        actor__num_gpus_per_node=2,
        ref__num_gpus_per_node=2,
        train__colocate_actor_ref=True,
    )
    run_dir = tmp_path_factory.mktemp("group")
    process = stack.start(stack.options(task, run_dir, **changes))
    stack.wait_for_events(process, run_dir, "step", 2)
    started = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGINT)
    run = stack.finish(process, run_dir, status=130)
    left = [child for child in started if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    return SimpleNamespace(run=run, started=started, left=left)


def test_group_mode_with_mask_and_masked_kl(group_run):
    steps = group_run.run["steps"]
    for metrics in steps:
        assert metrics["rollout/mc_tokens"] == 0 and 0 < metrics["mask_density"] < 0.9
        assert metrics["rollout/logprob_gap_max"] < 1e-3 and metrics["actor_grad_norm"] > 0
    assert steps[1]["kl"] > steps[0]["kl"] >= 0


def test_interrupt_leaves_nothing_running(group_run):
    assert "interrupted" in group_run.run["stdout"].splitlines()[-1]
    assert len(group_run.started) > 5 and group_run.left == []
    assert not group_run.run["summary"]["finished"]


def test_continuations_are_trained_too(task, tmp_path):
    """With the segment ratio level, two policy ranks, two engines and a batch that continuations have to fill."""
    changes = dict(
        spo__train_continuations=True,
        spo__ratio_level="segment",
        train__batch_size=16,
        train__colocate_all=None,
        actor__num_gpus_per_node=2,
        ref__num_gpus_per_node=2,
        train__colocate_actor_ref=True,
        vllm__num_engines=2,
    )
    run = stack.train(stack.options(task, tmp_path, **changes), tmp_path)
    assert len(run["steps"]) == 2
    for metrics in run["steps"]:
        trained, known = metrics["continuations/trained"], metrics["continuations/with_advantage"]
        assert 0 < trained <= known < trained + 16 and trained <= metrics["rollout/mc_continuations"]
        samples = 32 - metrics["continuations/left_out_responses"] + trained
        assert metrics["rollout/num_samples"] == samples and samples % 16 == 0
        # Context is no action: a prefix under the loss would have engine log-probs of 0.
        assert metrics["rollout/logprob_gap_max"] < 1e-3 and metrics["actor_grad_norm"] > 0
        assert metrics["rollout/mc_states"] == round(metrics["segments"] * 32) - 32, (
            "metrics are those of the responses"
        )
