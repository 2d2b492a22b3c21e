"""A reward with values of steps: each line of the response is checked, as a process reward model would.

    spo-train --spo.mode chain --spo.partition newline --spo.step_rewards add --reward.remote_url examples/rewards/step_rewards.py ...

Here a step is worth 0.1 where its equation holds and -0.1 where it does not; a line without an equation is worth nothing. Put a
model in the place of `worth` for a process reward model, and with `--spo.step_rewards replace` return what it says of the chance
to end well from there (docs/rewards.md).
"""

import re

from spo_rlhf.tasks import math_reward
from spo_rlhf.tasks.queries import response_of

EQUATION = re.compile(r"(\d+) *([-+*]) *(\d+) *= *(-?\d+)")
RESULT = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def worth(line: str) -> float:
    """Value of a step of arithmetic."""
    found = EQUATION.search(line)
    if found is None:
        return 0.0
    first, sign, second, result = found.groups()
    return 0.1 if RESULT[sign](int(first), int(second)) == int(result) else -0.1


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict:
    """The final answer's reward, and a value for every line with text in it."""
    responses = [response_of(query, prompt) for query, prompt in zip(queries, prompts, strict=True)]
    lines = [[line for line in response.split("\n") if line.strip()] for response in responses]
    return {
        "rewards": math_reward.reward_func(queries, prompts, labels)["rewards"],
        "steps": [[worth(line) for line in one] for one in lines],
    }
