"""What is kept of graded samples for training: unique right responses, or right beside wrong ones. Pure functions.

A sample is a dict with at least `id` (of its prompt), `prompt`, `label`, `response` (text) and `reward`.
"""

from collections.abc import Iterable
from itertools import product
from typing import Any

from spo_rlhf.core.seeds import derive_seed

#: Responses per prompt that RestEM keeps, and pairs per prompt that the DPO baseline keeps.
CORRECT_PER_PROMPT, PAIRS_PER_PROMPT = 10, 64


def by_prompt(samples: Iterable[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    """Samples of each prompt, each response text once (the first of equal ones), in the order given."""
    groups: dict[Any, dict[str, dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault(sample["id"], {}).setdefault(sample["response"], sample)
    return {prompt: list(responses.values()) for prompt, responses in groups.items()}


def correct(samples: Iterable[dict[str, Any]], threshold: float, per_prompt: int) -> list[dict[str, Any]]:
    """The first `per_prompt` different responses to each prompt with a reward of at least `threshold`."""
    return [
        sample
        for group in by_prompt(samples).values()
        for sample in [sample for sample in group if sample["reward"] >= threshold][:per_prompt]
    ]


def pairs(samples: Iterable[dict[str, Any]], threshold: float, per_prompt: int, seed: int) -> list[dict[str, Any]]:
    """Every response of at least `threshold` beside every one below it, to the same prompt.

    Where a prompt has more than `per_prompt` pairs, so many of them are drawn, by `seed` and its text.
    """
    kept = []
    for group in by_prompt(samples).values():
        right = [sample for sample in group if sample["reward"] >= threshold]
        wrong = [sample for sample in group if sample["reward"] < threshold]
        combinations = list(product(right, wrong))
        if len(combinations) > per_prompt:
            drawn = sorted(
                range(len(combinations)), key=lambda i, asked=group[0]["prompt"]: derive_seed(seed, "pair", asked, i)
            )[:per_prompt]
            combinations = [combinations[number] for number in sorted(drawn)]
        for chosen, rejected in combinations:
            kept.append(
                {
                    **{name: chosen[name] for name in ("id", "prompt", "label")},
                    "chosen": chosen["response"],
                    "rejected": rejected["response"],
                    "chosen_reward": chosen["reward"],
                    "rejected_reward": rejected["reward"],
                }
            )
    return kept
