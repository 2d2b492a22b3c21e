"""Rows of kept rollouts without a model, of any length and with any text."""

import random

from spo_rlhf.rollouts.schema import SCHEMA, Row

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "{{script}} {{data}}",
    "<!-- \u2028 -->",
    "' onclick='window.hacked = 3'",
    "\x1b[31m\x07 \ud83d",
    "&lt;b&gt; <b>bold</b>",
)


def row(
    step: int, slot: int, sample: int, tokens: list[str], *, prompt: str = "", label: str = "", segments: int = 4
) -> Row:
    """A response in equal segments, with advantages on both sides and some that are 0."""
    rng = random.Random(f"{step} {slot} {sample}")
    count = len(tokens)
    boundaries = [count * k // segments for k in range(segments + 1)]
    reward = float(rng.random() < 0.5)
    values = [rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]) for _ in range(segments)] + [reward]
    cuts = [int(rng.random() < 0.2) for _ in tokens]
    advantages = [after - before for before, after in zip(values, values[1:])]
    return {
        "schema": SCHEMA,
        "step": step,
        "method": "chain",
        "slot": slot,
        "prompt_id": f"prompt{slot}",
        "prompt": prompt or f"Question {slot}: how many?",
        "label": label or str(slot),
        "sample": sample,
        "parent": 0,
        "level": 1,
        "response": "".join(tokens),
        "token_ids": list(range(count)),
        "token_texts": tokens,
        "logprobs": [-rng.random() for _ in tokens],
        "mask": cuts,
        "cuts": cuts,
        "advantages": [
            adv for adv, start, end in zip(advantages, boundaries, boundaries[1:]) for _ in range(end - start)
        ],
        "trained": True,
        "boundaries": boundaries,
        "segment_advantages": advantages,
        "values": values,
        "value_stderrs": [0.25] * segments + [0.0],
        "value_counts": [3] + [4] * (segments - 1) + [1],
        "reward": reward,
        "reward_parts": [{"name": "reward", "value": reward}, {"name": "score", "value": reward}],
        "truncated": sample == 2,
        "weight_version": step - 1,
        "token_versions": [],
    }


def rows(*, steps: int = 3, prompts: int = 2, samples: int = 4, length: int = 24) -> list[Row]:
    """The same prompts at every step."""
    words = [f"word{number} " for number in range(50)]
    return [
        row(step, slot, sample, [words[(at + slot) % 50] for at in range(length)])
        for step in range(1, steps + 1)
        for slot in range(prompts)
        for sample in range(1, samples + 1)
    ]


def hostile() -> list[Row]:
    """Every text of a run is an attack, the names that a reward function gave included."""
    made = []
    for sample, text in enumerate(HOSTILE, 1):
        one = row(1, sample, sample, [text, *text, " end"], prompt=text, label=text, segments=2)
        one["reward_parts"].append({"name": text, "value": 1.0})
        made.append(one)
    return made
