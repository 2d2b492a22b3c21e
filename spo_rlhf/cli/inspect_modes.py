"""What `spo-inspect` computes: one function per mode, from a JSON object to a JSON object, bad input told in one line."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from spo_rlhf.core import tree
from spo_rlhf.core.advantages import chain, to_tokens
from spo_rlhf.core.partition import PARTITIONS, Partition, below_threshold, check_threshold
from spo_rlhf.core.tree_baselines import Shrunk
from spo_rlhf.core.values import Prior

LARGEST_NUMBER = sys.float_info.max / 2  # so that a difference of two stays finite


def inspect_chain(case: dict[str, Any]) -> dict[str, list]:
    """One response of SPO-chain: boundaries (K+1,), advantages (K,), token_advantages (T,), mask (T,) as 0 and 1."""
    prob_T = _numbers(case, "probs")
    for position, prob in enumerate(prob_T):
        if not 0 <= prob <= 1:
            raise ValueError(f"'probs' holds {prob!r} at position {position}: give probabilities from 0 to 1")
    mask_threshold = get(case, "mask_threshold")
    check_threshold(mask_threshold, "'mask_threshold'")
    boundary_K = _partition(get(case, "partition")).boundaries(prob_T, _texts(case))
    value_K = _numbers(case, "values")
    if len(value_K) != len(boundary_K) - 1:
        raise ValueError(
            f"{len(value_K)} 'values' for {len(boundary_K) - 1} segments, which start at {boundary_K[:-1]}: "
            "give one per segment"
        )
    adv_K = chain(value_K, _number(get(case, "reward"), "'reward'"))
    return {
        "boundaries": boundary_K,
        "advantages": adv_K.tolist(),
        "token_advantages": to_tokens(adv_K, boundary_K).tolist(),
        "mask": below_threshold(prob_T, mask_threshold).astype(int).tolist(),
    }


def inspect_tree(case: dict[str, Any]) -> dict[str, Any]:
    """One tree of SPO-tree: values and advantages by node id (the prompt has no advantage), and the ids of trained nodes."""
    nodes = get(case, "nodes")
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes) or not nodes:
        raise ValueError('\'nodes\' is not a list of objects: give each an "id" and a "parent", leaves a "reward"')
    ids, parent_N, reward_N = _ordered([(_node_id(node, "id"), _node_id(node, "parent"), node) for node in nodes])
    value_N = tree.values(parent_N, reward_N)
    adv_N = tree.advantages(parent_N, value_N, _tree_advantage(case), _prior(case))
    return {
        "values": {str(id): value for id, value in zip(ids, value_N.tolist())},
        "advantages": {str(id): adv for id, adv in zip(ids[1:], adv_N[1:].tolist())},
        "trained": [ids[node] for node in tree.trained(adv_N)],
    }


def _tree_advantage(case: dict[str, Any]) -> tree.NodeAdvantage | str:
    """The name of the advantage, or, of `shrunk`, the part made for the tree's shape."""
    name = str(case.get("advantage", "mean"))
    if tree.ADVANTAGES.get(name) is not Shrunk:
        return name
    branching = tuple(_numbers(case, "branching"))
    if not branching or any(number != int(number) or number < 1 for number in branching):
        raise ValueError(
            f"'branching' is {list(branching)}: give the children of a node by level, whole numbers from 1"
        )
    settled = tuple(_numbers(case, "settled")) if "settled" in case else None
    return Shrunk(branching=tuple(int(number) for number in branching), settled=settled)


def _prior(case: dict[str, Any]) -> Prior | None:
    """What was known of the prompt; None where the case does not say."""
    if "prior" not in case:
        return None
    told = case["prior"]
    if not isinstance(told, dict):
        raise ValueError('\'prior\' is no object: give its "mean" and its "count"')
    mean, count = (_number(get(told, key), f"'{key}' of the prior") for key in ("mean", "count"))
    if count <= 0:
        raise ValueError(f"'count' of the prior is {count!r}: give a number above 0")
    return Prior(mean, count)


