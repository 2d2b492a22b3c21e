"""Mathematics, lenient mode: what lighteval's extractive match (0.8, the harness of published tables) gives credit for.

Boxed answers are preferred, then any expression anywhere in the text, unfinished thoughts included. So luck on
truncated outputs is part of this score; report it beside the strict one.
"""

import functools
import re

from spo_rlhf.graders.extract import MAX_OUTPUT_CHARS
from spo_rlhf.graders.verdict import Question, Verdict

LENIENT_DIGITS = 5


def grade(question: Question, output: str) -> Verdict:
    """Grade as lighteval does. The gold may be a whole reference solution, whose answer is then found the same way."""
    from math_verify import verify

    gold = question.gold
    if len(output) > MAX_OUTPUT_CHARS:
        return Verdict(False, None, f"output longer than {MAX_OUTPUT_CHARS} characters")
    gold_parsed = _parse(gold if re.search(r"\\boxed|\$|\\\(|\\\[", gold) else rf"\boxed{{{gold}}}")
    answer_parsed = _parse(output)
    if not answer_parsed:
        return Verdict(False, None, "no expression found")
    correct = verify(gold_parsed, answer_parsed, float_rounding=LENIENT_DIGITS, timeout_seconds=None)
    return Verdict(correct, str(answer_parsed[-1])[:200], "equal" if correct else "different")


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> list:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    return parse(
        text,
        [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()],
        parsing_timeout=None,  # pyright: ignore[reportArgumentType]  no limit
    )
