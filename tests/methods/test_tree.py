"""From a tree to samples: each trained node once, on its own tokens, with its prefix as context."""

from dataclasses import replace
from types import SimpleNamespace

import documented
import numpy as np
import pytest
from prompt_jobs import rollout

from spo_rlhf.config import SpoConfig
from spo_rlhf.core import tree as core
from spo_rlhf.core.partition import PARTITIONS
from spo_rlhf.core.tree import TokenTree
from spo_rlhf.core.tree_baselines import Shrunk
from spo_rlhf.core.tree_cuts import AtBoundaries
from spo_rlhf.core.tree_plan import PlannedShape
from spo_rlhf.core.values import Prior
from spo_rlhf.errors import UserError
from spo_rlhf.methods.base import TrainerServices
from spo_rlhf.methods.tree import IDLE_ITERATIONS, NodeSupply, Tree, node_samples, tree_metrics
from spo_rlhf.rollout.records import Rollout, RolloutCounts
from spo_rlhf.trainer.events import Reporter

MEAN = core.ADVANTAGES["mean"]


@pytest.fixture
def grown() -> Rollout:
    """Prompt [7, 8]; A is expanded into a right and a wrong leaf, B and C are leaves of value 0.5 and 0.5."""
    tree = TokenTree(prompt_ids=[7, 8])
    a = tree.add(0, [1, 2], [-0.1, -0.2])
    for parent, tokens, reward, truncated in ((0, [3], 0.5, False), (a, [4, 0], 1.0, False), (a, [5, 5, 5], 0.0, True)):
        leaf = tree.add(parent, tokens, [-float(token) for token in tokens])
        tree.reward_N[leaf], tree.truncated_N[leaf] = reward, truncated
    return Rollout("prompt", "label", 3, 5, RolloutCounts(), tree=tree)


def test_a_trained_node_is_a_sample_of_its_own(grown) -> None:
    right, wrong = node_samples(grown, MEAN)
    assert (right.adv_T, wrong.adv_T) == ([0.5] * 2, [-0.5] * 3), (
        "A and B have the value of the prompt: nothing to train"
    )
    assert right.token_ids == [7, 8, 1, 2, 4, 0] and right.action_ranges == [(4, 6)] and right.boundaries == [0, 2]
    assert right.logprobs == [0.0] * 4 + [-4.0, 0.0]
    assert wrong.token_ids == [7, 8, 1, 2, 5, 5, 5] and wrong.truncated and not right.truncated
    assert right.reward == 1.0 and right.logs == {"weight_version": 5.0, "level": 2.0}


def test_every_node_with_an_advantage_comes_once(grown) -> None:
    grown.tree.reward_N[2] = 0.25
    samples = node_samples(grown, core.ADVANTAGES["loo"])
    assert [one.action_ranges[0] for one in samples] == [(2, 4), (2, 3), (4, 6), (4, 7)]
    value_N = core.values(grown.tree.parent_N, grown.tree.reward_N)
    adv_N = core.advantages(grown.tree.parent_N, value_N, "loo")
    assert [one.adv_T[0] for one in samples] == adv_N[1:].tolist()
    assert [one.reward for one in samples] == value_N[1:].tolist()


def test_a_node_has_the_weight_of_its_level(grown) -> None:
    assert [one.weight for one in node_samples(grown, MEAN)] == [1.0, 1.0]
    weighed = node_samples(grown, core.ADVANTAGES["loo"](), weight_L=[1.5, 0.5])
    assert [(one.logs["level"], one.weight) for one in weighed] == [(2.0, 0.5), (2.0, 0.5)]


def test_what_was_known_of_the_prompt_moves_the_roots_children(grown) -> None:
    known = replace(grown, prior=Prior(mean=0.0, count=1.0))
    samples = node_samples(known, core.ADVANTAGES["loo"]())
    assert [one.adv_T[0] for one in samples] == pytest.approx([0.5 - 0.5 / 2, 0.5 - 0.5 / 2, 1.0, -1.0])
    assert known.outcomes() == [0.5, 0.5]


def test_metrics_are_means_over_leaves(grown) -> None:
    metrics = tree_metrics([grown, grown], Tree(segment_tokens=(2,)))
    assert metrics["rollout/reward_mean"] == pytest.approx(0.5)
    assert metrics["rollout/reward_std"] == pytest.approx(np.std([0.5, 1, 0]))
    assert metrics["rollout/response_length_mean"] == pytest.approx((1 + 4 + 5) / 3)
    assert metrics["rollout/truncated_rate"] == pytest.approx(1 / 3)
    assert metrics["tree/zero_advantage_nodes"] == 0.5 and metrics["tree/nodes_per_tree"] == 4
    assert metrics["tree/leaves_per_tree"] == 3


def supply(batch_size: int, method: Tree | None = None) -> NodeSupply:
    args = SimpleNamespace(
        train=SimpleNamespace(seed=0, batch_size=batch_size),
        rollout=SimpleNamespace(batch_size=2, n_samples_per_prompt=8),
        ckpt=SimpleNamespace(path="unused"),
        algo=SimpleNamespace(kl=SimpleNamespace(init_coef=0.0)),
        spo=SpoConfig(),
    )
    services = TrainerServices(
        args=args,
        to_experience=lambda rollout, one: one,
        add_log_probs=lambda samples: None,
        from_fields=dict,
        reporter=Reporter(),
    )
    return (method or Tree(replay_max_age=1, replay_per_prompt=0)).supply(services)