def _node_id(node: dict[str, Any], key: str) -> int | str | None:
    value = get(node, key)
    if isinstance(value, bool) or not isinstance(value, (int, str) if key == "id" else (int, str, type(None))):
        raise ValueError(f"'{key}' of a node is {json.dumps(value)[:40]}: give a number or a string")
    return value


def _ordered(nodes: list[tuple]) -> tuple[list, list[int], list[float]]:
    """Ids, parents by position and rewards (nan: none), every parent before its children, otherwise in the order given."""
    by_id = _by_id(nodes)
    parents_first = _from_the_prompt_down(by_id)
    # A tree whose parents stand first already keeps its order, so that the ids of trained nodes come out in it.
    position = {node: number for number, node in enumerate(by_id)}
    in_order = all(parent is None or position[parent] < position[node] for node, (parent, _) in by_id.items())
    ids = list(by_id) if in_order else parents_first
    row = {node: number for number, node in enumerate(ids)}
    parents = [by_id[node][0] for node in ids]
    rewards = [by_id[node][1].get("reward") for node in ids]
    return (
        ids,
        [tree.NO_PARENT if parent is None else row[parent] for parent in parents],
        [
            math.nan if reward is None else _number(reward, f"'reward' of node {node!r}")
            for node, reward in zip(ids, rewards, strict=True)
        ],
    )


def _by_id(nodes: list[tuple]) -> dict:
    """Id -> (parent, node). Raises ValueError for an id given twice, and for a parent that is no node."""
    by_id = {}
    for node, parent, content in nodes:
        if node in by_id:
            raise ValueError(f"two nodes have the id {node!r}: give each its own")
        by_id[node] = parent, content
    for node, (parent, _) in by_id.items():
        if parent is not None and parent not in by_id:
            raise ValueError(f"node {node!r} has parent {parent!r}, which is no node")
    return by_id


def _from_the_prompt_down(by_id: dict) -> list:
    """Ids, level by level. Raises ValueError unless there is one prompt and everything is below it."""
    roots = [node for node, (parent, _) in by_id.items() if parent is None]
    if len(roots) != 1:
        raise ValueError(f'{len(roots)} nodes have no parent: exactly one, the prompt, has "parent": null')
    children: dict = {}
    for node, (parent, _) in by_id.items():
        children.setdefault(parent, []).append(node)
    found, level = [], roots
    while level:
        found += level
        level = [child for node in level for child in children.get(node, ())]
    if len(found) < len(by_id):
        lost = next(node for node in by_id if node not in set(found))
        raise ValueError(f"node {lost!r} is not below the prompt: its parents go round in a circle")
    return found


def get(case: dict[str, Any], key: str) -> Any:
    """The value of a key that must be there."""
    if key not in case:
        raise ValueError(f"key '{key}' is missing: add it")
    return case[key]


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {json.dumps(value)[:40]}: give a number")
    if abs(value) > LARGEST_NUMBER:
        raise ValueError(f"{name} is too large: give a finite number")
    return float(value)


def _numbers(case: dict[str, Any], key: str) -> list[float]:
    values = get(case, key)
    if not isinstance(values, list):
        raise ValueError(f"'{key}' is not a list: give a list of numbers")
    return [_number(value, f"'{key}' at position {position}") for position, value in enumerate(values)]


def _texts(case: dict[str, Any]) -> list[str] | None:
    texts = case.get("texts")
    if texts is not None and not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise ValueError("'texts' is not a list of strings: give the text of each token")
    return texts


def _partition(spec: Any) -> Partition:
    """The partition of a case: its name and, whatever their defaults in training, all of its parameters."""
    if not isinstance(spec, dict):
        raise ValueError("'partition' is not an object: give one with a \"type\"")
    kind = PARTITIONS.choose(str(get(spec, "type")))
    names = [field.name for field in fields(kind)]
    for name in names:
        get(spec, name)
    parameters = {key: value for key, value in spec.items() if key != "type"}
    unknown = [key for key in parameters if key not in names]
    if unknown:
        known = f"choose from {', '.join(names)}" if names else "it has none"
        raise ValueError(f"'partition' has unknown key '{unknown[0]}': {known}")
    return kind(**parameters)


MODES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"chain": inspect_chain, "tree": inspect_tree}
