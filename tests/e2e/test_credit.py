"""Credit of later kinds on the real stack: values from hidden states, trees that a partition cuts, shared prefixes."""

import math

import pytest
import stack

from spo_rlhf import rollouts

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_states_get_values_from_the_pass_that_is_made_anyway(tmp_path):
    task = stack.make_task(tmp_path / "task", train=32, test=8)
    changes = dict(
        spo__mode="probe",
        spo__probe_features=16,
        spo__probe_source="both",
        spo__partition="fixed",
        spo__segment_length=8,
        spo__mc_rollouts=None,
        train__batch_size=16,
        train__micro_batch_size=4,
        train__colocate_all=None,
        actor__num_gpus_per_node=2,
        vllm__num_engines=2,
        rollout__batch_size=16,
        rollout__n_samples_per_prompt=8,
        rollout__max_new_tokens=96,  # a random model ends one response in twenty by then
    )
    run = stack.train(stack.options(task, tmp_path, **changes), tmp_path)
    assert len(run["steps"]) == 2
    for metrics in run["steps"]:
        assert metrics["rollout/mc_tokens"] == 0 and metrics["actor_grad_norm"] > 0
        assert math.isfinite(metrics["probe/explained"]) and 0 <= metrics["probe/learned"] <= 1
        assert 0 < metrics["probe/gold_first"] < 1 and 0 < metrics["probe/gold_last"] < 1
        assert (
            0 < metrics["probe/gold_seconds"] < metrics["timing/make_experience"] and metrics["probe/gold_tokens"] > 0
        )
        assert metrics["samples_without_gradient"] < metrics["rollout/num_samples"]
    for row in rollouts.read(tmp_path / "run"):
        assert len(row["values"]) == len(row["boundaries"]) > 1
        # --spo.probe_trace 1: each segment against the value where it starts.
        expected = [row["reward"] - value for value in row["values"][:-1]]
        assert row["segment_advantages"] == pytest.approx(expected, abs=1e-4)


def test_trees_branch_where_the_policy_hesitates(tmp_path):
    task = stack.make_task(tmp_path / "task", train=16, test=8)
    changes = dict(
        spo__mode="tree",
        spo__tree_branching="3,2,2",
        spo__tree_cuts="partition",
        spo__cutpoint_interval=4,
        spo__hesitation="state",
        spo__tree_advantage="loo",
        spo__mc_rollouts=None,
        rollout__n_samples_per_prompt=16,
        algo__advantage__is_correction_level="token",
        algo__advantage__is_correction_mode="mask",
    )
    run = stack.train(stack.options(task, tmp_path, **changes), tmp_path)
    for metrics in run["steps"]:
        # Full trees: 3 nodes, 6 and 12 below; the first child of each came with its parent.
        assert metrics["tree/nodes_per_tree"] == 21 and metrics["tree/leaves_per_tree"] == 12
        assert metrics["rollout/logprob_gap_max"] < 1e-3 and metrics["actor_grad_norm"] > 0
        # Engine and actor agree: nothing is filtered.
        assert metrics["is_filter_ratio"] == 0 and abs(metrics["vllm_kl"]) < 1e-3


def test_trees_take_the_shape_that_earlier_trees_promise_most_of_and_a_running_policy_is_diagnosed(tmp_path):
    task = stack.make_task(tmp_path / "task", train=32, test=8)
    changes = stack.TREE | dict(
        spo__tree_branching="4,2",
        spo__tree_segment_tokens=8,
        spo__tree_shape="planned",
        spo__tree_plan_every=1,
        spo__tree_plan_spend=1,
        spo__tree_plan_explore=0.5,
        spo__tree_advantage="shrunk",
        spo__tree_level_weights=True,
        spo__diagnose_every=2,
        spo__diagnose_prompts=8,
        rollout__batch_size=8,
    )
    run = stack.train(stack.options(task, tmp_path, **changes), tmp_path)
    assert len(run["steps"]) > 1
    for step, metrics in enumerate(run["steps"], start=1):
        assert metrics["plan/children"] >= 2 and metrics["plan/leaves"] >= 2 and metrics["plan/trees"] > 0
        assert metrics["actor_grad_norm"] > 0 and metrics["rollout/logprob_gap_max"] < 1e-3
        assert ("diagnosis/generated_tokens" in metrics) == (step % 2 == 0)
    diagnosed = run["steps"][1]
    assert diagnosed["diagnosis/prompts"] == 8
    # Four responses to each prompt, and no fewer continuations; none of it counts as sampled for training.
    assert diagnosed["diagnosis/generated_tokens"] > 8 * 4 * 8 * 2
    assert diagnosed["rollout/total_tokens"] == sum(one["rollout/response_tokens"] for one in run["steps"][:2])
