"""What `spo-inspect` computes: one function per mode, from a JSON object to a JSON object, bad input told in one line."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from spo_rlhf.core import tree
from spo_rlhf.core.advantages import chain, to_tokens
from spo_rlhf.core.partition import PartitionConfig, below_threshold, boundaries, check_threshold

LARGEST_NUMBER = sys.float_info.max / 2  # so that a difference of two stays finite
PARTITION_PARAMETERS = tuple(field.name for field in fields(PartitionConfig) if field.name != "kind")
REQUIRED_PARAMETERS = {
    "cutpoint": ("threshold", "interval"),
    "fixed": ("segment_length",),
    "segments": ("segment_count",),
}


def inspect_chain(case: dict[str, Any]) -> dict[str, list]:
    """One response of SPO-chain: boundaries (K+1,), advantages (K,), token_advantages (T,), mask (T,) as 0 and 1."""
    prob_T = _numbers(case, "probs")
    for position, prob in enumerate(prob_T):
        if not 0 <= prob <= 1:
            raise ValueError(f"'probs' holds {prob!r} at position {position}: give probabilities from 0 to 1")
    mask_threshold = get(case, "mask_threshold")
    check_threshold(mask_threshold, "'mask_threshold'")
    boundary_K = boundaries(_partition(get(case, "partition")), prob_T, _texts(case))
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
    adv_N = tree.advantages(parent_N, value_N, str(case.get("advantage", "mean")))
    return {
        "values": {str(id): value for id, value in zip(ids, value_N.tolist())},
        "advantages": {str(id): adv for id, adv in zip(ids[1:], adv_N[1:].tolist())},
        "trained": [ids[node] for node in tree.trained(adv_N)],
    }


def _node_id(node: dict[str, Any], key: str) -> int | str | None:
    value = get(node, key)
    if isinstance(value, bool) or not isinstance(value, (int, str) if key == "id" else (int, str, type(None))):
        raise ValueError(f"'{key}' of a node is {json.dumps(value)[:40]}: give a number or a string")
    return value


def _ordered(nodes: list[tuple]) -> tuple[list, list[int], list[float]]:
    """Ids, parents by position and rewards (nan: none), every parent before its children, otherwise in the order given."""
    by_id = {}
    for id, parent, node in nodes:
        if id in by_id:
            raise ValueError(f"two nodes have the id {id!r}: give each its own")
        by_id[id] = parent, node
    roots = [id for id, (parent, _) in by_id.items() if parent is None]
    if len(roots) != 1:
        raise ValueError(f'{len(roots)} nodes have no parent: exactly one, the prompt, has "parent": null')
    below: dict = {}
    for id, (parent, _) in by_id.items():
        if parent is not None and parent not in by_id:
            raise ValueError(f"node {id!r} has parent {parent!r}, which is no node")
        below.setdefault(parent, []).append(id)
    depth = {roots[0]: 0}
    for id in (queue := [roots[0]]):
        for child in below.get(id, ()):
            depth[child] = depth[id] + 1
            queue.append(child)
    if len(queue) < len(by_id):
        lost = next(id for id in by_id if id not in depth)
        raise ValueError(f"node {lost!r} is not below the prompt: its parents go round in a circle")
    # A tree whose parents stand first already keeps its order, so that the ids of trained nodes come out in it.
    position = {id: number for number, id in enumerate(by_id)}
    in_order = all(parent is None or position[parent] < position[id] for id, (parent, _) in by_id.items())
    ids = list(by_id) if in_order else queue
    row = {id: number for number, id in enumerate(ids)}
    parent_N = [tree.NO_PARENT if by_id[id][0] is None else row[by_id[id][0]] for id in ids]
    rewards = [by_id[id][1].get("reward") for id in ids]
    return (
        ids,
        parent_N,
        [math.nan if r is None else _number(r, f"'reward' of node {id!r}") for id, r in zip(ids, rewards)],
    )


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


def _partition(spec: Any) -> PartitionConfig:
    if not isinstance(spec, dict):
        raise ValueError("'partition' is not an object: give one with a \"type\"")
    kind = str(get(spec, "type"))
    PartitionConfig(kind=kind)  # an unknown kind is to be told before what is wrong with its keys
    for key in REQUIRED_PARAMETERS.get(kind, ()):
        get(spec, key)
    parameters = {key: value for key, value in spec.items() if key != "type"}
    unknown = [key for key in parameters if key not in PARTITION_PARAMETERS]
    if unknown:
        raise ValueError(f"'partition' has unknown key '{unknown[0]}': choose from {', '.join(PARTITION_PARAMETERS)}")
    return PartitionConfig(kind=kind, **parameters)


MODES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"chain": inspect_chain, "tree": inspect_tree}
