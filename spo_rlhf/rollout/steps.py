"""A reward function's values of steps, for process reward models: where they stand among the tokens, and what becomes of them.

`--spo.step_rewards` says what a step's value means:

    add      a reward for the step: added to the advantage of the segment in which the step ends (its last token). Monte Carlo
             values stay what they are, those of the final reward, so nothing of it reaches earlier segments.
    replace  the value of the state behind the step, in the units of the reward: V(s_b) is that of the last step that ends at or
             before b, and no Monte Carlo continuation is sampled there. A boundary before the end of the first step has no value
             and is left out. The prompt's own value, V(s_0), comes from the other responses as ever.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from spo_rlhf.core.values import ValueEstimate
from spo_rlhf.errors import UserError
from spo_rlhf.rollout.protocol import Grade

RULES = ("off", "add", "replace")
FLAG = "--spo.step_rewards"


def check_steps(grade: Grade, rule: str) -> None:
    """The reward function and the option agree. Raises UserError; responses that were not graded are passed over."""
    if not grade.answered:
        return
    if rule == "off" and grade.steps is not None:
        raise UserError(f"the reward function returned steps; say what they mean: {FLAG} add or replace")
    if rule != "off" and grade.steps is None:
        raise UserError(f'{FLAG} {rule}: the reward function returned no "steps" for a response')


def token_ends(steps: Sequence[tuple[int, float]], text_T: Sequence[str]) -> list[int]:
    """Response tokens (J,) up to the end of each step: the token with its last character is the last of the step's."""
    length_T = list(accumulate(map(len, text_T)))
    return [min(bisect_left(length_T, end), len(text_T) - 1) + 1 for end, _ in steps]


def segment_rewards(value_J: Sequence[float], end_J: Sequence[int], boundary_K: Sequence[int]) -> np.ndarray:
    """Rewards (K,) of the segments: of each the sum over the steps that end in it. `boundary_K` (K + 1,)."""
    reward_K = np.zeros(len(boundary_K) - 1)
    for value, end in zip(value_J, end_J, strict=True):
        reward_K[bisect_left(boundary_K, end) - 1] += value
    return reward_K


def valued(
    value_J: Sequence[float], end_J: Sequence[int], boundary_K: Sequence[int]
) -> tuple[list[int], list[ValueEstimate]]:
    """Boundaries that have a value, and the values of the inner ones: that of the last step that ends at or before each."""
    kept, values = [boundary_K[0]], []
    for boundary in boundary_K[1:-1]:
        if done := bisect_right(end_J, boundary):
            kept.append(boundary)
            values.append(ValueEstimate(mean=float(value_J[done - 1]), stderr=0.0, count=1))
    return [*kept, boundary_K[-1]], values
