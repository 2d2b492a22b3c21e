"""The shape of two-level trees, planned from earlier trees: where they are cut and how they branch.

Trees that were sampled anyway say where the score energy lies (each of them, at every token), and which share of the
outcome's variance is settled at the token where it was cut; some are cut elsewhere to learn it there. What a shape would
cost follows from that by `predictions.Tree`, with two simplifications: energy and advantage are taken as independent, and
the energy of a token y is taken as (1 - pi_y)^2, since the engine tells of the sampled token alone. It is

    (1 - pi_y)^2 + sum_{a != y} pi_a^2,      the second term between 0 and the first: right within a factor of two.

The shapes of an iteration depend on earlier iterations and on the seed, never on what is sampled with them: given the shape,
every unbiased tree advantage is unbiased, so it is on the whole (tests/core/test_tree_plan.py).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spo_rlhf.core.diagnosis import Moments, cuts
from spo_rlhf.core.nodes import children
from spo_rlhf.core.options import check, option
from spo_rlhf.core.predictions import Tree, cheapest, designs, settled_at
from spo_rlhf.core.registry import Registry
from spo_rlhf.core.seeds import derive_seed
from spo_rlhf.core.tree import TokenTree, TreeShape, values

BINS = 64
CUTS = 7  # places of a cut that are looked at, evenly over the mean response
EVENLY = 4.0  # trees that the assumption counts as that outcomes are settled evenly over the tokens
OVERLAP = 0.04  # of a response's noise, what responses to a prompt share; measured: .03 to .05
LEAST_GAIN = 0.05  # a change of shape has to be predicted to save as much
KEPT = 0.5  # at each plan, of what earlier trees count
QUARTERS = {"quarter": 0.25, "half": 0.5, "three_quarters": 0.75}


@dataclass(frozen=True)
class FixedShape:
    """That of `--spo.tree_branching` and `--spo.tree_segment_tokens` throughout."""


@dataclass(frozen=True, kw_only=True)
class PlannedShape:
    """Two levels, that shape at first, then whatever earlier trees promise least noise x tokens of (docs/credit.md)."""

    every: int = option(8, flag="tree_plan_every", at_least=1, metavar="N", help="iterations from plan to plan")
    spend: float = option(
        0.25,
        flag="tree_plan_spend",
        at_least=0,
        at_most=10,
        metavar="SHARE",
        help="by which the tokens of a tree may differ from those that --spo.tree_branching would take",
    )
    explore: float = option(
        0.1,
        flag="tree_plan_explore",
        at_least=0,
        at_most=1,
        metavar="SHARE",
        help="of the trees, cut at another token, to learn what is settled there; they are trained like the others",
    )

    def __post_init__(self) -> None:
        check(self)


TREE_SHAPES: Registry[Any] = Registry("tree shape", {"fixed": FixedShape, "planned": PlannedShape})


class Profile:
    """Sums over trees, by the place in the response: bins of `width` tokens, which doubles where responses need more room."""

    def __init__(self) -> None:
        self.width, self.trees, self.spread, self.known = 1, 0.0, 0.0, 0.0
        self.tokens_B, self.energy_B = np.zeros(BINS), np.zeros(BINS)  # of a response, means over the tree's
        self.unsettled_B, self.cut_B = (
            np.zeros(BINS),
            np.zeros(BINS),
        )  # of the trees cut at a bin's end: variance, number

    def learn(self, tree: TokenTree, threshold: float | None, known: float) -> None:
        """Take a tree of two levels of which each has two children or more.

        threshold: tokens below this probability are trained, None: all; known: outcomes of its prompt that were known.
        """
        assert tree.shape is not None
        child_lists, value_N = children(tree.parent_N), values(tree.parent_N, tree.reward_N)
        below = [value_N[child_lists[node]] for node in child_lists[0]]
        noise_N = np.array([value_B.var(ddof=1) if len(value_B) else 0.0 for value_B in below])
        share_N = np.array([1 - 1 / len(value_B) if len(value_B) else 0.0 for value_B in below])
        self.trees, self.known = self.trees + 1, self.known + known
        # Var r = Var V(node) + E[noise], and V(node) is a mean over its children.
        self.spread += float(value_N[child_lists[0]].var(ddof=1) + (noise_N * share_N).mean())
        weight_N, start_N = np.ones(len(tree)), np.zeros(len(tree), dtype=int)
        for node, nodes in enumerate(child_lists):
            for child in nodes:
                weight_N[child] = weight_N[node] / len(nodes)
                start_N[child] = start_N[node] + (len(tree.tokens(node)) if node else 0)
        self._widen(max(start_N[node] + len(tree.tokens(node)) for node in range(1, len(tree))))
        self._add_tokens(tree, weight_N, start_N, threshold)
        at = min((tree.shape.segment_tokens[0] - 1) // self.width, BINS - 1)
        self.unsettled_B[at] += noise_N.mean()
        self.cut_B[at] += 1

    def _add_tokens(self, tree: TokenTree, weight_N: np.ndarray, start_N: np.ndarray, threshold: float | None) -> None:
        for node in range(1, len(tree)):
            prob_T = np.exp(tree.logprobs(node))
            deciding_T = np.exp(tree.top_logprobs(node) or tree.logprobs(node))
            trained_T = np.ones(len(prob_T)) if threshold is None else (deciding_T < threshold).astype(float)
            bin_T = (start_N[node] + np.arange(len(prob_T))) // self.width
            np.add.at(self.tokens_B, bin_T, weight_N[node])
            np.add.at(self.energy_B, bin_T, weight_N[node] * trained_T * (1 - prob_T) ** 2)

    def _widen(self, longest: int) -> None:
        while longest > BINS * self.width:
            self.width *= 2
            for name, sum_B in self._sums().items():
                setattr(self, name, np.append(sum_B.reshape(-1, 2).sum(1), np.zeros(BINS // 2)))

    def _sums(self) -> dict[str, np.ndarray]:
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def fade(self, kept: float) -> None:
        """Let the trees so far count so much of what they did."""
        for name, value in vars(self).items():
            if name != "width":
                setattr(self, name, value * kept)

    @property
    def mean_tokens(self) -> float:
        """Of a response."""
        return float(self.tokens_B.sum() / self.trees)

    @property
    def history(self) -> int:
        """Outcomes that were known of a prompt, in the mean."""
        return round(self.known / self.trees)

    @property
    def says_something(self) -> bool:
        """There were trees, outcomes that differ, and tokens to train."""
        return bool(self.trees and self.spread > 0 and self.energy_B.sum() > 0)

    def moments(self, cut_C: Sequence[int]) -> Moments:
        """What `predictions` need, at cuts in rising order, energy and advantage taken as independent."""
        end_B = np.arange(BINS + 1) * self.width
        before_C, energy_C = (
            np.interp(cut_C, end_B, np.append(0.0, sum_B.cumsum())) / self.trees
            for sum_B in (self.tokens_B, self.energy_B)
        )
        spread, energy, length = self.spread / self.trees, float(self.energy_B.sum() / self.trees), self.mean_tokens
        unsettled_C = spread * np.interp(cut_C, end_B, self._open_share(spread))
        return independent(length, before_C, energy, energy_C, spread, unsettled_C)

    def _open_share(self, spread: float) -> np.ndarray:
        """Share (B + 1,) of the variance that is open at each bin's start: falling, nearest to the trees', weighed by their number."""
        left_B = 1 - self.tokens_B.cumsum() / self.tokens_B.sum()
        weight_B = self.cut_B + EVENLY / BINS
        open_B = (self.unsettled_B / spread + EVENLY / BINS * left_B) / weight_B
        return np.append(1.0, falling(open_B.clip(0, 1), weight_B))

    def state(self) -> dict[str, Any]:
        """All of it as plain lists and numbers, for `restore`."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name, value in state.items():
            setattr(self, name, np.array(value) if isinstance(value, list) else value)


