"""Are two answers the same? Structure first (lists, intervals, words, exact numbers), then computer algebra."""

import functools
import re
from collections.abc import Sequence

from spo_rlhf.graders.algebra import algebraically_equal
from spo_rlhf.graders.guards import Problem, too_large
from spo_rlhf.graders.normalize import normalize, squash
from spo_rlhf.graders.numbers import quantity
from spo_rlhf.graders.scalars import Scalars
from spo_rlhf.graders.structure import Node, as_text, by_letters, in_order_of_names, letters_of, parse
from spo_rlhf.graders.vocabulary import TURNING, Label, senses_of
from spo_rlhf.graders.words import rank

MAX_ITEMS = 60
MAX_FORMS = 3
MAX_SHOWN_CHARS = 500
OBJECTS = ("bracket", "set", "union", "matrix")
UNORDERED = ("list", "set", "union")
_OPTION_WORDS = re.compile(r"\\text|\b(?:option|choice)\b|[(){}.\s]", re.IGNORECASE)
OPTION = re.compile(r"(?:\\text\s*\{\s*)?\(?\s*([A-J])\s*(?:\)\s*[.:]?|[.:]\s)\s*+\}?+\s*+([^\s,;].*)")
_POINT = re.compile(r"[A-Z]'?\s*(\(.*,.*\))")
_SAID_AS = {
    "true": "yes",
    "false": "no",
    "dne": "does not exist",
    "doesnt exist": "does not exist",
    **dict.fromkeys(
        (
            "infinitely many solutions",
            "infinite solutions",
            "infinite number of solutions",
            "infinite number",
            "infinite",
        ),
        "infinitely many",
    ),
    **{f"due {wind}": wind for wind in ("north", "south", "east", "west")},
}
_CHOICE = re.compile(r"[A-Z]|[A-Za-z]{3,}")  # a letter of a choice, or a word
_PLAIN_INTEGER = re.compile(r"-?[0-9]{1,18}")


