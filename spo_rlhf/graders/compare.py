"""Are two answers the same? Structure first (lists, intervals, matrices, words, exact numbers), computer algebra for
what is left.

The algebra is math-verify on latex2sympy2_extended, called on short pieces without its alarm-based time limits: those
work in a main thread only, and `pool.WorkerPool` limits time and memory for good.
"""

import functools
import logging
import re

from spo_rlhf.graders.guards import Problem, is_literal, too_large, unevaluated
from spo_rlhf.graders.normalize import normalize, squash
from spo_rlhf.graders.numbers import Quantity, compatible_units, quantity, same_quantity
from spo_rlhf.graders.structure import Node, as_text, parse, split_top

MAX_ITEMS = 60
MAX_FORMS = 3
MAX_SHOWN_CHARS = 500
UNORDERED = ("list", "set", "union")
BASE = re.compile(r"\(?\s*([0-9A-F]+)\s*\)?\s*_\s*\{?\s*(?:\\text\{)?\s*(\w+)\s*\}?\s*\}?")
BASE_NAMES = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "twelve": "12",
    "sixteen": "16",
}
_OPTION_WORDS = re.compile(r"\\text|\b(?:option|choice)\b|[(){}.\s]", re.IGNORECASE)
OPTION = re.compile(r"(?:\\text\s*\{\s*)?\(?\s*([A-J])\s*(?:\)\s*[.:]?|[.:]\s)\s*+\}?+\s*+([^\s,;].*)")
_PLAIN_WORDS = re.compile(r"(?=.*[A-Za-z]{2}|.*[a-z]\.[a-z])[\w:. ]+")  # "4:30 p.m."
_PLAIN_INTEGER = re.compile(r"-?[0-9]{1,18}")
EMPTY = ("\\emptyset", "\\{\\}")


def equal_answers(gold: str, answer: str, problem: str | None = None) -> tuple[bool, str]:
    """Whether `answer` says the same as `gold`, and why (not). Raw text of both; may take long on hostile text, see
    pool.WorkerPool.

    Args:
        gold: the right answer.
        answer: the extracted answer of a model.
        problem: the problem's text; an answer that merely copies an expression from it is refused.
    """
    if _PLAIN_INTEGER.fullmatch(gold) and _PLAIN_INTEGER.fullmatch(answer):  # what follows says the same, slower
        if int(gold) == int(answer):
            return True, "same text" if gold == answer else "equal"
        return False, "different"
    gold_text = _normalized_gold(gold)
    if squash(gold_text) == squash(normalize_limited(answer)):
        return (True, "same text") if gold_text else (False, "empty answer")
    answer_text = normalize_limited(answer)
    if not answer_text:
        return False, "empty answer"
    if reason := too_large(answer_text):
        return False, reason
    try:
        return _Comparison(Problem(problem)).compare(parse(gold_text), parse(answer_text), gold_text, answer_text)
    except (ValueError, RecursionError) as error:
        return False, f"cannot be read: {error}"[:120]


def normalize_limited(answer: str) -> str:
    """`normalize`, except that what is far too long is only cut (and refused later by its length)."""
    return normalize(answer) if len(answer) <= 2000 else answer[:2000]


_normalized_gold = functools.lru_cache(maxsize=4096)(normalize)


