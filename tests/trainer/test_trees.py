"""From a tree to samples: each trained node once, on its own tokens, with its prefix as context."""

import numpy as np
import pytest

from spo_rlhf.core import tree as core
from spo_rlhf.core.tree import TokenTree
from spo_rlhf.rollout.prompt import RolloutCounts
from spo_rlhf.rollout.tree import GrownTree
from spo_rlhf.trainer.trees import node_responses, tree_metrics


@pytest.fixture
def grown() -> GrownTree:
    """Prompt [7, 8]; A is expanded into a right and a wrong leaf, B and C are leaves of value 0.5 and 0.5."""
    tree = TokenTree(prompt_ids=[7, 8])
    a = tree.add(0, [1, 2], [-0.1, -0.2])
    for parent, tokens, reward, truncated in ((0, [3], 0.5, False), (a, [4, 0], 1.0, False), (a, [5, 5, 5], 0.0, True)):
        leaf = tree.add(parent, tokens, [-float(token) for token in tokens])
        tree.reward_N[leaf], tree.truncated_N[leaf] = reward, truncated
    return GrownTree("prompt", "label", 3, 5, tree, RolloutCounts())


def test_a_trained_node_is_a_sample_of_its_own(grown) -> None:
    (right, right_adv), (wrong, wrong_adv) = node_responses(grown, "mean")
    assert (right_adv, wrong_adv) == (0.5, -0.5), "A and B have the value of the prompt: nothing to train"
    assert right["observation_tokens"] == [7, 8, 1, 2, 4, 0] and right["action_ranges"] == [(4, 6)]
    assert right["rollout_log_probs"] == [0.0] * 4 + [-4.0, 0.0]
    assert wrong["observation_tokens"] == [7, 8, 1, 2, 5, 5, 5] and wrong["truncated"] and not right["truncated"]
    assert right["reward"] == 1.0 and right["slot"] == 3
    assert right["extra_logs"] == {"weight_version": 5.0, "level": 2.0}


def test_every_node_with_an_advantage_comes_once(grown) -> None:
    grown.tree.reward_N[2] = 0.25
    responses = node_responses(grown, "loo")
    assert [response["action_ranges"][0] for response, _ in responses] == [(2, 4), (2, 3), (4, 6), (4, 7)]
    value_N = core.values(grown.tree.parent_N, grown.tree.reward_N)
    adv_N = core.advantages(grown.tree.parent_N, value_N, "loo")
    assert [adv for _, adv in responses] == adv_N[1:].tolist()
    assert [response["reward"] for response, _ in responses] == value_N[1:].tolist()


def test_metrics_are_means_over_leaves(grown) -> None:
    metrics = tree_metrics([grown.tree, grown.tree], "mean")
    assert metrics["rollout/reward_mean"] == pytest.approx(0.5)
    assert metrics["rollout/reward_std"] == pytest.approx(np.std([0.5, 1, 0]))
    assert metrics["rollout/response_length_mean"] == pytest.approx((1 + 4 + 5) / 3)
    assert metrics["rollout/truncated_rate"] == pytest.approx(1 / 3)
    assert metrics["tree/zero_advantage_nodes"] == 0.5 and metrics["tree/nodes_per_tree"] == 4
    assert metrics["tree/leaves_per_tree"] == 3
