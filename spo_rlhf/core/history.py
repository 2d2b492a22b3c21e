"""What is known of a prompt before it is sampled again: its pass rate in earlier iterations, the older the less.

An outcome r of iteration i counts 2^(-(t - i) / H) in iteration t: the policy has changed since. With the prompt's own
sum S and weight W of outcomes, discounted so, and the discounted mean m of all prompts together,

    prior mean = (S + k m) / (W + k),    prior count = W + k.

Only earlier iterations enter, so the prior is independent of the responses that it is a baseline of.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spo_rlhf.core.values import Prior

NOTHING_KNOWN = 0.5  # mean of a reward between 0 and 1 before the first iteration; any constant is unbiased
KEY_BYTES = 12


def prompt_key(prompt: str, label: object) -> str:
    """A name for a prompt with its label, by their content: the same in every epoch, order of the data and process."""
    content = json.dumps([prompt, str(label)]).encode()
    return hashlib.blake2b(content, digest_size=KEY_BYTES).hexdigest()


@dataclass(frozen=True)
class Outcomes:
    """Outcomes up to an iteration: sum and number, discounted to it, and the iteration itself."""

    total: float = 0.0
    count: float = 0.0
    iteration: int = 0

    def at(self, iteration: int, half_life: float) -> "Outcomes":
        """The same, discounted to a later iteration."""
        kept = 0.5 ** ((iteration - self.iteration) / half_life)
        return Outcomes(self.total * kept, self.count * kept, iteration)

    def with_rewards(self, rewards: Sequence[float]) -> "Outcomes":
        return Outcomes(self.total + sum(rewards), self.count + len(rewards), self.iteration)


class PromptHistory:
    """Outcomes of all prompts that were sampled, by `prompt_key`.

    Args:
        half_life: iterations after which an outcome counts half. Above 0.
        strength: k, outcomes that the mean of all prompts counts as. Above 0.
    """

    def __init__(self, half_life: float, strength: float):
        if half_life <= 0 or strength <= 0:
            raise ValueError(f"half-life {half_life} and strength {strength} must be above 0")
        self.half_life, self.strength = half_life, strength
        self.of_prompt: dict[str, Outcomes] = {}
        self.overall = Outcomes()

    def age(self, key: str, iteration: int) -> int | None:
        """Iterations since the prompt was sampled last; None where it never was."""
        known = self.of_prompt.get(key)
        return None if known is None else iteration - known.iteration

    def prior(self, key: str, iteration: int) -> Prior:
        """What is known of a prompt in an iteration, before its rewards are added. Its count is at least `strength`."""
        everything = self.overall.at(iteration, self.half_life)
        mean = everything.total / everything.count if everything.count > 0 else NOTHING_KNOWN
        own = self.of_prompt.get(key, Outcomes()).at(iteration, self.half_life)
        count = own.count + self.strength
        return Prior((own.total + self.strength * mean) / count, count)

    def add(self, key: str, rewards: Sequence[float], iteration: int) -> None:
        """Take the rewards of one prompt. Iterations must not go back."""
        known = self.of_prompt.get(key, Outcomes(iteration=iteration))
        self.of_prompt[key] = known.at(iteration, self.half_life).with_rewards(rewards)
        self.overall = self.overall.at(iteration, self.half_life).with_rewards(rewards)

    def state(self) -> dict[str, Any]:
        """All of it as plain lists and numbers, for `restore`."""
        rows = {key: [one.total, one.count, one.iteration] for key, one in self.of_prompt.items()}
        overall = self.overall
        return {"prompts": rows, "overall": [overall.total, overall.count, overall.iteration]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.of_prompt = {key: Outcomes(*row) for key, row in state["prompts"].items()}
        self.overall = Outcomes(*state["overall"])
