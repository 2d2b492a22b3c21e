"""SPO-tree: a tree of sampled segments below one prompt, its Monte Carlo values and segment advantages.

Node 0 is the prompt; every other node is a segment of tokens sampled after the path to its parent. A node that ends
the response is a leaf and has a reward. Values go up the tree, advantages down (https://arxiv.org/abs/2505.23564):

    V(leaf) = reward,   V(n) = mean of V over the children of n,   A(n) = V(n) - V(parent(n)).

Which policy gradient this is (mask off, ratio 1; tests/core/test_tree_unbiased.py): at every level d, the sum over the
level's nodes of A(n) * grad log pi(segment n), divided by the B_1 * .. * B_d places of that level, has as expectation

    loo    exactly the policy gradient's share of the tokens that lie in segment d of a response;
    mean   that, times 1 - 1/B_d: the baseline contains the node itself;
    std    no fixed multiple: it weighs each group of siblings by the inverse of their spread;
    shrunk exactly, as loo, whatever the factors (core/tree_baselines.py); both also with what was known of the prompt.

A loss that sums over nodes, as the official implementation's does, weighs level d by its number of nodes;
`tree_baselines.level_weights` undoes that.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spo_rlhf.core.advantages import STD_EPSILON
from spo_rlhf.core.nodes import NO_PARENT, children
from spo_rlhf.core.registry import Registry
from spo_rlhf.core.tree_baselines import AgainstOthers, Shrunk, TreeAdvantage
from spo_rlhf.core.values import Floats, Prior, ValueEstimate, monte_carlo

# Means of equal values may differ in the last bit; an advantage below this is no advantage.
ZERO_ADVANTAGE = 1e-12


@dataclass(frozen=True)
class TreeShape:
    """Children of a node and tokens of a segment, by level; the segments of the last level go on to the end.

    `segment_tokens` has one length for all levels but the last, or one for each of these.
    `settled`: share of the outcome's variance that is settled where each level but the first begins, if it is planned
    (core/tree_plan.py). Raises ValueError for a shape that is none.
    """

    branching: tuple[int, ...]
    segment_tokens: tuple[int, ...]
    settled: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        levels = len(self.branching)
        if not levels or min(self.branching) < 1 or max(self.branching) < 2:
            raise ValueError("branching needs at least 1 child a level, and at least 2 in one of them")
        if len(self.segment_tokens) not in (1, levels - 1) and levels > 1 or min(self.segment_tokens, default=1) < 1:
            raise ValueError(
                f"segment lengths are at least 1, and one, or {levels - 1}: one for each of the {levels} levels but the last"
            )

    def limit(self, level: int) -> int | None:
        """Longest segment of a level, counted from 0; None on the last."""
        if level == len(self.branching) - 1:
            return None
        return self.segment_tokens[level if len(self.segment_tokens) > 1 else 0]


@dataclass
class TokenTree:
    """A tree of N nodes and S sampled tokens, flat. Parents stand before their children; node 0 is the prompt.

    Each node owns the tokens ``token_S[start_N[n] : start_N[n + 1]]``: none for the prompt, which is ``prompt_ids``.
    """

    prompt_ids: list[int]
    parent_N: list[int] = field(default_factory=lambda: [NO_PARENT])
    start_N: list[int] = field(default_factory=lambda: [0, 0])  # N + 1 positions in token_S
    token_S: list[int] = field(default_factory=list)
    logprob_S: list[float] = field(default_factory=list)  # under the policy that sampled the token
    top_logprob_S: list[float] = field(default_factory=list)  # of the most likely token; empty where it is not known
    reward_N: list[float] = field(default_factory=lambda: [np.nan])  # of leaves; nan at inner nodes
    truncated_N: list[bool] = field(default_factory=lambda: [False])  # leaves that the length limit cut
    shape: TreeShape | None = None  # that it was grown to

    def __len__(self) -> int:
        return len(self.parent_N)

    def add(
        self,
        parent: int,
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        top_logprobs: Sequence[float] | None = None,
    ) -> int:
        """Append a node and return its number. Raises ValueError for an unknown parent, or one log-prob missing."""
        if not 0 <= parent < len(self):
            raise ValueError(f"node {len(self)} has parent {parent}: parents stand before their children")
        if len(token_ids) != len(logprobs) or not len(token_ids):
            raise ValueError(f"node {len(self)}: {len(logprobs)} log-probs for {len(token_ids)} tokens")
        self.parent_N.append(parent)
        self.token_S.extend(token_ids)
        self.logprob_S.extend(logprobs)
        self.top_logprob_S.extend(top_logprobs or ())
        self.start_N.append(len(self.token_S))
        self.reward_N.append(np.nan)
        self.truncated_N.append(False)
        return len(self) - 1

    def tokens(self, node: int) -> list[int]:
        """The node's own tokens."""
        return self.token_S[self.start_N[node] : self.start_N[node + 1]]

    def logprobs(self, node: int) -> list[float]:
        """Log-probs of the node's own tokens."""
        return self.logprob_S[self.start_N[node] : self.start_N[node + 1]]

    def top_logprobs(self, node: int) -> list[float] | None:
        """Log-probs of the most likely tokens at the places of the node's own; None where they are not known."""
        return self.top_logprob_S[self.start_N[node] : self.start_N[node + 1]] or None

    def path(self, node: int) -> list[int]:
        """Nodes from the first below the prompt down to ``node``, both included."""
        nodes = []
        while node > 0:
            nodes.append(node)
            node = self.parent_N[node]
        return nodes[::-1]

    def prefix(self, node: int) -> list[int]:
        """Response tokens before the node's own: those of its ancestors."""
        return [token for ancestor in self.path(node)[:-1] for token in self.tokens(ancestor)]

    def leaves(self) -> list[int]:
        """Nodes without children."""
        return sorted(set(range(1, len(self))) - set(self.parent_N))

    def tokens_saved(self) -> int:
        """Tokens that sampling every leaf's response on its own would have cost more."""
        length_N = [0] * len(self)
        for node in range(1, len(self)):
            length_N[node] = length_N[self.parent_N[node]] + self.start_N[node + 1] - self.start_N[node]
        return sum(length_N[leaf] for leaf in self.leaves()) - len(self.token_S)

    def duplicate_siblings(self) -> int:
        """Nodes whose tokens repeat those of an earlier sibling."""
        keys = [(self.parent_N[node], *self.tokens(node)) for node in range(1, len(self))]
        return len(keys) - len(set(keys))


