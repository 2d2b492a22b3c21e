"""Rows of kept rollouts: what they say of a response, of a tree, and which prompts they are of."""

import json
import re

import numpy as np
import pytest
import torch
from documented import DOCS
from kept_toy import CHAIN, METHODS, THRESHOLD, keeping, rollout, rows

from spo_rlhf import upstream
from spo_rlhf.core import tree as core
from spo_rlhf.methods.tree import node_samples
from spo_rlhf.rollouts.rows import Trained, key, keys
from spo_rlhf.rollouts.schema import SCHEMA, Row
from spo_rlhf.trainer.kept import trained_samples


@pytest.mark.parametrize("name", METHODS)
def test_every_row_has_every_field_in_its_length(name):
    for row in rows(name):
        assert row.keys() == Row.__annotations__.keys()
        length, segments = len(row["token_ids"]), len(row["boundaries"]) - 1
        for field in ("token_texts", "logprobs", "mask", "cuts", "advantages"):
            assert len(row[field]) == length, field
        assert len(row["segment_advantages"]) == segments
        for field in ("values", "value_stderrs", "value_counts"):
            assert len(row[field]) == (0 if name == "group" else segments + 1), field
        assert row["response"] == "".join(row["token_texts"]) and row["weight_version"] == 5
        assert row["cuts"] == [int(np.exp(logprob) < THRESHOLD) for logprob in row["logprobs"]]
        assert row["mask"] == ([1] * length if name == "group" else row["cuts"])
        json.dumps(row, allow_nan=False)


def test_the_values_of_a_response_differ_by_its_advantages_and_end_in_its_reward():
    whole = rollout(CHAIN)
    made = keeping("chain").rows([whole], 3, {})
    assert [row["sample"] for row in made] == [1, 2, 3, 4]
    for row, sample in zip(made, whole.samples):
        np.testing.assert_allclose(np.diff(row["values"]), row["segment_advantages"], atol=2e-6)
        assert row["values"][-1] == row["reward"] == sample.reward
        assert row["value_counts"] == [3, *[3] * (len(row["values"]) - 2), 1], "others' rewards, continuations, its own"
        others = [other.reward for other in whole.samples if other is not sample]
        assert row["value_stderrs"][0] == pytest.approx(np.std(others, ddof=1) / np.sqrt(3), abs=1e-6)
        assert {"name": "reward", "value": row["reward"]} in row["reward_parts"]
        assert row["truncated"] == (row["token_ids"][-1] != 0)


def test_a_tree_is_its_nodes_with_what_is_known_of_their_values():
    whole = rollout(METHODS["tree"])
    tree, made = whole.tree, keeping("tree").rows([whole], 1, {})
    value_N = core.values(tree.parent_N, tree.reward_N)
    assert [(row["sample"], row["parent"]) for row in made] == list(enumerate(tree.parent_N))[1:]
    for row in made:
        node = row["sample"]
        children = [child for child in range(1, len(tree)) if tree.parent_N[child] == node]
        assert row["values"] == pytest.approx([value_N[row["parent"]], value_N[node]], abs=1e-6)
        assert row["segment_advantages"][0] == pytest.approx(value_N[node] - value_N[row["parent"]], abs=1e-6)
        assert row["level"] == len(tree.path(node)) and (row["reward"] is None) == bool(children)
        assert row["value_counts"][1] == (len(children) or 1)
        if len(children) > 1:
            error = np.std([value_N[child] for child in children], ddof=1) / np.sqrt(len(children))
            assert row["value_stderrs"][1] == pytest.approx(error, abs=1e-6)


def experience(sample, adv_T, reward=0.75) -> upstream.Experience:
    """A batch of one row, padded on the right by two tokens."""
    (start, end), length = sample.action_ranges[0], len(sample.token_ids)
    columns = torch.zeros(1, length + 1)
    columns[0, start - 1 : end - 1] = torch.tensor(adv_T)
    return upstream.Experience(
        sequences=torch.tensor([[*sample.token_ids, 0, 0]]),
        attention_mask=torch.tensor([[1] * length + [0, 0]]),
        action_mask=torch.tensor([[start - 1 <= column < end - 1 for column in range(length + 1)]]),
        advantages=columns,
        info={"reward": torch.tensor([reward])},
    )


