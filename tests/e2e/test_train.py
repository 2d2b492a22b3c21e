"""spo-train on the real stack: Ray, vLLM, DeepSpeed, nothing of it mocked."""

import math
import os
import signal
import time

import psutil
import pytest
import stack
import torch

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=8)


@pytest.fixture(scope="module")
def chain_runs(task, tmp_path_factory):
    """The same SPO-chain run twice, with evaluation before and after."""
    runs = []
    for name in ("first", "second"):
        run_dir = tmp_path_factory.mktemp(name)
        changes = dict(eval__dataset=task / "test.jsonl", eval__temperature=0, eval__n_samples_per_prompt=1)
        runs.append((run_dir, stack.train(stack.options(task, run_dir, **changes), run_dir)))
    return runs


def test_a_step_moves_the_weights_with_a_gradient(task, chain_runs):
    run_dir, run = chain_runs[0]
    before, after = stack.weights(task / "model"), stack.weights(run_dir / "model")
    assert before.keys() <= after.keys(), "a tied output layer is saved as well"
    assert all(not torch.equal(before[name].float(), after[name].float()) for name in before)
    for metrics in run["steps"]:
        assert metrics["actor_grad_norm"] > 0 and math.isfinite(metrics["policy_loss"])
        assert not [name for name, value in metrics.items() if math.isnan(value)]


def test_engine_and_actor_agree_after_every_sync(chain_runs):
    """Each batch is sampled after a sync (the first one with the initial weights) and scored by the actor before it steps."""
    for metrics in chain_runs[0][1]["steps"]:
        assert 0 < metrics["rollout/logprob_gap_max"] < 1e-3
    assert [metrics["weight_version"] for metrics in chain_runs[0][1]["steps"]] == [0, 1]


def test_monte_carlo_is_what_the_partition_says(chain_runs):
    for metrics in chain_runs[0][1]["steps"]:
        samples, rollouts = 32, 3
        inner_states = round(metrics["segments"] * samples) - samples
        assert metrics["rollout/mc_states"] == inner_states > 0
        assert metrics["rollout/mc_requests"] <= inner_states
        assert metrics["rollout/mc_continuations"] == rollouts * metrics["rollout/mc_requests"]
        assert metrics["rollout/cached_tokens"] > 0, "continuations did not share their prefix"


def test_the_same_seed_gives_the_same_run(chain_runs):
    (first_dir, first), (second_dir, second) = chain_runs
    for one, two in zip(first["steps"], second["steps"], strict=True):
        for name in one:
            if not name.startswith("timing/") and name not in (
                "rollout/logprob_gap_max",
                "rollout/cached_tokens",
                "rollout/cache_hit_rate",
            ):
                assert one[name] == two[name], name
    one, two = stack.weights(first_dir / "model"), stack.weights(second_dir / "model")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert first["evals"] == second["evals"] and len(first["evals"]) == 2


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


def test_group_mode_with_mask_and_masked_kl(task, tmp_path):
    """GRPO through the same command, on two policy ranks and two engines, with the mask, the KL loss and a reference model."""
    changes = dict(
        spo__mode="group",
        spo__mc_rollouts=None,
        spo__prob_mask=True,
        spo__kl_scope="masked",
        spo__prob_threshold=0.002,
        algo__kl__use_loss=True,
        algo__kl__estimator="k3",
        algo__kl__init_coef=0.01,
        train__colocate_all=None,
        actor__num_gpus_per_node=2,
        ref__num_gpus_per_node=2,
        train__colocate_actor_ref=True,
        vllm__num_engines=2,
    )
    run = stack.train(stack.options(task, tmp_path, **changes), tmp_path)
    assert len(run["steps"]) == 2
    for metrics in run["steps"]:
        assert metrics["rollout/mc_tokens"] == 0 and 0 < metrics["mask_density"] < 0.9
        assert metrics["rollout/logprob_gap_max"] < 1e-3 and metrics["actor_grad_norm"] > 0
    assert run["steps"][1]["kl"] > run["steps"][0]["kl"] >= 0


def test_continuations_are_trained_too(task, tmp_path):
    """With the segment ratio level, two policy ranks and a batch that continuations have to fill."""
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


def test_interrupt_leaves_nothing_running(task, tmp_path):
    process = stack.start(stack.options(task, tmp_path, train__num_episodes=50))
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not (metrics.exists() and '"event": "step"' in metrics.read_text()):
        assert process.poll() is None, process.stdout.read() + process.stderr.read()
        time.sleep(1)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) > 5
    os.kill(process.pid, signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in stdout.splitlines()[-1]
    assert [child for child in started if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    assert '"finished": false' in (tmp_path / "run" / "summary.json").read_text()


def test_a_reward_that_fails_while_training_stops_the_run_with_one_line(task, tmp_path):
    reward = tmp_path / "reward.py"
    # An empty response is graded before the engines start; this one fails on the first real response.
    reward.write_text(
        "def reward_func(queries, prompts, labels):\n"
        "    if len(queries[0]) > len(prompts[0]):\n"
        "        raise KeyError('answer sheet')\n"
        "    return {'rewards': [0.0]}\n"
    )
    process = stack.start(stack.options(task, tmp_path, reward__remote_url=reward))
    stdout, stderr = process.communicate(timeout=stack.LIMIT_S)
    assert process.returncode == 2, stdout + stderr
    assert stdout.splitlines()[-1].startswith("spo-train: error: --reward.remote_url") and "answer sheet" in stdout
    assert "Traceback" not in stdout + stderr