def values(parent_N: Sequence[int], reward_N: Floats) -> np.ndarray:
    """V (N,): the reward of a leaf, the mean of the children's values elsewhere.

    ``reward_N``: nan at inner nodes. Raises ValueError for a leaf without a finite reward, an inner node with one.
    """
    value_N = np.array(reward_N, dtype=np.float64)
    for node, nodes in reversed(list(enumerate(children(parent_N)))):
        if nodes and not np.isnan(value_N[node]):
            raise ValueError(f"node {node} has children and a reward: only leaves are graded")
        if not nodes and not np.isfinite(value_N[node]):
            raise ValueError(f"node {node} is a leaf without a finite reward")
        if nodes:
            value_N[node] = value_N[nodes].mean()
    return value_N


def estimates(parent_N: Sequence[int], value_N: Floats) -> list[ValueEstimate]:
    """What is known of V (N,): the standard error, from the spread of the children's values, and the leaves behind it.

    Children are sampled independently, so that of a mean of B is their standard deviation (sample) over sqrt(B); a node
    with one child knows what that knows, a leaf has one outcome and the error 0.
    """
    made: list[ValueEstimate] = []
    for node, nodes in reversed(list(enumerate(children(parent_N)))):
        below = [made[len(parent_N) - 1 - child] for child in nodes]
        stderr = below[0].stderr if len(below) == 1 else 0.0
        if len(below) > 1:
            stderr = monte_carlo([one.mean for one in below]).stderr
        made.append(ValueEstimate(float(value_N[node]), stderr, sum(one.count for one in below) or 1))
    return made[::-1]


def _against_mean(value_B: np.ndarray) -> np.ndarray:
    """The value of the parent."""
    return value_B - value_B.mean()


def _over_std(value_B: np.ndarray) -> np.ndarray:
    """The value of the parent, over the siblings' standard deviation."""
    return _against_mean(value_B) / (value_B.std() + STD_EPSILON)


# Values (B,) of siblings, which are not all equal -> their advantages (B,); or what needs the whole tree.
NodeAdvantage = Callable[[np.ndarray], np.ndarray] | TreeAdvantage
ADVANTAGES: Registry[Any] = Registry(
    "tree advantage", {"mean": _against_mean, "loo": AgainstOthers, "std": _over_std, "shrunk": Shrunk}
)


def advantages(
    parent_N: Sequence[int], value_N: Floats, kind: str | NodeAdvantage = "mean", prior: Prior | None = None
) -> np.ndarray:
    """A (N,) of every node against its siblings; 0 for the prompt.

    ``kind``: a function of the siblings' values, asked where they are not all equal, a `TreeAdvantage`, or the name of
    one: ``mean`` subtracts the value of the parent, ``loo`` the mean of the other siblings, ``shrunk`` that one shrunk
    towards the baseline of the parent, ``std`` divides ``mean`` by the siblings' standard deviation (population) + 1e-8.
    ``prior``: what was known of the prompt, for `TreeAdvantage` alone.
    Raises ValueError for another name, and for a prior that cannot be used.
    """
    chosen = ADVANTAGES.choose(kind) if isinstance(kind, str) else kind
    against: NodeAdvantage = chosen() if isinstance(chosen, type) else chosen
    value_N = np.asarray(value_N, dtype=np.float64)
    if isinstance(against, TreeAdvantage):
        adv_N = against(parent_N, value_N, prior)
        adv_N[0] = 0.0
    elif prior is not None:
        raise ValueError("only loo, shrunk and other tree advantages that look at the whole tree use what was known")
    else:
        adv_N = np.zeros(len(value_N))
        for nodes in filter(None, children(parent_N)):
            spread = np.ptp(value_N[nodes]) > ZERO_ADVANTAGE
            adv_N[nodes] = against(value_N[nodes]) if spread else 0.0
    adv_N[np.abs(adv_N) <= ZERO_ADVANTAGE] = 0.0
    return adv_N


def trained(adv_N: Iterable[float]) -> list[int]:
    """Nodes to train: those with an advantage that is not zero."""
    return [node for node, adv in enumerate(adv_N) if adv != 0]