def test_a_trained_row_shows_the_advantages_of_the_loss_and_an_untrained_one_its_own():
    whole = rollout(CHAIN)
    adv_T = [10.0 + t for t in range(len(whole.samples[1].token_ids) - 3)]
    trained = trained_samples([experience(whole.samples[1], adv_T)], keys([whole]))
    assert trained == {key(whole.samples[1]): [Trained(adv_T, 0.75)]}
    made = keeping("chain").rows([whole], 1, trained)
    same = [row["token_ids"] == made[1]["token_ids"] for row in made]
    assert [row["trained"] for row in made] == same, "equal responses are one sample"
    assert made[1]["advantages"] == adv_T
    untrained = next(row for row in made if not row["trained"])
    assert set(untrained["advantages"]) <= set(untrained["segment_advantages"])


def test_a_node_of_a_tree_is_found_in_the_batch_behind_its_context():
    whole = rollout(METHODS["tree"])
    node = node_samples(whole, METHODS["tree"].advantage)[-1]
    adv_T = [2.0] * (node.action_ranges[0][1] - node.action_ranges[0][0])
    made = keeping("tree").rows([whole], 1, trained_samples([experience(node, adv_T, node.reward)], keys([whole])))
    found = [row for row in made if row["trained"]]
    assert found and all(row["advantages"] == adv_T for row in found)
    tree = whole.tree
    paths = {tuple(tree.prompt_ids + tree.prefix(row["sample"]) + row["token_ids"]) for row in found}
    assert paths == {tuple(node.token_ids)}, "siblings of the same tokens are one sample"


def test_siblings_of_the_same_tokens_are_told_apart_by_their_values():
    tree = core.TokenTree([7, 7, 7])
    for parent, tokens, reward in (
        (0, [1, 1], None),
        (0, [1, 1], None),
        (1, [0], 1.0),
        (1, [2, 0], 0.5),
        (2, [0], 0.0),
    ):
        node = tree.add(parent, tokens, [-1.0] * len(tokens))
        tree.reward_N[node] = np.nan if reward is None else reward
    whole = rollout(METHODS["tree"])
    whole.tree = tree
    samples = {one.reward: one for one in node_samples(whole, METHODS["tree"].advantage)[:2]}
    assert samples.keys() == {0.75, 0.0}
    adv_of = {reward: one.adv_T for reward, one in samples.items()}
    batch = [experience(one, adv_of[reward], reward) for reward, one in samples.items()]
    made = keeping("tree").rows([whole], 1, trained_samples(batch, keys([whole])))
    assert [(row["sample"], row["advantages"]) for row in made if row["trained"]] == [
        (1, adv_of[0.75]),
        (2, adv_of[0.0]),
    ]
    made = keeping("tree").rows([whole], 1, trained_samples(batch[1:], keys([whole])))
    assert [row["sample"] for row in made if row["trained"]] == [2]


def test_the_reward_of_a_reward_model_comes_from_the_update():
    whole = rollout(METHODS["group"], samples=1)
    whole.samples[0].reward = whole.samples[0].score = None
    adv_T = [-1.5] * (len(whole.samples[0].token_ids) - 3)
    [row] = keeping("group").rows([whole], 1, {key(whole.samples[0]): [Trained(adv_T, 0.25)]})
    assert row["reward"] == 0.25 and row["segment_advantages"] == [-1.5] and row["reward_parts"][0]["value"] == 0.25


def test_the_draw_of_prompts_depends_on_seed_and_prompts_alone():
    whole = [rollout(METHODS["group"], f"prompt {number}", number) for number in range(12)]
    chosen = keeping("group").choose(whole)
    assert len(chosen) == 4 and [one.slot for one in chosen] == sorted(one.slot for one in chosen)
    again = keeping("group").choose(whole[::-1])
    assert [one.prompt for one in again] == [one.prompt for one in chosen]
    assert {one.prompt for one in keeping("group", seed=2).choose(whole)} != {one.prompt for one in chosen}
    later = [rollout(METHODS["group"], one.prompt, slot) for slot, one in enumerate(chosen[:2] + whole[6:])]
    assert {one.prompt for one in chosen[:2]} <= {one.prompt for one in keeping("group").choose(later)}, "kept again"
    assert keeping("group", prompts=0).choose(whole) == []


def test_the_page_describes_every_field() -> None:
    table = DOCS.joinpath("rollouts.md").read_text(encoding="utf-8").partition("## Fields, schema 1")[2]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert SCHEMA == 1
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == set(Row.__annotations__)
