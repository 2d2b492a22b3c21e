"""SPO-tree on the real stack: what is trained, what waits, and a run that goes on from its checkpoint."""

import json
import shutil

import pytest
import stack

from spo_rlhf.core.tree_baselines import level_weights

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
MAX_AGE, BATCH = 2, 8
# Used up in the fourth of the eight iterations that four passes over the prompts would be.
BUDGET, STEPS = 8400, 4


def options(task, run_dir, **changes):
    replay = {"spo.replay_max_age": MAX_AGE, "spo.replay_per_prompt": 4}
    settings = {"ckpt.save_steps": 2, "train.num_episodes": 4, "spo.token_budget": BUDGET}
    credit = {"spo.tree_advantage": "shrunk", "spo.tree_level_weights": True, "spo.baseline": "history"}
    # About the median probability of the most likely token; hardly a sampled one is as likely, and trained would be all.
    credit |= {"spo.hesitation": "state", "spo.prob_threshold": 0.0115}
    return stack.options(task, run_dir, **{**stack.TREE, **replay, **settings, **credit, **changes})


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return stack.make_task(tmp_path_factory.mktemp("task"), train=8, test=8)


@pytest.fixture(scope="module")
def unbroken(task, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("unbroken")
    return run_dir, stack.train(options(task, run_dir), run_dir)


def test_every_node_is_trained_once_waits_or_is_counted(unbroken):
    _, run = unbroken
    assert len(run["steps"]) == STEPS
    new = trained = 0
    for metrics in run["steps"]:
        new, trained = new + metrics["replay/new"], trained + metrics["replay/trained"]
        assert new == trained + metrics["replay/waiting"] + metrics["replay/expired"]
        assert metrics["replay/trained"] == BATCH == sum(metrics[f"replay/age_{age}"] for age in range(MAX_AGE))
        assert metrics["replay/new"] == round((1 - metrics["tree/zero_advantage_nodes"]) * metrics["rollout/nodes"])
    assert sum(metrics["replay/age_1"] for metrics in run["steps"]) > 0, "nothing waited for the next iteration"
    assert run["steps"][-1]["replay/expired"] > 0 and "grew too old" in run["stdout"]


def test_trees_share_their_tokens(unbroken):
    for metrics in unbroken[1]["steps"]:
        assert metrics["rollout/trees"] == 4 and 4 * 4 < metrics["rollout/nodes"] <= 4 * (4 + 16 + 48)
        assert metrics["rollout/saved_tokens"] > 0 and metrics["rollout/cache_hit_rate"] > 0.3
        assert metrics["rollout/mc_tokens"] == 0 and metrics["rollout/duplicate_siblings"] >= 0
        assert 0 < metrics["mask_density"] < 0.98 and metrics["actor_grad_norm"] > 0


def test_the_second_epoch_knows_the_prompts(unbroken):
    """Two iterations of four prompts are an epoch, and its end, where no prompt is left, takes a number of its own."""
    steps = unbroken[1]["steps"]
    assert [metrics["history/known"] for metrics in steps] == [0, 0, 1, 1]
    assert [metrics["history/prompts"] for metrics in steps] == [4, 8, 8, 8]
    assert (
        steps[0]["history/strength"] == 1 < 4 < steps[2]["history/strength"] < 5
    )  # four children of a root, and older
    assert all(metrics["history/baseline_variance"] > 0 for metrics in steps)
    assert sum(metrics["history/age"] for metrics in steps[2:]) / 2 == pytest.approx(3)


def test_nodes_count_by_their_level(unbroken):
    """A step may have nodes of the last level alone, not every one."""
    weights, means = level_weights((4, 4, 3)), [metrics["loss_weight"] for metrics in unbroken[1]["steps"]]
    assert all(weights[2] - 1e-6 < mean < weights[0] for mean in means) and max(means) > weights[2] + 1e-3


def test_old_log_probs_are_those_of_the_time_of_sampling(unbroken):
    """The engine's and the actor's agree on every trained node, those that waited for an update included."""
    late = [metrics for metrics in unbroken[1]["steps"] if metrics["replay/age_1"]]
    for metrics in unbroken[1]["steps"]:
        assert 0 < metrics["rollout/logprob_gap_max"] < 1e-3
    for step, metrics in enumerate(unbroken[1]["steps"]):
        assert metrics["weight_version"] == pytest.approx(step - metrics["replay/age_1"] / BATCH)
    assert late and all(metrics["ppo_kl"] > 0 for metrics in late), "the policy has moved on since they were sampled"


def test_a_token_budget_ends_the_run(unbroken):
    _, run = unbroken
    totals = [metrics["rollout/total_tokens"] for metrics in run["steps"]]
    assert totals[-2] < BUDGET <= totals[-1] == run["summary"]["generated_tokens"] and run["summary"]["finished"]
    assert f"step {STEPS} (100% done)" in run["stdout"], "of the tokens, not of the steps"


def test_a_run_goes_on_from_its_checkpoint(task, unbroken, tmp_path):
    """From step 2, buffer included: the same trees, the same nodes, the same weights as the run that was not interrupted.

    Its budget is what both have generated, to the token, and what came before the checkpoint counts. The record goes on
    as well: the steps before the checkpoint stand in it, those that the checkpoint does not have are set aside.
    """
    unbroken_dir, whole = unbroken
    shutil.copytree(unbroken_dir / "checkpoints", tmp_path / "checkpoints")
    shutil.copytree(unbroken_dir / "run", tmp_path / "run")
    (tmp_path / "checkpoints" / f"global_step{STEPS}" / "replay.pt").unlink()
    budget = round(whole["steps"][-1]["rollout/total_tokens"])
    run = stack.train(options(task, tmp_path, ckpt__load_enable=True, spo__token_budget=budget), tmp_path)
    assert "no replay buffer" not in run["stdout"] and "no history" not in run["stdout"]
    assert f"global_step{STEPS} is not whole (replay.pt is missing)" in run["stdout"]
    assert "global_step2, the newest whole checkpoint" in run["stdout"]
    assert [event["first_step"] for event in stack.events(tmp_path, "plan")] == [0, 2]
    cut = (tmp_path / "run" / "metrics.cut.jsonl").read_text(encoding="utf-8").splitlines()
    assert [event["step"] for event in map(json.loads, cut) if event["event"] == "step"] == [3, 4]
    for name in ("steps", "generated_tokens", "mc_tokens", "finished"):
        assert run["summary"][name] == whole["summary"][name], name
    stack.assert_same_run(unbroken_dir, whole, tmp_path, run)


def test_a_buffer_that_is_gone_is_told(task, unbroken, tmp_path):
    shutil.copytree(unbroken[0] / "checkpoints", tmp_path / "checkpoints")
    manifest = tmp_path / "checkpoints" / f"global_step{STEPS}" / "checkpoint.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    del content["checksums"], content["record"]  # as an earlier version wrote it
    for name in ("replay.pt", "history.json"):
        del content["files"][name]
        (manifest.parent / name).unlink()
    manifest.write_text(json.dumps(content), encoding="utf-8")
    run = stack.train(
        options(task, tmp_path, ckpt__load_enable=True, train__num_episodes=1, spo__token_budget=None), tmp_path
    )
    assert "no replay buffer" in run["stdout"] and "no history of the prompts" in run["stdout"] and run["steps"] == []


def test_a_step_from_the_engines_log_probs_is_that_of_the_actors(task, unbroken, tmp_path):
    run = stack.train(options(task, tmp_path, spo__token_budget=1, spo__old_logprobs="engine"), tmp_path)
    [metrics], first = run["steps"], unbroken[1]["steps"][0]
    assert "rollout/logprob_gap_max" not in metrics and abs(metrics["ppo_kl"]) < 1e-4
    for name in ("policy_loss", "actor_grad_norm", "mask_density", "reward"):
        assert metrics[name] == pytest.approx(first[name], rel=1e-3, abs=1e-5), name


def test_packed_trees_have_the_engines_log_probs_and_the_references(task, tmp_path):
    """The log-prob pass of policy and reference, and training, on packed sequences: one iteration, with a KL term.

    The engine's log-probs are those of a computation of its own; the policy that has not moved is the reference.
    """
    budget = {"spo__token_budget": 1}
    packing = {"spo__pack_trees": "on", "spo__pack_tokens": 96, "algo__kl__init_coef": 0.1}
    run = stack.train(options(task, tmp_path, **budget, **packing), tmp_path)
    [metrics] = run["steps"]
    assert "--algo.kl.init_coef wants them" in run["stdout"]
    assert 0 < metrics["rollout/logprob_gap_max"] < 1e-3 and metrics["actor_grad_norm"] > 0
    assert 0 <= metrics["kl"] < 1e-8 and abs(metrics["ppo_kl"]) < 1e-8
    assert metrics["pack/tokens"] < metrics["pack/unpacked_tokens"] and metrics["pack/repeated"] >= 1