def equal_answers(gold: str, answer: str, problem: str | None = None) -> tuple[bool, str]:
    """Whether `answer` says the same as `gold`, and why (not). Raw text of both.

    May take long on hostile text: `host.pool.WorkerPool` limits it.

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
        return False, f"cannot be read: {error}"


def normalize_limited(answer: str) -> str:
    """`normalize`, except that what is far too long is only cut (and refused later by its length)."""
    return normalize(answer) if len(answer) <= 2000 else answer[:2000]


_normalized_gold = functools.lru_cache(maxsize=4096)(normalize)


class _Comparison:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.scalars = Scalars(problem)

    def compare(self, gold: Node, answer: Node, gold_text: str, answer_text: str) -> tuple[bool, str]:
        if self.same(gold, answer) or self._option(gold_text, answer_text):
            return True, "equal"
        if {gold.kind, answer.kind} == {"matrix", "expr"}:  # 2 (1, 2)^T
            texts = [node.text or text for node, text in ((gold, gold_text), (answer, answer_text))]
            copied = answer.kind == "expr" and self.problem.contains(answer.text)
            matrices = all(r"\begin{pmatrix}" in text for text in texts)
            if matrices and not copied and algebraically_equal(texts[0], texts[1], self.problem.may_be_complex):
                return True, "equal"
        return False, self.scalars.reason

    def same(self, gold: Node, answer: Node) -> bool:
        gold, answer = _aligned(gold, answer)
        if self._named_apart(gold, answer):
            return False
        if gold.kind in UNORDERED or answer.kind in UNORDERED:
            empty = any(node.kind == "expr" and node.text == r"\emptyset" for node in (gold, answer))
            return not empty and self._same_collection(gold, answer)  # the empty set is no set of one element
        if gold.kind != answer.kind:
            if {gold.kind, answer.kind} == {"text", "expr"}:
                return _said(gold) == _said(answer) or self.scalars.same_time(gold.text, answer.text)
            if {gold.kind, answer.kind} == {"matrix", "bracket"}:
                return self._same_vector(gold, answer)
            return False
        if gold.kind == "bracket":
            if (both := self._with_letters(gold, answer)) is None:
                return False
            gold, answer = both
            return gold.text == answer.text and self._in_order(gold.items, in_order_of_names(answer.items))
        if gold.kind in ("matrix", "row"):
            return self._in_order(gold.items, answer.items)
        if gold.name and answer.name and gold.name != answer.name and not {"f(x)", "y"} >= {gold.name, answer.name}:
            return (gold.name, answer.name) == (squash(answer.text), squash(gold.text))  # "y = x" and "x = y"
        if gold.kind == "text":
            return _said(gold) == _said(answer)
        if (
            bool(gold.name) != bool(answer.name)
            and _is_equation(gold if answer.name else answer)
            and re.search("[a-z]", (gold if gold.name else answer).text)
        ):
            return self.scalars.same(_whole(gold), _whole(answer))  # "y = 2x" and "2x - y = 0"
        return self.scalars.same(gold.text, answer.text, gold.name)

    def _with_letters(self, gold: Node, answer: Node) -> tuple[Node, Node] | None:
        """Tuples of which one says whose its coordinates are, in the order in which the other has them without names.

        None where the order is not known: "(b, a) = (3, 4)" beside "(3, 4)", unless the problem has "(b, a)".
        """
        letters = letters_of(gold), letters_of(answer)
        if bool(letters[0]) == bool(letters[1]):
            return gold, answer
        order = self.problem.order_of(letters[0] or letters[1])
        if order is None:
            return None
        return by_letters(gold, order), by_letters(answer, order)

    def _named_apart(self, gold: Node, answer: Node) -> bool:
        """Two names of points, intervals and the like; or one of a value that turns its sign, "\\text{Loss} = 5", which the problem
        does not ask for."""
        if gold.name and answer.name:
            return gold.kind in OBJECTS and answer.kind in OBJECTS and gold.name != answer.name
        name = gold.name or answer.name or ""
        return r"\text" in name and bool(senses_of(name) & TURNING.keys() - self.problem.senses_asked)

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
        if answer.kind == "bracket" or gold.kind == "bracket":
            # Solutions in parentheses, or a point without them: the order counts. An interval is never a list.
            bracket, other = (answer, gold) if answer.kind == "bracket" else (gold, answer)
            if bracket.text != "()" or other.kind != "list":
                return False
            return self._in_order(in_order_of_names(gold.items), in_order_of_names(answer.items))
        gold_items, answer_items = (node.items if node.kind in UNORDERED else (node,) for node in (gold, answer))
        if len(gold_items) != len(answer_items) or len(gold_items) > MAX_ITEMS:
            return False
        if not _joined_alike(gold, answer):
            return False
        named = [name for item in gold_items + answer_items if (name := _told_apart(item))]
        if len(set(named)) > 1 and len(named) < 2 * len(gold_items):
            return self._in_order(
                in_order_of_names(gold_items), in_order_of_names(answer_items)
            )  # "x=1, y=2", or "1 boy, 2 girls", for the pair 1, 2
        if self.problem.asks_for_order and gold.kind == "list":
            return self._in_order(gold_items, answer_items)
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


def _said(node: Node) -> str:
    text = as_text(node.text)
    return rank(text) or _SAID_AS.get(text, text)


def _joined_alike(gold: Node, answer: Node) -> bool:
    """ "A or C" is not "A and C", nor "A, C"; values may be listed with either word, as the solutions of an equation are.

    Conditions are joined alike where both sides say how: a comma between them may be either.
    """
    joins = [node.text if node.kind == "list" else "" for node in (gold, answer)]
    if any(item.kind == "text" or _CHOICE.fullmatch(item.text) for item in gold.items + answer.items):
        return ("or" in joins[0]) == ("or" in joins[1])
    if "union" in (gold.kind, answer.kind) and gold.kind != answer.kind and "set" not in (gold.kind, answer.kind):
        # "x < 1 or x > 2" is a union of intervals, "x < 1 and x > 2" is where both hold
        return "and" not in joins[0] + joins[1] and all(item.kind == "bracket" for item in gold.items + answer.items)
    if all(any(item.name or item.kind == "bracket" for item in node.items) for node in (gold, answer)):
        return not {"and", "or"} <= set(" ".join(joins).split()) or joins[0] == joins[1]
    return True


def _aligned(gold: Node, answer: Node) -> tuple[Node, Node]:
    """Points with their names off, and with coordinates in one order where both say whose they are."""
    gold, answer = _as_point(gold, answer), _as_point(answer, gold)
    both_say = all(node.name or node.kind == "list" for node in (gold, answer))
    return (by_letters(gold), by_letters(answer)) if both_say and gold.name != answer.name else (gold, answer)


def _as_point(node: Node, other: Node) -> Node:
    """ "P(2, 3)" as the point (2, 3) where it is compared with one."""
    if node.kind == "expr" and other.kind == "bracket" and (match := _POINT.fullmatch(node.text)):
        return parse(match[1])
    return node


def _told_apart(item: Node) -> str | Label:
    """The name of an item of a list, or the words beside its number; what is empty tells nothing apart."""
    if item.name:
        return item.name.partition("_")[0]
    label = quantity(item.text).label if item.kind == "expr" else Label()
    return "" if label == Label() else label


def _is_equation(node: Node) -> bool:
    return "=" in node.text and bool(re.search("[a-z]", node.text))


def _whole(node: Node) -> str:
    return f"{node.name} = {node.text}" if node.name else node.text
