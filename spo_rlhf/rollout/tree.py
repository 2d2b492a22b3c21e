"""SPO-tree sampling of one prompt: a tree of segments, grown on token ids inside the engine's process.

Every node is a request of its own. A child that has used up its segment is expanded at once, while its siblings are
still being sampled; a child that ends the response early, or has no room left, is a leaf.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from spo_rlhf.core.tree import TokenTree, TreeShape
from spo_rlhf.rollout.prompt import PromptSampler, gather
from spo_rlhf.rollout.protocol import TRUNCATED, Completion, Grade


@dataclass
class _Node:
    completion: Completion
    grade: Grade | None = None  # of a leaf
    children: list["_Node"] = field(default_factory=list)


class TreeRollout(PromptSampler):
    """Grows the tree of one prompt."""

    async def grow(self, shape: TreeShape) -> TokenTree:
        """The tree, its nodes level by level in the order of their places, whatever the order in which they were finished."""
        tree, level = TokenTree(self.prompt_ids), [(0, await self._expand((), (), shape))]
        while level:
            below = []
            for parent, nodes in level:
                for node in nodes:
                    one = node.completion
                    number = tree.add(parent, one.token_ids, one.logprobs or [], one.top_logprobs)
                    if node.grade is None:
                        below.append((number, node.children))
                        continue
                    tree.reward_N[number] = node.grade.reward
                    tree.truncated_N[number] = node.completion.truncated
            level = below
        self.counts.trees += 1
        self.counts.nodes += len(tree) - 1
        self.counts.responses += len(tree.leaves())
        self.counts.response_tokens += len(tree.token_S)
        self.counts.duplicate_siblings += tree.duplicate_siblings()
        self.counts.saved_tokens += tree.tokens_saved()
        return tree

    async def _expand(self, prefix: Sequence[int], place: tuple[int, ...], shape: TreeShape) -> list[_Node]:
        """The children of the node at `place` (child numbers from the prompt down), whose response so far is `prefix`."""
        children = shape.branching[len(place)]
        return await gather(self._child(prefix, (*place, number), shape) for number in range(children))

    async def _child(self, prefix: Sequence[int], place: tuple[int, ...], shape: TreeShape) -> _Node:
        limit = shape.limit(len(place) - 1)
        [completion] = await self._sample(prefix, 1, ("node", self.slot, place), logprobs=True, limit=limit)
        response = [*prefix, *completion.token_ids]
        if not completion.truncated:
            return _Node(completion, await self._grade(prefix, completion))
        if len(place) == len(shape.branching) or len(response) >= self.max_tokens:
            return _Node(completion, TRUNCATED)
        return _Node(completion, children=await self._expand(response, place, shape))