def independent(
    tokens: float, before_C: np.ndarray, energy: float, energy_C: np.ndarray, spread: float, unsettled_C: np.ndarray
) -> Moments:
    """What `predictions` need of the means alone: energy and advantage are taken as independent.

    tokens, energy: of a response, before_C, energy_C: of them before each cut; spread: variance of an outcome, unsettled_C: what
    of it is open there.
    """
    after_C, settled_C = energy - energy_C, spread - unsettled_C
    known = {
        "tokens": tokens,
        "before_C": before_C,
        "energy": energy,
        "energy_C": energy_C,
        "spread": spread,
        "unsettled_C": unsettled_C,
        "group": energy * spread,
        "group_noise": energy * spread,
        "overlap": OVERLAP * energy * spread,
        "before_value_C": energy_C * settled_C,
        "before_noise_C": energy_C * unsettled_C,
        "before_start_C": energy_C * spread,
        "before_others_C": energy_C * unsettled_C,
        "after_own_C": after_C * unsettled_C,
        "after_noise_C": after_C * unsettled_C,
        "after_value_C": after_C * settled_C,
        "after_start_C": after_C * spread,
        "after_others_C": after_C * unsettled_C,
        "after_cross_C": np.zeros(len(before_C)),
    }
    # What trees do not say, and the noise of a tree does not need.
    silent = ("reward", "truncated", "decided", "exact_value", "exact_advantage")
    silent += ("others", "others_square", "others_product")
    return Moments(**{name: np.asarray(value) for name, value in known.items()}, **dict.fromkeys(silent, np.array(0.0)))


