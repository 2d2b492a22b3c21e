"""Ratio units, entropy clip and mismatch correction on the real stack: two policy ranks, two engines, two optimizer steps."""

import math

import pytest
import stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_units_entropies_and_corrections_reach_the_loss(tmp_path):
    task = stack.make_task(tmp_path / "task", train=16, test=8)
    changes = dict(
        spo__ratio_level="segment",
        spo__entropy_clip=0.5,
        spo__clip_low=0.01,
        spo__clip_high=0.02,
        spo__dual_clip=3,
        algo__advantage__is_correction_level="token",
        algo__advantage__is_correction_mode="mask",
        spo__partition="segments",
        spo__segment_count=3,
        train__batch_size=16,
        train__micro_batch_size=4,
        train__colocate_all=None,
        train__colocate_actor_ref=True,
        actor__num_gpus_per_node=2,
        ref__num_gpus_per_node=2,
        vllm__num_engines=2,
        **{"no-spo__prob_mask": True},
    )
    run = stack.train(stack.options(task, tmp_path, **changes), tmp_path)
    assert len(run["steps"]) == 2 and run["config"]["actor.eps_clip_low_high"] == [0.01, 0.02]
    for metrics in run["steps"]:
        # Every token is trained, so the units are the segments; the second optimizer step is off ratio 1.
        assert metrics["ratio/units_per_response"] == pytest.approx(metrics["segments"])
        assert metrics["ratio/min"] < 0.99 and metrics["ratio/max"] > 1.02
        assert metrics["ratio/kept_responses"] + metrics["ratio/clipped_responses"] <= 1
        assert 0.5 < metrics["ratio/effective_sample_size"] < 1
        assert 0 < metrics["entropy"] < math.log(512) and 0.5 < metrics["clip_scale"] < 1.5
        # Engine and actor agree on this machine: nothing is filtered.
        assert metrics["is_filter_ratio"] == 0 and abs(metrics["vllm_kl"]) < 1e-3
    # A random model rarely ends a response in time, so few segments have an advantage that a clip could act on.
    for clipped in ("ratio/clipped_units", "ppo_clip_ratio"):
        assert 0 < sum(metrics[clipped] for metrics in run["steps"]) < 1
