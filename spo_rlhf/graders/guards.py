"""What an answer may not be, whatever its value: copied from the problem, unevaluated, or too large to compute with."""

import functools
import re

from spo_rlhf.graders import asked
from spo_rlhf.graders.normalize import normalize, skeleton
from spo_rlhf.graders.notation import TRIGONOMETRY

MAX_ANSWER_CHARS = 500
MAX_NESTING = 20
MAX_DIGIT_RUN = 100
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 100
MAX_PROBLEM_CHARS = 20_000

# Operations that a final answer leaves to the reader, by family: an answer may use a family only if the gold answer
# does.
_FAMILIES = {
    "sum or product": r"\\(?:sum|prod)(?![A-Za-z])",
    "integral": r"\\i+nt(?![A-Za-z])|\\oint",
    "limit": r"\\lim(?![A-Za-z])",
    "binomial": r"\\binom|\\choose|(?<![A-Za-z])C\(|\d\s*C\s*_?\d|_\{?\d+\}?\s*[CP]\s*_",
    "divisor": r"\\?gcd|\\?lcm",
    "logarithm": r"\\?(?:log|ln|lg)(?![A-Za-z])",
    "trigonometry": TRIGONOMETRY.pattern,
    "factorial": r"!",
    "remainder": r"\\[bp]?mod(?![A-Za-z])|(?<![A-Za-z])mod ",
    "extremum": r"\\?(?:max|min)(?![A-Za-z])",
    "rounding": r"\\[lr]?(?:floor|ceil)",
    "determinant": r"\\det|vmatrix",
    "absolute value": r"\||\\[lr]?vert",
    "derivative": r"\\frac\s*\{d|\\partial",
}
FAMILIES = {name: re.compile(pattern) for name, pattern in _FAMILIES.items()}
# Arithmetic left undone: an operator or a bracketed product between two operands.
ARITHMETIC = re.compile(r"(?<=[\w)}!])\s*(?:[-+*/]|\\times|\\cdot|\\div)|[)}\d]\s*\(|\)\s*[\w\\(]")
_DEGREES = re.compile(r"\bdegrees\b|°|\^\s*\{?\s*\\(?:circ|degree)", re.IGNORECASE)
_RATIO_WORD = re.compile(r"\bratios?\b|\bproportions?\b", re.IGNORECASE)
_LITERAL = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)|\\?[A-Za-z]+")
_SUPERSCRIPT = re.compile(r"\^\s*(?:\{|\S)")
_BIG_EXPONENT = re.compile(r"\^\s*\{?\s*\(?\s*[-+]?\s*(\d{4,})")
_FACTORIAL = re.compile(r"(\d+)\s*\)*\s*!|\)\s*!")


def unevaluated(gold: str, answer: str, gold_is_number: bool) -> str | None:
    """Why `answer` is an operation still to be carried out, judged by `gold`; None if it is not. Both normalised."""
    for family, pattern in FAMILIES.items():
        if pattern.search(answer) and not pattern.search(gold):
            return f"not evaluated: {family}"
    if gold_is_number and ARITHMETIC.search(answer):
        return "not evaluated: arithmetic"
    return None


def is_literal(answer: str) -> bool:
    """A single number or symbol: too small to be a copied expression."""
    return bool(_LITERAL.fullmatch(re.sub(r"\s+", "", answer)))


_MATRICES = re.compile(r"\bmatri(?:x|ces)\b|\b(?:linear )?operators\b|\\begin\{[a-zA-Z]?matrix\}", re.IGNORECASE)


class Problem:
    """The problem's text, ready to be searched for copies."""

    def __init__(self, text: str | None) -> None:
        self.text = (text or "")[-MAX_PROBLEM_CHARS:]  # the end, where the problem is that follows examples

    @property
    def skeleton(self) -> str:
        return _problem_skeleton(self.text)

    @property
    def in_degrees(self) -> bool:
        """The problem speaks of degrees of an angle."""
        return bool(_DEGREES.search(self.text))

    @property
    def asks_for_a_ratio(self) -> bool:
        return bool(_RATIO_WORD.search(self.text))

    @property
    def senses_asked(self) -> frozenset[str]:
        """The senses that turn a sign and that the problem asks for: "How much did she lose?", not "profit or loss?"."""
        return asked.senses_asked(self.text) if self.text else frozenset()

    @property
    def asks_for_order(self) -> bool:
        """The problem says in which order the parts of the answer are to be given."""
        return bool(self.text) and asked.asks_for_order(self.text)

    @property
    def asks_for_version(self) -> bool:
        """The answer is the number of a version."""
        return bool(self.text) and asked.asks_for_version(self.text)

    @property
    def speaks_of_matrices(self) -> bool:
        """Capital letters may be matrices, whose products have an order."""
        return bool(_MATRICES.search(self.text))

    def may_be_complex(self, letter: str) -> bool:
        """A letter of an expression may stand for a complex number."""
        return asked.may_be_complex(letter, self.text)

    def order_of(self, letters: tuple[str, ...]) -> tuple[str, ...] | None:
        """The letters in the order in which coordinates without names are theirs; None where it is not known."""
        return asked.order_of(letters, self.text)

    def contains(self, answer: str) -> bool:
        """The (normalised) answer is an expression of the problem, up to spaces, braces, multiplication signs."""
        symbols = skeleton(_fractions(answer))
        if not self.text or not symbols or is_literal(answer):
            return False
        before = r"(?<![\d.])" if symbols[0].isdigit() else ""
        after = r"(?![\d])" if symbols[-1].isdigit() else ""
        return re.search(before + re.escape(symbols) + after, self.skeleton) is not None


@functools.lru_cache(maxsize=64)
def _problem_skeleton(text: str) -> str:
    return skeleton(_fractions(normalize(text)))


def _fractions(text: str) -> str:
    return re.sub(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2", text)


def too_large(answer: str) -> str | None:
    """Why evaluating `answer` could take forever or fill the memory; None where it is harmless."""
    if len(answer) > MAX_ANSWER_CHARS:
        return f"answer longer than {MAX_ANSWER_CHARS} characters"
    depth = deepest = 0
    for char in answer:
        depth += (char in "({[") - (char in ")}]")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        return "nested too deeply"
    if re.search(rf"\d{{{MAX_DIGIT_RUN},}}", answer):
        return "number too long"
    if any(int(m[1][:9]) > MAX_EXPONENT for m in _BIG_EXPONENT.finditer(answer)) or _tower(answer):
        return "exponent too large"
    if any(m[1] is None or int(m[1][:9]) > MAX_FACTORIAL for m in _FACTORIAL.finditer(answer)) or "!!" in answer:
        return "factorial too large"
    # Sums, binomials and the like over large ranges.
    if any(FAMILIES[name].search(answer) for name in ("sum or product", "binomial", "divisor")) and re.search(
        r"\d{5,}|10\s*\^", answer
    ):
        return "range too large"
    return None


def _tower(answer: str) -> bool:
    """A power of numbers whose exponent is itself a power: "9^{9^{9}}"."""
    return (
        re.search(r"\^\s*\{?[^}]*\d[^}]*\^|\^\s*\{[^{}]*\{[^{}]*\}[^{}]*\^", answer) is not None
        and re.search(r"\^\s*\{?\s*[-+(]*\s*\d+\s*[)}]*\s*\^", answer) is not None
    )
