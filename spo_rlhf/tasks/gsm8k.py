"""The reward of GSM8K and of the arithmetic task: 1 where the one number after `####` is the answer, else 0.

Hand this file to the trainer as `--reward.remote_url spo_rlhf/tasks/gsm8k.py`. It is loaded by its path in worker
processes, so it needs the standard library only. Use it as the pattern for a reward of your own.
"""

import re
from fractions import Fraction

MARK = "####"

# Longer than any answer; a bound, because int() of n digits takes time n^2.
_MAX_NUMBER_LENGTH = 100
# A sign, a dollar sign in either order, grouped or plain digits, decimals; then a fraction's denominator or a percent
# sign, and a full stop.
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*\$?\s*(?P<inner_sign>[-+]?)"
    r"(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?P<decimals>\.[0-9]+)?"
    r"(?:\s*/\s*(?P<denominator>[0-9]+))?\s*%?\s*\.?"
)
# Tokens such as </s>, <|endoftext|> and their full-width forms, which decoding leaves at the end of a response.
_END_OF_TEXT = re.compile(r"(?:\s|</?\w{1,32}>|<[|｜][^<>]{1,32}[|｜]>)*\Z")


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict:
    """Grade responses: lists of B texts to {"rewards": B floats, "scores": B floats, "extra_logs": {}}.

    A query is its prompt followed by the response, special tokens included. A label is the answer, or a solution that
    ends in `#### answer`. Raises ValueError where a query does not contain its prompt or a label has no number: both
    are mistakes in the set-up that a reward of 0 would hide.
    """
    rewards = [
        float(is_correct(response_of(query, prompt), label))
        for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]
    return {"rewards": rewards, "scores": list(rewards), "extra_logs": {}}


def response_of(query: str, prompt: str) -> str:
    """Return what follows the prompt; decoding may have put a token before it or changed the space around it."""
    if query.startswith(prompt):
        return query[len(prompt) :]
    start = query.find(prompt.strip())
    if start < 0:
        raise ValueError("a query does not contain its prompt: raise --data.max_len if prompts are being cut")
    return query[start + len(prompt.strip()) :]


def is_correct(response: str, label: str) -> bool:
    """Tell whether the response has one `####` and after it nothing but the label's number."""
    gold = parse_number(label.rpartition(MARK)[2])
    if gold is None:
        raise ValueError(f"the label {label[:80]!r} has no number: check --data.label_key")
    parts = response.split(MARK, 2)
    return len(parts) == 2 and parse_number(parts[1]) == gold


def parse_number(text: str) -> Fraction | None:
    """Return the number that the text consists of, exactly; None where it is anything else.

    `1,234`, `$42`, `42.0`, `42%`, `42.` and ` 42 </s>` are numbers; `42 apples`, `6 * 7` and `4 2` are not.
    """
    head = text.strip()[: 2 * _MAX_NUMBER_LENGTH]
    match = _NUMBER.match(head)
    if match is None or len(match[0]) > _MAX_NUMBER_LENGTH or not (match["digits"] or match["decimals"]):
        return None
    if match["sign"] and match["inner_sign"]:
        return None
    if not _END_OF_TEXT.match(text.strip(), match.end()):
        return None
    denominator = int(match["denominator"] or 1)
    if denominator == 0:
        return None
    value = Fraction(f"{match['digits'].replace(',', '') or 0}{match['decimals'] or ''}") / denominator
    return -value if "-" in (match["sign"], match["inner_sign"]) else value
