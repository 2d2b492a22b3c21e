"""Are two answers the same? Structure first (lists, intervals, matrices, words, exact numbers), computer algebra for
what is left.
"""

import functools
import re
from collections.abc import Sequence
from fractions import Fraction

from spo_rlhf.graders.algebra import algebraically_equal, mathematical
from spo_rlhf.graders.guards import Problem, is_literal, too_large, unevaluated
from spo_rlhf.graders.normalize import normalize, squash
from spo_rlhf.graders.numbers import Quantity, compatible_units, quantity, same_quantity
from spo_rlhf.graders.structure import Node, as_text, in_order_of_names, parse, split_top
from spo_rlhf.graders.units import DEGREE, RADIAN
from spo_rlhf.graders.words import lone_number

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
MAX_SIDES = 4
_NUMERIC_COMMAND = re.compile(r"\\(?:sqrt|frac|cdot|times|div|pi|binom|log|ln)(?![A-Za-z])")
_SYMBOL = re.compile(r"[A-Za-z]")
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
        if gold.kind == "matrix" and answer.kind == "expr" and r"\begin{pmatrix}" in answer.text:  # 2 (1, 2)^T
            if not self.problem.contains(answer.text) and algebraically_equal(gold_text, answer.text):
                return True, "equal"
        return False, self.reason

    def same(self, gold: Node, answer: Node) -> bool:
        if gold.kind in UNORDERED or answer.kind in UNORDERED:
            return self._same_collection(gold, answer)
        if gold.kind != answer.kind:
            if {gold.kind, answer.kind} == {"text", "expr"}:
                return as_text(gold.text) == as_text(answer.text)
            if {gold.kind, answer.kind} == {"matrix", "bracket"}:
                return self._same_vector(gold, answer)
            return False
        if gold.kind == "bracket":
            return gold.text == answer.text and self._in_order(gold.items, in_order_of_names(answer.items))
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
        return self.same_scalar(gold.text, answer.text, gold.name)

    def _same_vector(self, gold: Node, answer: Node) -> bool:
        """A column or row of a matrix and a tuple."""
        matrix, point = (gold, answer) if gold.kind == "matrix" else (answer, gold)
        cells = [cell for row in matrix.items for cell in row.items]
        if point.text != "()" or 1 not in (len(matrix.items), len(cells) // max(1, len(matrix.items))):
            return False
        return self._in_order(*((cells, point.items) if gold is matrix else (point.items, cells)))

    def _same_collection(self, gold: Node, answer: Node) -> bool:
        if gold.kind not in UNORDERED and answer.kind == "list" and len(answer.items) <= MAX_FORMS:
            spellings = {squash(item.text) for item in answer.items}
            if len(spellings) == len(answer.items) and all(self.same(gold, item) for item in answer.items):
                return True  # "3/4 or 0.75": one value in several forms
        if "union" in (gold.kind, answer.kind) and gold.kind != answer.kind and "set" not in (gold.kind, answer.kind):
            # "x < 1 or x > 2" is a union of intervals
            if any(item.kind != "bracket" for item in gold.items + answer.items):
                return False
        if answer.kind == "bracket" or gold.kind == "bracket":
            # Solutions in parentheses, or a point without them: the order counts. An interval is never a list.
            bracket, other = (answer, gold) if answer.kind == "bracket" else (gold, answer)
            if bracket.text != "()" or other.kind != "list":
                return False
            return self._in_order(in_order_of_names(gold.items), in_order_of_names(answer.items))
        gold_items, answer_items = (node.items if node.kind in UNORDERED else (node,) for node in (gold, answer))
        if len(gold_items) != len(answer_items) or len(gold_items) > MAX_ITEMS:
            return False
        named = [item.name.partition("_")[0] for item in gold_items + answer_items if item.name]
        if len(set(named)) > 1 and len(named) < 2 * len(gold_items):
            return self._in_order(gold_items, answer_items)  # "x=1, y=2" for the pair 1, 2
        left = list(answer_items)
        for item in gold_items:
            match = next((other for other in left if self.same(item, other)), None)
            if match is None:
                return False
            left.remove(match)
        return True

    def _in_order(self, gold: Sequence[Node], answer: Sequence[Node]) -> bool:
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

    def same_scalar(self, gold: str, answer: str, name: str | None = None) -> bool:
        """Equality of two pieces without commas; notes the reason where a guard refuses. `name`: what the gold answer is
        said to be.
        """
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
        if gold_q.value is not None and (number := lone_number(answer)):
            answer_q = quantity(number)
        if (
            not is_literal(answer_q.core)
            and squash(gold_q.core) != squash(answer_q.core)
            and self.problem.contains(answer_q.core)
        ):
            return self._refuse("copied from the problem")
        if gold_q.value is not None and answer_q.value is not None and not {gold_q.unit, answer_q.unit} >= {DEGREE, RADIAN}:
            return same_quantity(gold_q, answer_q)
        if self._is_angle(gold_q, answer_q):
            return self._same_angle(gold_q, answer_q)
        if squash(gold_q.core) == squash(answer_q.core):
            return gold_q.percent == answer_q.percent and compatible_units(gold_q, answer_q)
        return (
            compatible_units(gold_q, answer_q)
            and gold_q.percent == answer_q.percent
            and self._same_algebra(gold_q, answer_q, name)
        )

    def _is_angle(self, gold: Quantity, answer: Quantity) -> bool:
        """One of them is in degrees and the other in radians: a multiple of pi. Only where the gold or the problem is in
        degrees.
        """
        in_degrees = [part.unit == DEGREE for part in (gold, answer)]
        if not any(in_degrees) and self.problem.in_degrees:
            in_degrees[0] = gold.value is not None and gold.unit is None
        elif in_degrees == [False, True] and not self.problem.in_degrees:
            return False
        in_radians = [part.unit in (None, RADIAN) and r"\pi" in part.core for part in (gold, answer)]
        return in_degrees[0] and in_radians[1] or in_degrees[1] and in_radians[0]

    def _same_angle(self, gold: Quantity, answer: Quantity) -> bool:
        degrees, radians = (answer, gold) if r"\pi" in gold.core else (gold, answer)
        if degrees.value is None or not mathematical(radians.core) or too_large(radians.core):
            return False
        turn = degrees.value / Fraction(180)
        return algebraically_equal(rf"\frac{{{turn.numerator}\pi}}{{{turn.denominator}}}", radians.core)

    def _same_algebra(self, gold: Quantity, answer: Quantity, name: str | None) -> bool:
        sides = split_top(answer.core, "=")
        if len(sides) > 1 and "=" not in gold.core:
            return self._same_chain(gold, sides, name)
        if r"\text" in answer.core or not mathematical(gold.core) or not mathematical(answer.core):
            return _words(gold.core) == _words(answer.core) != ""
        if reason := unevaluated(gold.core, answer.core, gold.value is not None):
            return self._refuse(reason)
        if too_large(gold.core):
            return self._refuse("gold answer too large to compute with")
        return algebraically_equal(gold.core, answer.core)

    def _same_chain(self, gold: Quantity, sides: list[str], name: str | None) -> bool:
        """ "2+3=5" and "m+n=5" count if the last side has the gold's value and so has every other one that is a number;
        "4=5" does not.
        """
        *steps, last = sides
        if not all(sides) or len(sides) > MAX_SIDES or not self.same_scalar(gold.core, last):
            return False
        return all(
            name in (None, squash(step))
            if _SYMBOL.search(_NUMERIC_COMMAND.sub("", step))
            else too_large(step) is None
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
