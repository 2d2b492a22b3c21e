"""Tree advantages that look at more than the siblings' values, and the weights that make levels count alike.

What a node is compared with here is a function of nodes that do not descend from it, and of numbers that the sampled
tree does not decide: given where it starts, it is independent of the node. So each level has exactly the policy
gradient's share of its tokens as expectation (tests/core/test_tree_unbiased.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spo_rlhf.core.nodes import children, depths
from spo_rlhf.core.options import check, numbers, option, shared
from spo_rlhf.core.values import Prior, leave_one_out


def level_weights(branching: Sequence[int]) -> np.ndarray:
    """What a node counts in the loss, by level (L,), so that the levels weigh alike: c / (B_1 .. B_d), their mean over the nodes 1.

    A sum over nodes alone weighs level d by its number of places B_1 .. B_d. With these weights and a leave-one-out or
    shrunk baseline its expectation is c times the policy gradient, c = (sum of all places) / L.
    """
    places_L = np.cumprod(np.asarray(branching, dtype=np.float64))
    return places_L.mean() / places_L


@dataclass(frozen=True, kw_only=True)
class TreeAdvantage(ABC):
    """An advantage that needs the whole tree, or what was known of its prompt; its fields are its options."""

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    def __call__(self, parent_N: Sequence[int], value_N: np.ndarray, prior: Prior | None) -> np.ndarray:
        """Advantages (N,) of all nodes, that of the prompt of no meaning. ``prior``: what was known of the prompt."""


@dataclass(frozen=True, kw_only=True)
class AgainstOthers(TreeAdvantage):
    """The mean of the other siblings."""

    def __call__(self, parent_N: Sequence[int], value_N: np.ndarray, prior: Prior | None) -> np.ndarray:
        adv_N = np.zeros(len(value_N))
        for node, nodes in enumerate(children(parent_N)):
            known = prior if node == 0 else None
            if len(nodes) > 1 or (nodes and known):  # an only child has nobody to be compared with
                adv_N[nodes] = value_N[nodes] - leave_one_out(value_N[nodes], known)
        return adv_N


@dataclass(frozen=True, kw_only=True)
class Shrunk(TreeAdvantage):
    """The mean of the other siblings, shrunk towards what their parent was compared with.

        b(child i of P) = g_d * mean of V over its siblings + (1 - g_d) * b(P),    b(prompt) = the prior's mean

    Few siblings are a noisy baseline, and the parent's own one knows of nodes that they do not. Any g_d is unbiased that
    the sampled tree does not decide; `factors` has those of least variance if outcomes settle as `settled` says.
    """

    branching: tuple[int, ...] = shared("tree_branching", (6, 6, 6))
    settled: tuple[float, ...] | None = option(
        None,
        flag="tree_settled",
        parse=numbers,
        default_text="evenly over the levels",
        metavar="A2[,A3,..]",
        help="share of the outcome's variance that is settled where a level begins, for each level but the first; rising, in 0..1",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.settled is None:
            return
        whole = (0.0, *self.settled, 1.0)
        if len(self.settled) != len(self.branching) - 1 or any(a > b for a, b in zip(whole, whole[1:])):
            raise ValueError(
                f"--spo.tree_settled {','.join(map(str, self.settled))}: needs {len(self.branching) - 1} numbers, one for "
                f"each level of --spo.tree_branching but the first, rising within 0..1"
            )

    def factors(self, known: float | None) -> np.ndarray:
        """g (L,), by level, for a prompt of whom as much as ``known`` outcomes was known; None: nothing.

        In units of the variance of an outcome, with a_d the share settled where level d begins (a_1 = 0, a_{L+1} = 1):
        V of a node of level d has the variance S_d = a_{d+1} - a_d + S_{d+1} / B_{d+1} around the value of its parent's
        end, so the mean of its siblings is off by S_d / (B_d - 1). What the parent was compared with is off by
        F_{d-1} + a_d - a_{d-1}, with F_0 = 1 / known. g_d weighs the two by the inverse; F_d is what then remains.
        """
        levels = len(self.branching)
        inner = self.settled if self.settled is not None else np.arange(1, levels) / levels
        settled_L = np.array([0.0, *inner, 1.0])
        spread_L = np.zeros(levels + 1)
        for d in range(levels - 1, -1, -1):
            below = spread_L[d + 1] / self.branching[d + 1] if d + 1 < levels else 0.0
            spread_L[d] = settled_L[d + 1] - settled_L[d] + below
        factor_L, off = np.zeros(levels), np.inf if known is None else 1 / known
        for d, count in enumerate(self.branching):
            off += settled_L[d] - settled_L[d - 1] if d else 0.0
            of_siblings = spread_L[d] / (count - 1) if count > 1 else np.inf
            if np.isinf(of_siblings):
                factor_L[d] = 0.0
            else:
                factor_L[d] = 1.0 if np.isinf(off) or off + of_siblings == 0 else off / (off + of_siblings)
            off = of_siblings if np.isinf(off) else off * (1 - factor_L[d])
        return factor_L

    def __call__(self, parent_N: Sequence[int], value_N: np.ndarray, prior: Prior | None) -> np.ndarray:
        """Raises ValueError for a tree with more levels than `branching`."""
        factor_L, depth_N = self.factors(prior.count if prior else None), depths(parent_N)
        if max(depth_N) > len(factor_L):
            raise ValueError(f"a tree of {max(depth_N)} levels, but branching has {len(factor_L)}")
        adv_N, base_N = np.zeros(len(value_N)), np.zeros(len(value_N))
        base_N[0] = prior.mean if prior else np.nan
        for node, nodes in enumerate(children(parent_N)):
            if nodes:
                base_N[nodes] = self._baselines(value_N[nodes], float(base_N[node]), factor_L[depth_N[node]])
                # Nothing known above and no sibling: there is nothing to compare with.
                adv_N[nodes] = np.nan_to_num(value_N[nodes] - base_N[nodes])
        return adv_N

    @staticmethod
    def _baselines(value_B: np.ndarray, above: float, factor: float) -> np.ndarray:
        if len(value_B) < 2:
            return np.full(len(value_B), above)
        others_B = leave_one_out(value_B)
        return others_B if np.isnan(above) else factor * others_B + (1 - factor) * above
