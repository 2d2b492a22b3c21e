"""From a tree to samples: each trained node once, on its own tokens, with its prefix as context."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from spo_rlhf.config import SpoConfig
from spo_rlhf.core import tree as core
from spo_rlhf.core.tree import TokenTree
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
    metrics = tree_metrics([grown, grown], MEAN)
    assert metrics["rollout/reward_mean"] == pytest.approx(0.5)
    assert metrics["rollout/reward_std"] == pytest.approx(np.std([0.5, 1, 0]))
    assert metrics["rollout/response_length_mean"] == pytest.approx((1 + 4 + 5) / 3)
    assert metrics["rollout/truncated_rate"] == pytest.approx(1 / 3)
    assert metrics["tree/zero_advantage_nodes"] == 0.5 and metrics["tree/nodes_per_tree"] == 4
    assert metrics["tree/leaves_per_tree"] == 3


def supply(batch_size: int) -> NodeSupply:
    args = SimpleNamespace(
        train=SimpleNamespace(seed=0, batch_size=batch_size),
        rollout=SimpleNamespace(batch_size=2, n_samples_per_prompt=8),
        ckpt=SimpleNamespace(path="unused"),
        spo=SpoConfig(),
    )
    services = TrainerServices(
        args=args,
        to_experience=lambda rollout, one: one,
        add_log_probs=lambda samples: None,
        from_fields=dict,
        reporter=Reporter(),
    )
    return Tree(replay_max_age=1, replay_per_prompt=0).supply(services)


def test_trees_that_never_fill_a_batch_end_the_run(grown) -> None:
    waiting = supply(batch_size=4)
    for iteration in range(IDLE_ITERATIONS - 1):
        assert waiting.exchange([grown], iteration)[0] == []
    with pytest.raises(UserError, match="--train.batch_size 4: not filled in 8 iterations, each with 2 nodes"):
        waiting.exchange([grown], IDLE_ITERATIONS - 1)


def test_a_batch_in_between_starts_the_count_anew(grown) -> None:
    waiting = supply(batch_size=4)
    for iteration in range(3 * IDLE_ITERATIONS):
        trees = [grown, replace(grown, slot=4)] if iteration % 5 == 4 else [grown]
        assert len(waiting.exchange(trees, iteration)[0]) == (4 if iteration % 5 == 4 else 0)
