"""--train.async_enable on the real stack: what is sampled while the policy trains is one update old, and nothing is lost or mixed."""

import collections
import os
import signal

import pytest
import run_processes
import stack

from spo_rlhf import rollouts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
PROMPTS, BATCH = 32, 8
MODES = {
    "group": {"spo.mode": "group", "spo.mc_rollouts": None},
    "chain": {"spo.mc_rollouts": 2},
    "tree": {**stack.TREE, "spo.replay_max_age": 1, "rollout.batch_size": BATCH},
}
EQUAL = ("rollout/reward_mean", "rollout/total_tokens", "trained_tokens")
# Their old log-probs are the engine's, whose last bits depend on what it computes together.
ALIKE = ("policy_loss", "actor_grad_norm")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return stack.make_task(tmp_path_factory.mktemp("task"), train=PROMPTS, test=4)


def options(task, run_dir, mode, **changes):
    settings = {
        "train.colocate_all": None,
        "rollout.batch_size": BATCH,
        "rollout.max_new_tokens": 64,  # so that many responses end, and have advantages
        "spo.save_rollouts": BATCH,
        **MODES[mode],
        **changes,
    }
    return stack.options(task, run_dir, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_batch_is_sampled_while_the_one_before_trains(mode, task, tmp_path):
    alternating_dir, ahead_dir = tmp_path / "alternating", tmp_path / "ahead"
    evaluated = {"eval.dataset": task / "test.jsonl", "eval.steps": 2, "eval.n_samples_per_prompt": 1}
    alternating = stack.train(
        options(task, alternating_dir, mode, **evaluated, **{"spo.old_logprobs": "engine"}), alternating_dir
    )
    ahead = stack.train(options(task, ahead_dir, mode, **evaluated, **{"train.async_enable": True}), ahead_dir)
    steps = ahead["steps"]
    assert len(steps) == len(alternating["steps"]) == PROMPTS // BATCH
    assert [one["rollout/staleness_max"] for one in steps] == [0, 1, 1, 1]
    assert [one["rollout/staleness_mean"] for one in steps] == [0, 1, 1, 1]
    assert [one["weight_version"] for one in steps] == [0, 0, 1, 2]
    assert {one["rollout/staleness_max"] for one in alternating["steps"]} == {0}
    # What is sampled before the first update is the same, and so is the first step.
    first, other = steps[0], alternating["steps"][0]
    assert {name: first[name] for name in EQUAL} == {name: other[name] for name in EQUAL}
    assert [first[name] for name in ALIKE] == pytest.approx([other[name] for name in ALIKE], rel=1e-5, abs=1e-6)
    assert ahead["evals"][0] == alternating["evals"][0] and len(ahead["evals"]) == len(alternating["evals"]) == 3
    assert all(one["rollout/requests"] == one["rollout/answers"] for one in alternating["steps"])
    requests = sum(one["rollout/requests"] for one in steps)
    assert requests == sum(one["rollout/answers"] for one in steps)
    kept = list(rollouts.read(ahead_dir / "run"))
    prompts = {(row["step"], row["prompt"]) for row in kept}
    assert len(prompts) == PROMPTS == len({prompt for _, prompt in prompts}), "each prompt once"
    assert {(row["step"], row["weight_version"]) for row in kept} == {(1, 0), (2, 0), (3, 1), (4, 2)}
    order = {(row["step"], row["prompt"]) for row in rollouts.read(alternating_dir / "run")}
    assert prompts == order, "in the order of the data"
    assert ahead["config"]["spo.old_logprobs"] == "engine"


@pytest.mark.slow
def test_where_a_pass_of_the_actor_is_needed_openrlhfs_correction_stands_for_the_updates_between(task, tmp_path):
    needs = {"spo.mode": "probe", "spo.mc_rollouts": None, "algo.kl.init_coef": 0.01}
    run = stack.train(options(task, tmp_path, "group", **needs, **{"train.async_enable": True}), tmp_path)
    assert [one["rollout/staleness_max"] for one in run["steps"]] == [0, 1, 1, 1]
    assert run["config"]["spo.old_logprobs"] == "actor"
    trained = [one for one in run["steps"] if "trained_tokens" in one]
    assert trained and all("vllm_kl" in one and 0 <= one["is_filter_ratio"] < 1 for one in trained)


def test_responses_go_on_after_new_weights_with_the_version_of_every_token(task, tmp_path):
    parts = {
        "train.async_enable": True,
        "train.partial_rollout_enable": True,
        "rollout.max_new_tokens": 160,
        "spo.max_num_seqs": 6,  # so that the batch behind the next is in flight when that is there
        "train.num_episodes": 2,
        # Weights that hardly change, and the actor's log-probs beside the engine's.
        "actor.adam.lr": 1e-9,
        "spo.old_logprobs": "actor",
    }
    run = stack.train(options(task, tmp_path, "group", **parts), tmp_path)
    steps, kept = run["steps"], list(rollouts.read(tmp_path / "run"))
    assert len(steps) == 2 * PROMPTS // BATCH and max(one["rollout/staleness_max"] for one in steps) <= 2
    assert sum(one["rollout/requests"] for one in steps) == sum(one["rollout/answers"] for one in steps)
    mixed = [row for row in kept if len(set(row["token_versions"])) > 1]
    assert mixed, "no weights came while requests were in flight"
    for row in kept:
        versions = row["token_versions"]
        assert len(versions) == len(row["token_ids"]) == len(row["logprobs"])
        assert versions == sorted(versions) and row["step"] - 3 <= versions[0] and versions[-1] <= row["step"] - 1
    assert max(one["policies"] for one in steps) > 1
    assert all(one["rollout/logprob_gap_max"] < 1e-3 for one in steps if "trained_tokens" in one), (
        "a part is out of its place"
    )


@pytest.mark.slow
def test_an_engine_killed_at_work_and_a_signal_with_a_batch_in_flight_lose_no_prompt(task, tmp_path):
    episodes = 8
    settings = {
        "train.async_enable": True,
        "vllm.num_engines": 2,
        "train.num_episodes": episodes,
        "ckpt.save_steps": 5,
        "spo.resume": "auto",
        "spo.save_rollouts_mb": 1024,
    }
    arguments = options(task, tmp_path, "chain", **settings)
    process = stack.start(arguments)
    try:
        stack.wait_for_events(process, tmp_path, "step", 2)
        engine = run_processes.named(process.pid, run_processes.ENGINE)[0]
        run_processes.wait_for(lambda: engine.cmdline()[0].endswith(".rollout"), 60, "the engine never had a request")
        run_processes.kill(engine, "an engine at work")
        stack.wait_for_events(process, tmp_path, "step", len(stack.events(tmp_path, "step")) + 4)
        os.kill(process.pid, signal.SIGTERM)
        stack.finish(process, tmp_path, status=75)
        process = stack.start(arguments)
        run = stack.finish(process, tmp_path)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    steps = stack.events(tmp_path, "step")
    assert [event["step"] for event in steps] == list(range(1, episodes * PROMPTS // BATCH + 1)), "each step once"
    assert run["summary"]["engine_restarts"] == 1
    assert all(event["metrics"]["rollout/staleness_max"] <= 1 for event in steps)
    assert sum(event["metrics"]["rollout/staleness_max"] == 0 for event in steps) <= 2, (
        "at the start, and where it goes on"
    )
    prompts = collections.Counter(
        prompt for _, prompt in {(row["step"], row["prompt"]) for row in rollouts.read(tmp_path / "run")}
    )
    assert prompts == dict.fromkeys(prompts, episodes) and len(prompts) == PROMPTS, "each prompt once an episode"