def falling(value_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """The numbers (N,) that never rise and are nearest by weighted squares: neighbours that do are pooled, again and again."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(value_N.tolist(), weight_N.tolist(), strict=True):
        pool = (value, weight, 1)
        while pools and pools[-1][0] < pool[0]:
            mean, before, count = pools.pop()
            both = before + pool[1]
            pool = ((mean * before + pool[0] * pool[1]) / both, both, count + pool[2])
        pools.append(pool)
    return np.repeat([mean for mean, _, _ in pools], [count for _, _, count in pools])


@dataclass(frozen=True)
class Plan:
    """A shape, and the noise x tokens that are predicted for it, over those of the shape before and of the first one."""

    shape: TreeShape
    over_before: float
    over_first: float


def plan(profile: Profile, first: TreeShape, before: TreeShape, spend: float) -> Plan | None:
    """The shape of the least predicted noise x tokens, of those that take 1 +- `spend` of the tokens of `first`.

    The one before stays where no other is predicted to save `LEAST_GAIN`. Two children at least: with fewer a tree does not
    say how outcomes vary. None where there is nothing to plan by.
    """
    if not profile.says_something:
        return None
    own = {shape.segment_tokens[0] for shape in (first, before)}
    cut_C = sorted(own | set(cuts([profile.mean_tokens], CUTS)))
    m, history = profile.moments(cut_C), profile.history

    def design(shape: TreeShape) -> Tree:
        wide, deep = shape.branching
        return Tree(history=history, branching=(wide, deep), cut=cut_C.index(shape.segment_tokens[0]))

    old, start = design(before), design(first)
    among = [one for one in designs(len(cut_C), history) if isinstance(one, Tree) and one.branching[0] > 1]
    fitting = [one for one in (start, old, *among) if abs(one.tokens(m) / start.tokens(m) - 1) <= spend]
    best = cheapest(fitting, m)
    if old in fitting and best.price(m) > (1 - LEAST_GAIN) * old.price(m):
        best = old
    settled = float(settled_at(m)[best.cut])
    shape = TreeShape(best.branching, (cut_C[best.cut],), (settled,))
    price = best.price(m)
    return Plan(shape, float(price / old.price(m)), float(price / start.price(m)))


class Planner:
    """Shapes of the trees of a run, by iteration and place in the batch. One per run, on the controller."""

    def __init__(self, options: PlannedShape, first: TreeShape, seed: int):
        self.options, self.first, self.seed = options, first, seed
        self.now, self.over_first, self.profile = first, 1.0, Profile()

    def shape_of(self, iteration: int, slot: int) -> TreeShape:
        """Of one tree: the present shape, or, of a share of them, that cut elsewhere."""
        rng = random.Random(derive_seed(self.seed, "tree shape", iteration, slot))
        if rng.random() >= self.options.explore or not self.profile.says_something:
            return self.now
        cut_C = cuts([self.profile.mean_tokens], CUTS)
        number = rng.randrange(len(cut_C))
        settled = float(settled_at(self.profile.moments(cut_C))[number])
        return replace(self.now, segment_tokens=(cut_C[number],), settled=(settled,))

    def learn(self, tree: TokenTree, threshold: float | None, known: float) -> None:
        """As `Profile.learn`."""
        self.profile.learn(tree, threshold, known)

    def end(self, iteration: int) -> Plan | None:
        """The iteration is over: a plan for those that follow, if it is time for one."""
        if (iteration + 1) % self.options.every:
            return None
        made = plan(self.profile, self.first, self.now, self.options.spend)
        self.profile.fade(KEPT)
        if made is not None:
            self.now, self.over_first = made.shape, made.over_first
        return made

    def metrics(self) -> dict[str, float]:
        """The shape that the next trees have, and the profile behind it."""
        (wide, deep), [cut] = self.now.branching, self.now.segment_tokens
        told = {
            "children": wide,
            "leaves": deep,
            "cut": cut,
            "over_first": self.over_first,
            "trees": self.profile.trees,
        }
        if self.profile.says_something:
            cut_C = [max(1, round(share * self.profile.mean_tokens)) for share in QUARTERS.values()]
            m = self.profile.moments(cut_C)
            told |= {f"settled_{name}": value for name, value in zip(QUARTERS, settled_at(m), strict=True)}
            told |= {f"energy_{name}": value for name, value in zip(QUARTERS, m.energy_C / m.energy, strict=True)}
        return {f"plan/{name}": float(value) for name, value in told.items()}

    def state(self) -> dict[str, Any]:
        """All of it as plain lists and numbers, for `restore`."""
        return {"shape": vars(self.now), "over_first": self.over_first, "profile": self.profile.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        branching, segment_tokens, settled = (
            state["shape"][name] for name in ("branching", "segment_tokens", "settled")
        )
        self.now = TreeShape(tuple(branching), tuple(segment_tokens), None if settled is None else tuple(settled))
        self.over_first = state["over_first"]
        self.profile.restore(state["profile"])
