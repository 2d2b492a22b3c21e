"""SPO-tree sampling of one prompt: a tree of segments, grown on token ids inside the engine's process.

A child that has used up its segment is expanded; one that ends the response early, or has no room left, is a leaf. The
children of a node are one request: they start together and have the same number of tokens to go, so none waits for another
for long, and an engine's work for a request costs more than a short segment's tokens. Where a partition cuts the tree every
request goes on to the end of the response, and what lies behind the cut is the first child: then a response is a request of
its own, and is expanded at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from spo_rlhf.core.tree import TokenTree, TreeShape
from spo_rlhf.core.tree_cuts import AtBoundaries
from spo_rlhf.rollout.chain import TokenTexts
from spo_rlhf.rollout.prompt import PromptSampler, gather
from spo_rlhf.rollout.protocol import TRUNCATED, Completion, Grade


@dataclass
class _Node:
    completion: Completion
    grade: Grade | None = None  # of a leaf
    children: list["_Node"] = field(default_factory=list)


class TreeRollout(PromptSampler):
    """Grows the tree of one prompt."""

    cuts: AtBoundaries | None = None
    token_texts: TokenTexts | None = None

    async def grow(
        self, shape: TreeShape, cuts: AtBoundaries | None = None, token_texts: TokenTexts | None = None
    ) -> TokenTree:
        """The tree, its nodes level by level in the order of their places, whatever the order in which they were finished.

        cuts: in place of the segments' numbers of tokens; token_texts: for partitions that look at text.
        """
        self.cuts, self.token_texts = cuts, token_texts
        tree, level = TokenTree(self.prompt_ids, shape=shape), [(0, await self._expand((), (), shape))]
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
        numbers = range(shape.branching[len(place)])
        if self.cuts:
            return await gather(self._uncut(prefix, (*place, number), shape) for number in numbers)
        name, limit = ("node", self.slot, place), shape.limit(len(place))
        completions = await self._sample(prefix, len(numbers), name, logprobs=True, limit=limit)
        return await gather(
            self._node(prefix, one, (*place, number), shape) for number, one in zip(numbers, completions)
        )

    async def _node(
        self, prefix: Sequence[int], completion: Completion, place: tuple[int, ...], shape: TreeShape
    ) -> _Node:
        """The node at `place`, and what is below it."""
        response = [*prefix, *completion.token_ids]
        if not completion.truncated:
            return _Node(completion, await self._grade(prefix, completion))
        if len(place) == len(shape.branching) or len(response) >= self.max_tokens:
            return _Node(completion, TRUNCATED)
        return _Node(completion, children=await self._expand(response, place, shape))

    async def _uncut(self, prefix: Sequence[int], place: tuple[int, ...], shape: TreeShape) -> _Node:
        """The node at `place`, by a response of its own."""
        [completion] = await self._sample(prefix, 1, ("node", self.slot, place), logprobs=True)
        return await self._cut(prefix, completion, place, shape)

    async def _cut(
        self, prefix: Sequence[int], completion: Completion, place: tuple[int, ...], shape: TreeShape
    ) -> _Node:
        """The node at `place` of a response that goes on to its end, and what is below it."""
        end = self._end(prefix, completion) if len(place) < len(shape.branching) else None
        if end is None:
            return _Node(completion, await self._grade(prefix, completion))
        head, rest = divided(completion, end)
        response, below = [*prefix, *head.token_ids], range(1, shape.branching[len(place)])
        first = self._cut(response, rest, (*place, 0), shape)
        return _Node(head, children=await gather([first, *(self._uncut(response, (*place, n), shape) for n in below)]))

    def _end(self, prefix: Sequence[int], completion: Completion) -> int | None:
        """Tokens of a node's segment; None: all of them."""
        assert self.cuts is not None
        prob_T = np.exp(np.asarray(completion.deciding_logprobs, dtype=np.float64))
        text_T = None
        if self.cuts.partition.needs_text:
            assert self.token_texts is not None, "this partition looks at the text of each token"
            text_T = self.token_texts([*prefix, *completion.token_ids])[len(prefix) :]
        return self.cuts.end(prob_T, text_T)


def divided(completion: Completion, end: int) -> tuple[Completion, Completion]:
    """The first `end` tokens of a completion, which the policy did not end there, and the others."""

    def part(tokens: slice, **more: Any) -> Completion:
        log_probs = {
            name: None if value is None else value[tokens]
            for name, value in (("logprobs", completion.logprobs), ("top_logprobs", completion.top_logprobs))
        }
        return replace(completion, token_ids=completion.token_ids[tokens], **log_probs, **more)

    return part(slice(None, end), truncated=True), part(slice(end, None), cached_tokens=0)
