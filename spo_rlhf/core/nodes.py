"""A tree as the list of its parents: parents stand before their children, node 0 is the root."""

from collections.abc import Sequence

NO_PARENT = -1


def children(parent_N: Sequence[int]) -> list[list[int]]:
    """Children of each node, in order. Raises ValueError unless node 0 alone is a root and parents stand first."""
    child_lists: list[list[int]] = [[] for _ in parent_N]
    for node, parent in enumerate(parent_N):
        if node == 0 and parent != NO_PARENT:
            raise ValueError("node 0 has a parent: it must be the prompt")
        if node > 0:
            if not 0 <= parent < node:
                raise ValueError(f"node {node} has parent {parent}: parents stand before their children")
            child_lists[parent].append(node)
    return child_lists


def depths(parent_N: Sequence[int]) -> list[int]:
    """Level of each node: 0 the prompt, 1 its children. Raises ValueError as `children`."""
    depth_N = [0] * len(parent_N)
    for node, nodes in enumerate(children(parent_N)):
        for child in nodes:
            depth_N[child] = depth_N[node] + 1
    return depth_N