def test_trees_that_never_fill_a_batch_end_the_run(grown) -> None:
    waiting = supply(batch_size=4)
    for iteration in range(IDLE_ITERATIONS - 1):
        assert waiting.exchange([grown], iteration)[0] == []
    with pytest.raises(UserError, match="--train.batch_size 4: not filled in 8 iterations, each with 2 nodes"):
        waiting.exchange([grown], IDLE_ITERATIONS - 1)


@pytest.mark.parametrize("broken_off", [1, IDLE_ITERATIONS - 1])
def test_a_run_that_goes_on_ends_where_the_unbroken_one_would(grown, tmp_path, broken_off) -> None:
    waiting = supply(batch_size=4)
    for iteration in range(broken_off):
        waiting.exchange([grown], iteration)
    waiting.replay.entries.clear()  # too old in the next iteration, and no records of tensors here
    waiting.save(tmp_path)
    resumed = supply(batch_size=4)
    resumed.load(tmp_path)
    for iteration in range(broken_off, IDLE_ITERATIONS - 1):
        resumed.exchange([grown], iteration)
    with pytest.raises(UserError, match="not filled in 8 iterations"):
        resumed.exchange([grown], IDLE_ITERATIONS - 1)


def test_a_batch_in_between_starts_the_count_anew(grown) -> None:
    waiting = supply(batch_size=4)
    for iteration in range(3 * IDLE_ITERATIONS):
        trees = [grown, replace(grown, slot=4)] if iteration % 5 == 4 else [grown]
        assert len(waiting.exchange(trees, iteration)[0]) == (4 if iteration % 5 == 4 else 0)


PLANNED = Tree(
    branching=(2, 2),
    segment_tokens=(2,),
    shaping=PlannedShape(every=2, explore=0, spend=1),
    advantage=core.ADVANTAGES["shrunk"](branching=(2, 2)),
    level_weights=True,
    replay_max_age=1,
)


def planned_tree(method: Tree, slot: int = 3) -> Rollout:
    return rollout(method, 0, slot=slot, prior=Prior(0.5, 2.0))


def test_a_planned_shape_holds_from_the_next_iteration_on_and_is_that_of_advantages_and_weights() -> None:
    planning = supply(4, PLANNED)
    assert planning.method_of(0, 0).shape == core.TreeShape((2, 2), (2,))
    for iteration in range(2):
        trees = [planned_tree(planning.method_of(slot, iteration), slot) for slot in range(8)]
        assert {one.tree.shape for one in trees} == {core.TreeShape((2, 2), (2,))}, "that of the options until a plan"
        _, metrics = planning.exchange(trees, iteration)
    shape = planning.method_of(0, 2).shape
    assert shape.settled is not None and (metrics["plan/children"], metrics["plan/leaves"]) == shape.branching
    assert documented.undocumented({name for name in metrics if name.startswith("plan/")}) == set()
    assert metrics["plan/cut"] == shape.segment_tokens[0] and metrics["plan/trees"] == 8
    assert (
        0
        < metrics["plan/settled_quarter"]
        <= metrics["plan/settled_half"]
        <= metrics["plan/settled_three_quarters"]
        < 1
    )
    # Whatever the options say by now: a tree that waited has the advantages of its own shape.
    other = core.TreeShape((3, 4), (1,), (0.2,))
    grown = planned_tree(replace(PLANNED, planned=other))
    assert grown.tree.shape == other
    value_N = core.values(grown.tree.parent_N, grown.tree.reward_N)
    expected = core.advantages(grown.tree.parent_N, value_N, Shrunk(branching=(3, 4), settled=(0.2,)), grown.prior)
    np.testing.assert_array_equal(PLANNED.node_advantages(grown.tree, grown.prior), expected)
    weights = {one.logs["level"]: one.weight for one in planning.exchange([grown, grown], 2)[0]}
    assert weights.items() <= {1.0: 7.5 / 3, 2.0: 7.5 / 12}.items()


def test_a_plan_is_part_of_a_checkpoint(tmp_path) -> None:
    planning, going_on = supply(4, PLANNED), supply(4, PLANNED)
    for iteration in range(3):
        planning.exchange([planned_tree(planning.method_of(slot, iteration), slot) for slot in range(8)], iteration)
    planning.replay.entries = []  # records without tensors
    planning.save(tmp_path)
    going_on.load(tmp_path)
    assert going_on.planner.state() == planning.planner.state() and going_on.planner.now == planning.planner.now


def test_without_a_planned_shape_all_trees_have_the_one_of_the_options() -> None:
    method = Tree(branching=(2, 2), segment_tokens=(2,))
    assert supply(4, method).method_of(7, 3) is method


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"branching": (4, 2, 2)}, "needs two levels of two or more children to begin with, as 4,2; not 4,2,2"),
        ({"branching": (1, 2)}, "needs two levels"),
        ({"advantage": core.ADVANTAGES["mean"]}, "needs --spo.tree_advantage loo or shrunk"),
        ({"level_weights": False}, "and --spo.tree_level_weights"),
        (
            {"cuts": AtBoundaries(partition=PARTITIONS["newline"]()), "segment_tokens": None},
            "needs --spo.tree_cuts tokens",
        ),
    ],
)
def test_a_plan_that_would_mean_another_gradient_is_refused(changes, what) -> None:
    options = {
        "spo.mode": "tree",
        "spo.baseline": "group",
        "spo.tree_advantage": "x",
        "reward.remote_url": "r.py",
        "data.max_images_per_prompt": 0,
    }
    PLANNED.refuse(options, set())
    with pytest.raises(UserError, match=what):
        replace(PLANNED, **changes).refuse(options, set())