class _Comparison:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.reason = "different"

    def compare(self, gold: Node, answer: Node, gold_text: str, answer_text: str) -> tuple[bool, str]:
        if self.same(gold, answer) or self._option(gold_text, answer_text):
            return True, "equal"
        return False, self.reason

    def same(self, gold: Node, answer: Node) -> bool:
        if gold.kind in UNORDERED or answer.kind in UNORDERED:
            return self._same_collection(gold, answer)
        if gold.kind != answer.kind:
            if {gold.kind, answer.kind} == {"text", "expr"}:
                return as_text(gold.text) == as_text(answer.text)
            return False
        if gold.kind == "bracket":
            return gold.text == answer.text and self._in_order(gold.items, answer.items)
        if gold.kind in ("matrix", "row"):
            return self._in_order(gold.items, answer.items)
        if gold.name and answer.name and gold.name != answer.name and not {"f(x)", "y"} >= {gold.name, answer.name}:
            return False
        if gold.kind == "text":
            return gold.text == answer.text
        if (
            bool(gold.name) != bool(answer.name)
            and _is_equation(gold if answer.name else answer)
            and re.search("[a-z]", (gold if gold.name else answer).text)
        ):
            return self.same_scalar(_whole(gold), _whole(answer))  # "y = 2x" and "2x - y = 0"
        return self.same_scalar(gold.text, answer.text)

    def _same_collection(self, gold: Node, answer: Node) -> bool:
        if gold.kind not in UNORDERED and answer.kind == "list" and len(answer.items) <= MAX_FORMS:
            if all(self.same(gold, item) for item in answer.items):
                return True  # "3/4 or 0.75": one value in several forms
        if "union" in (gold.kind, answer.kind) and gold.kind != answer.kind and "set" not in (gold.kind, answer.kind):
            # "x < 1 or x > 2" is a union of intervals
            if any(item.kind != "bracket" for item in gold.items + answer.items):
                return False
        if answer.kind == "bracket" or gold.kind == "bracket":
            # Solutions in parentheses, or a point without them: the order counts. An interval is never a list.
            bracket, other = (answer, gold) if answer.kind == "bracket" else (gold, answer)
            return bracket.text == "()" and other.kind == "list" and self._in_order(gold.items, answer.items)
        gold_items, answer_items = (node.items if node.kind in UNORDERED else (node,) for node in (gold, answer))
        if len(gold_items) != len(answer_items) or len(gold_items) > MAX_ITEMS:
            return False
        named = [item.name for item in gold_items + answer_items if item.name]
        if len(set(named)) > 1 and len(named) < 2 * len(gold_items):
            return self._in_order(gold_items, answer_items)  # "x=1, y=2" for the pair 1, 2
        left = list(answer_items)
        for item in gold_items:
            match = next((other for other in left if self.same(item, other)), None)
            if match is None:
                return False
            left.remove(match)
        return True

    def _in_order(self, gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
        return len(gold) == len(answer) <= MAX_ITEMS and all(map(self.same, gold, answer))

    def _option(self, gold: str, answer: str) -> bool:
        """ "(C) 5" answers both a gold "C" and a gold "5"; "c" answers "C"."""
        letter = re.sub(r"\\text|[(){}.\s]", "", gold)
        if re.fullmatch("[A-J]", letter) and _OPTION_WORDS.sub("", answer) in (letter, letter.lower()):
            return True
        match = OPTION.fullmatch(answer)
        if not match or re.search(r"(?<![A-Za-z\\])[A-J](?![A-Za-z])", match[2]):
            return False
        if re.fullmatch("[A-J]", letter):
            return match[1] == letter
        return self.same(parse(gold), parse(normalize(match[2])))

    def same_scalar(self, gold: str, answer: str) -> bool:
        """Equality of two pieces without commas; notes the reason where a guard refuses."""
        if squash(gold) == squash(answer):
            return True
        if {squash(gold), squash(answer)} <= set(EMPTY):
            return True
        if _PLAIN_WORDS.fullmatch(gold) and _PLAIN_WORDS.fullmatch(answer) and _letters(gold) == _letters(answer):
            return True
        gold_base, answer_base = BASE.fullmatch(gold), BASE.fullmatch(answer)
        if gold_base or answer_base:
            return _same_base(gold, answer, gold_base, answer_base)
        gold_q, answer_q = quantity(gold), quantity(answer)
        if (
            not is_literal(answer_q.core)
            and squash(gold_q.core) != squash(answer_q.core)
            and self.problem.contains(answer_q.core)
        ):
            return self._refuse("copied from the problem")
        if gold_q.value is not None and answer_q.value is not None:
            return same_quantity(gold_q, answer_q)
        if squash(gold_q.core) == squash(answer_q.core):
            return gold_q.percent == answer_q.percent and compatible_units(gold_q, answer_q)
        return (
            compatible_units(gold_q, answer_q)
            and gold_q.percent == answer_q.percent
            and self._same_algebra(gold_q, answer_q)
        )

    def _same_algebra(self, gold: Quantity, answer: Quantity) -> bool:
        sides = split_top(answer.core, "=")
        if len(sides) > 1 and "=" not in gold.core:
            return self._same_chain(gold, sides)
        if r"\text" in answer.core or not _mathematical(gold.core) or not _mathematical(answer.core):
            return _words(gold.core) == _words(answer.core) != ""
        if reason := unevaluated(gold.core, answer.core, gold.value is not None):
            return self._refuse(reason)
        if too_large(gold.core):
            return self._refuse("gold answer too large to compute with")
        return algebraically_equal(gold.core, answer.core)

    def _same_chain(self, gold: Quantity, sides: list[str]) -> bool:
        """ "2+3=5" counts if every side has the gold's value; "4=5" does not."""
        *steps, last = sides
        if not all(sides) or len(sides) > 4 or not self.same_scalar(gold.core, last):
            return False
        return all(
            too_large(step) is None
            and _mathematical(step)
            and (
                quantity(step).value == gold.value
                if quantity(step).value is not None and gold.value is not None
                else algebraically_equal(gold.core, step)
            )
            for step in steps
        )

    def _refuse(self, reason: str) -> bool:
        self.reason = reason
        return False


def _same_base(gold: str, answer: str, gold_base: re.Match | None, answer_base: re.Match | None) -> bool:
    """Numerals with a base: equal digits, and equal bases unless one side leaves the base out."""
    digits = [
        match[1] if match else re.sub(r"[\s()]", "", text)
        for match, text in ((gold_base, gold), (answer_base, answer))
    ]
    bases = {BASE_NAMES.get(match[2], match[2]) for match in (gold_base, answer_base) if match}
    return digits[0] == digits[1] and len(bases) == 1


def _is_equation(node: Node) -> bool:
    return "=" in node.text and bool(re.search("[a-z]", node.text))


def _whole(node: Node) -> str:
    return f"{node.name} = {node.text}" if node.name else node.text


def _letters(text: str) -> str:
    return re.sub(r"[\s.]", "", text.lower())


def _words(text: str) -> str:
    return as_text(text) if re.search(r"[A-Za-z]{2}", text) else ""


def _mathematical(text: str) -> bool:
    """Free of plain words: computer algebra would read "seven" as a product of six symbols."""
    bare = re.sub(r"\\(?:begin|end|text|operatorname)\{[^{}]*\}|\\[A-Za-z]+", "@", text)
    words = re.findall(r"[A-Za-z]{4,}|(?<![_^\d])\d+\s+\d", bare)
    return not words and r"\text" not in text and "__" not in text and '"' not in text


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig
    from math_verify import parse as read

    return tuple(
        read(
            rf"\boxed{{{text}}}",
            [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
    )


def algebraically_equal(gold: str, answer: str) -> bool:
    """math-verify's judgement on two short expressions; False for what it cannot read."""
    from math_verify import verify

    gold_parsed, answer_parsed = _parsed(gold), _parsed(answer)
    return bool(gold_parsed and answer_parsed) and verify(list(gold_parsed), list(answer_parsed), timeout_seconds=None)


def warm_up() -> None:
    """Load the computer algebra and run it once, so that the first answer does not pay for it."""
    for logger in ("math_verify.parser", "math_verify.grader", "latex2sympy2_extended"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    algebraically_equal(r"\frac{x}{2}", r"0.5x")
