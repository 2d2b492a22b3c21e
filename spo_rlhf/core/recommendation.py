"""What a diagnosis says and recommends: profiles, the oracle ratio, the best design of each kind, each with its interval.

Every price is in units of RLOO's with 8 responses and no history. A segment method is recommended where it is predicted to
cost at most `WORTH_IT` of the best group with the same history, chosen on one half of the prompts and judged on the other,
and the interval of the whole stays below 1; else RLOO is.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np

from spo_rlhf.core.diagnosis import Moments, resampled
from spo_rlhf.core.predictions import Chain, Design, Group, Interval, Tree, cheapest, designs, interval, settled_at

WORTH_IT = 0.9
CLEAR = 0.5  # oracle ratio above which no credit assignment that pays for its samples can win clearly
REFERENCE = Group(responses=8)
KINDS: dict[str, type[Design]] = {"group": Group, "chain": Chain, "tree": Tree}


@dataclass(frozen=True)
class Choice:
    """The cheapest design of a kind. price: in units of the reference's; over_group: in those of the best group's."""

    what: str
    options: str
    history: int
    price: Interval
    over_group: Interval
    over_group_held_out: float  # chosen on one half of the prompts, judged on the other; mean of both ways


@dataclass(frozen=True)
class Diagnosis:
    """All that is said. Shares are of 1; tokens those of a response."""

    prompts: int
    reward: Interval
    tokens: Interval
    energy: Interval  # of a response
    decided: Interval
    truncated: Interval
    calibration: Interval  # rise of the outcome with the others' mean; 1: a perfect baseline
    cuts: list[int]
    energy_before: list[Interval]  # share, at each cut
    settled_before: list[Interval]
    oracle: dict[str, Interval]
    choices: list[Choice]
    recommended: int  # of the choices
    verdict: str

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def metrics(self) -> dict[str, float]:
        """What a run logs of it, intervals as _low and _high."""
        known = max(choice.history for choice in self.choices)
        segments = [one.over_group for one in self.choices if one.history == known and not one.what.startswith("RLOO")]
        told = {
            "oracle_baseline": self.oracle["value"],
            "oracle_advantage": self.oracle["advantage"],
            "decided": self.decided,
            "truncated": self.truncated,
            "calibration": self.calibration,
        }
        if segments:
            told["segments_over_group"] = min(segments, key=lambda one: one.value)
        made = {f"{name}{part}": value for name, one in told.items() for part, value in one.parts().items()}
        return {**made, "reward": self.reward.value, "energy": self.energy.value, "response_tokens": self.tokens.value}


@np.errstate(divide="ignore", invalid="ignore")  # a resampling may have no gradient: its ratios are left out
def diagnose(of_prompts: Sequence[Moments], cut_C: Sequence[int], history: int, draws: int, seed: int) -> Diagnosis:
    """Raises ValueError where the responses of no prompt differ in their outcome: there is no gradient."""
    m = resampled(of_prompts, draws, seed)
    if not m.spread[0] > 0 or not m.group[0] > 0:
        raise ValueError("the responses to each prompt have one outcome, or no token is trained: there is no gradient")
    halves = [resampled(of_prompts[half::2], 0, seed) for half in (0, 1)]
    choices = [
        _choose(kind, known, m, halves, cut_C)
        for known in sorted({0, history})
        for kind in KINDS
        if kind == "group" or cut_C
    ]
    number, verdict = _recommend(choices, oracle_ratios(m))
    spread = np.maximum(m.others_square - m.others**2, 1e-12)
    energy = np.where(m.energy > 0, m.energy, 1.0)
    settled_DC = settled_at(m)
    return Diagnosis(
        prompts=len(of_prompts),
        reward=interval(m.reward),
        tokens=interval(m.tokens),
        energy=interval(m.energy),
        decided=interval(m.decided),
        truncated=interval(m.truncated),
        calibration=interval((m.others_product - m.others * m.reward) / spread),
        cuts=list(cut_C),
        energy_before=[interval(m.energy_C[:, c] / energy) for c in range(len(cut_C))],
        settled_before=[interval(settled_DC[:, c]) for c in range(len(cut_C))],
        oracle=oracle_ratios(m),
        choices=choices,
        recommended=number,
        verdict=verdict,
    )


def oracle_ratios(m: Moments) -> dict[str, Interval]:
    """What a free exact value of each state as baseline, and a free exact advantage of each token, would leave.

    `value`, `advantage`: of one response's noise against the exact V(s_0). `value_tokens`, `advantage_tokens`: noise times
    tokens with one response a prompt, over RLOO's with 8: the most that credit assignment and group size win together.
    """
    reference, group = REFERENCE.price(m), np.where(m.group > 0, m.group, np.nan)
    return {
        "value": interval(m.exact_value / group),
        "advantage": interval(m.exact_advantage / group),
        "value_tokens": interval(m.exact_value * m.tokens / reference),
        "advantage_tokens": interval(m.exact_advantage * m.tokens / reference),
    }


def _choose(kind: str, history: int, m: Moments, halves: Sequence[Moments], cut_C: Sequence[int]) -> Choice:
    among = [one for one in designs(len(cut_C), history) if isinstance(one, KINDS[kind])]
    groups = [one for one in designs(0, history) if isinstance(one, Group)]
    best, group = cheapest(among, m), cheapest(groups, m)
    held_out = []
    for mine, other in (halves, halves[::-1]):
        ratio = cheapest(among, mine).price(other) / cheapest(groups, mine).price(other)
        held_out.append(max(float(ratio[0]), 1e-6))
    return Choice(
        what=describe(best, m, cut_C)[0],
        options=describe(best, m, cut_C)[1],
        history=history,
        price=interval(best.price(m) / REFERENCE.price(m)),
        over_group=interval(best.price(m) / group.price(m)),
        over_group_held_out=sqrt(held_out[0] * held_out[1]),
    )


def describe(design: Design, m: Moments, cut_C: Sequence[int]) -> tuple[str, str]:
    """A design in words, and as options of spo-train."""
    history = " --spo.baseline history" if design.history else ""
    if isinstance(design, Group):
        options = "--spo.mode group --algo.advantage.estimator rloo --rollout.n_samples_per_prompt"
        return f"RLOO, {_many(design.responses, 'response')}", f"{options} {design.responses}{history}"
    if isinstance(design, Chain):
        at = cut_C[design.cut]
        what = f"chain, {_many(design.responses, 'response')}, {_many(design.rollouts, 'rollout')} at token {at}"
        options = (
            f"--spo.mode chain --rollout.n_samples_per_prompt {design.responses} --spo.mc_rollouts {design.rollouts}"
        )
        return what, f"{options} --spo.partition places --spo.places {at}{history}"
    assert isinstance(design, Tree)
    at, (wide, deep) = cut_C[design.cut], design.branching
    options = (
        f"--spo.mode tree --spo.tree_branching {wide},{deep} --spo.tree_segment_tokens {at} --spo.tree_advantage shrunk"
    )
    settled = f" --spo.tree_settled {design.factors(m)[0]:.2f} --spo.tree_level_weights"
    return f"tree {wide}-{deep}, shrunk, cut at token {at}", options + settled + history


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def _recommend(choices: Sequence[Choice], oracle: dict[str, Interval]) -> tuple[int, str]:
    """Number of the recommended choice, among those that know most of the prompts, and why."""
    known = max(choice.history for choice in choices)
    mine = [number for number, choice in enumerate(choices) if choice.history == known]
    group, *segments = mine
    won = [
        number
        for number in segments
        if choices[number].over_group_held_out <= WORTH_IT and choices[number].over_group.high < 1
    ]
    limit = oracle["advantage"]
    ceiling = f"oracle ratio {limit.value:.2f} ({limit.low:.2f} to {limit.high:.2f})"
    if won:
        best = min(won, key=lambda number: choices[number].over_group.value)
        gain = choices[best].over_group
        return best, (
            f"{choices[best].what}: {gain.value:.2f} ({gain.low:.2f} to {gain.high:.2f}) of the tokens of the best RLOO "
            f"for the same noise; {ceiling}"
        )
    plain = f"{choices[group].what}{' with a history' if known else ''} is best"
    if limit.low > CLEAR:
        return group, f"{plain}; {ceiling}: no credit assignment that pays for its samples can win clearly here"
    return group, f"{plain}: no chain or tree is predicted to need {WORTH_IT} of its tokens or fewer; {ceiling}"
