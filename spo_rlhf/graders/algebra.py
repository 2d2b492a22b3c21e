"""Computer algebra: are two short expressions equal?

math-verify on latex2sympy2_extended, called without its alarm-based time limits: those work in a main thread only, and
`host.pool.WorkerPool` limits time and memory for good.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

from spo_rlhf.graders.asked import may_be_complex
from spo_rlhf.graders.notation import for_the_parser, misread, relations

EXACT_DIGITS = 60
FLOAT_ERROR = "1e-12"  # of the parser, which makes floating-point numbers of decimals inside an expression
NEARLY = 1e-9
ROUNDED = 5e-6  # six significant digits
_PRIMES = r"'+|\^\s*(?:\{\s*(?:\\prime\s*)+\}|\\prime|\{\s*'+\s*\})"
_TRANSPOSE = r"\^\s*(?:\{\s*(?:T|\\top|\\intercal)\s*\}|T(?![A-Za-z])|\\top|\\intercal)"
_MARKED = re.compile(rf"([A-Za-z])(?:_(\w)|_\{{(\w+)\}})?\s*(?:({_PRIMES})|(?<=[A-Z]){_TRANSPOSE})")
_OTHER_MARK = re.compile(rf"{_PRIMES}|\)\s*{_TRANSPOSE}")
_NO_LETTERS = r"\\(?:begin|end|text|operatorname|math[a-z]+)\s*\{[^{}]*\}|\\[A-Za-z]+|_\s*\{[^{}]*\}"
_CAPITAL = re.compile(rf"{_NO_LETTERS}|([A-Z])(?!\s*_)")
# A word of three letters that stands by itself; not "abc" and "axy", nor a function without its backslash.
_SHORT_WORD = re.compile(
    r"(?<!\S)(?=[A-Za-z]?[a-z]*[aeiouAEIOU])(?![A-Da-du-z][a-du-z]{2}(?!\S))"
    r"(?!(?:sin|cos|tan|cot|sec|csc|log|exp|max|min|gcd|lcm|det|lim|mod)(?!\S))[A-Za-z][a-z]{2}(?!\S)"
)

_MODULUS = re.compile(r"\||\\[lr]?vert(?![A-Za-z])")


def mathematical(text: str) -> bool:
    """Free of plain words: computer algebra would read "seven" as a product of five symbols, and "was" as "saw".

    "ABC" is three points or a sequence, which "ACB" is not.
    """
    bare = re.sub(r"\\(?:begin|end|text|operatorname)\{[^{}]*\}|\\[A-Za-z]+", "@", text)
    words = re.findall(r"[A-Za-z]{4,}|[A-Z](?:\s*[A-Z]){2}|(?<![_^\d])\d+\s+\d", bare)
    words += re.findall(r"(?<![A-Za-z])(?:in|of|out|to|by|per)(?![A-Za-z])|\d\s*x\s*\d", bare)  # "2 in 5", a size "2x3"
    words += re.findall(r"(?<=\s)(?:if|iff|but|not|nor|xor|then|than|vs)(?=\s)", bare)
    words += _SHORT_WORD.findall(bare)
    return not words and r"\text" not in text and "__" not in text and '"' not in text


@functools.lru_cache(maxsize=4096)
def _parsed(text: str, *, real: bool = True) -> Any:
    """The whole of an expression, its letters real numbers or any; None where the parser cannot read it or where it is a
    statement, true or false.
    """
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex
    from sympy.logic.boolalg import BooleanAtom

    if misread(text):
        return None
    # Without what the library does for whole outputs: it takes a unit off "\pi r^2 h", and "R" for "r".
    plain = normalize_latex(for_the_parser(text), NormalizationConfig(malformed_operators=True, boxed="none"))
    try:
        found = latex2sympy(
            plain,
            is_real=None if not real else not should_treat_as_complex(plain),
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except Exception:  # of whatever kind: it has none of its own
        return None
    return None if isinstance(found, (bool, BooleanAtom)) else _same_symbols(found, real=real or None)


def _same_symbols(expression: Any, real: bool | None) -> Any:
    """One symbol per name, as the parser gives some of them other assumptions, and i as the imaginary unit."""
    from sympy import Basic, I, MatrixBase, Symbol

    if not isinstance(expression, (Basic, MatrixBase)):
        return expression
    symbols = [symbol for symbol in expression.free_symbols if type(symbol) is Symbol]
    # math-verify compares texts too, where "E" is the number e.
    names = {symbol: symbol.name if symbol.name != "E" else "capital E" for symbol in symbols}
    return expression.xreplace(
        {symbol: I if name == "i" else Symbol(name, real=real) for symbol, name in names.items()}
    )


def usually_complex(letter: str) -> bool:
    """A letter stands for a complex number where nothing is said of it."""
    return may_be_complex(letter, "")


def algebraically_equal(gold: str, answer: str, is_complex: Callable[[str], bool] = usually_complex) -> bool:
    """Equality of two short expressions; False for what cannot be read.

    is_complex: whether a letter may stand for a complex number. What is equal for real numbers alone is then not equal.

    math-verify judges, and `_apart` takes back what it says of numbers that differ by less than its absolute threshold.
    Letters under a root of the gold answer are positive, see `_under_roots`.
    """
    gold, answer = _with_own_letters(gold, answer)
    if sorted(_OTHER_MARK.findall(gold)) != sorted(_OTHER_MARK.findall(answer)):
        return False
    gold_parsed, answer_parsed = _parsed(gold), _parsed(answer)
    if gold_parsed is None or answer_parsed is None or relations(gold) != relations(answer):
        return False
    same = _verified(gold_parsed, answer_parsed)
    if not same and (positive := _under_roots(gold_parsed)):
        same = _verified(_with_positive(gold_parsed, positive), _with_positive(answer_parsed, positive))
    return same and (not _MODULUS.search(gold + answer) or _same_beyond_the_reals(gold, answer, is_complex))


def _with_own_letters(*texts: str) -> list[str]:
    """Both texts with another letter for each that the parser would take for one: y' for y, A^T for A, R for r beside R."""
    texts = tuple(_MARKED.sub(_own_letter, text) for text in texts)
    capitals = {
        m[1]
        for text in texts
        for m in _CAPITAL.finditer(text)
        if m[1] and m[1].lower() in re.sub(_NO_LETTERS, " ", text)
    }
    return [
        _CAPITAL.sub(lambda m: f"{m[1]}_{{0c}}" if m[1] in capitals else m.group(), text) if capitals else text
        for text in texts
    ]


def _own_letter(match: re.Match) -> str:
    mark = "0t" if not match[4] else f"{match[4].count(chr(39)) or match[4].count('prime')}p"
    return f"{match[1]}_{{{match[2] or match[3] or ''}{mark}}}"


def _verified(gold: Any, answer: Any) -> bool:
    from math_verify import verify
    from sympy import Symbol

    if isinstance(gold, Symbol) and isinstance(answer, Symbol) and gold.name != answer.name:
        return False  # it compares names without their case: \\Delta and \\delta
    return verify([gold], [answer], timeout_seconds=None) and not _apart(gold, answer)


def _apart(gold: Any, answer: Any) -> bool:
    """Two expressions that differ for certain, however small the difference is beside 1.

    Rational numbers are compared exactly, other numbers to EXACT_DIGITS digits of their own, expressions with letters at
    one point. A decimal that stands alone may be a rounded value, to six digits.
    """
    from sympy import Eq, Expr, MatrixBase, Tuple

    if isinstance(gold, Eq) and isinstance(answer, Eq):
        return _nearly_proportional(gold, answer)
    if isinstance(gold, MatrixBase) and isinstance(answer, MatrixBase):
        return gold.shape != answer.shape or any(map(_apart, gold.flat(), answer.flat()))
    if isinstance(gold, Tuple) and isinstance(answer, Tuple):
        return len(gold) != len(answer) or any(map(_apart, gold, answer))
    if not isinstance(gold, Expr) or not isinstance(answer, Expr):
        return False
    if gold == answer or gold.free_symbols != answer.free_symbols:
        return False
    try:
        return _difference(gold, answer) > _tolerance(gold, answer)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False  # no number comes out: infinite, or an unknown function


def _nearly_proportional(gold: Any, answer: Any) -> bool:
    """Two equations with the same solutions but for a small difference."""
    gold, answer = gold.lhs - gold.rhs, answer.lhs - answer.rhs
    if gold.free_symbols != answer.free_symbols:
        return False
    one, other = _point(gold.free_symbols), _point(gold.free_symbols, shift=5)
    try:
        crossed = gold.subs(one) * answer.subs(other), gold.subs(other) * answer.subs(one)
        return bool(_tolerance(*crossed) < _difference(*crossed) < NEARLY)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False


def _point(letters: Iterable[Any], shift: int = 0) -> dict[Any, Any]:
    """A positive value for each letter."""
    from sympy import Rational, prime

    symbols = sorted(letters, key=str)
    return {symbol: Rational(prime(index + 7 + shift), prime(index + 3)) for index, symbol in enumerate(symbols)}


def _difference(gold: Any, answer: Any) -> Any:
    """The difference of two expressions relative to the larger of them, at one point."""
    from sympy import Abs, Float, Rational

    point = _point(gold.free_symbols)
    sides = []
    for side in (gold, answer):
        exact = {decimal: Rational(str(decimal)) for decimal in side.atoms(Float)}
        sides.append(side.xreplace(exact).subs(point).doit())
    if all(side.is_Rational for side in sides):
        size = max(map(abs, sides))
        return abs(sides[0] - sides[1]) / size if size else size
    values = [side.evalf(EXACT_DIGITS + 10) for side in sides]
    size = max(Abs(value) for value in values)
    return Abs(values[0] - values[1]) / size if size else size


def _tolerance(gold: Any, answer: Any) -> Any:
    from sympy import Float

    if gold.is_Float != answer.is_Float:
        return ROUNDED
    if gold.atoms(Float) or answer.atoms(Float):
        return Float(FLOAT_ERROR)
    return 0 if gold.doit().is_Rational and answer.doit().is_Rational else Float(f"1e-{EXACT_DIGITS}")


def _same_beyond_the_reals(gold_text: str, answer_text: str, is_complex: Callable[[str], bool]) -> bool:
    """Of two expressions that are equal for real numbers: they are at a point where letters with a modulus are not, |z|^2 and z^2
    are not.

    No letter that may be complex has a modulus: nothing is to be shown.
    """
    from sympy import Abs, Basic, I, MatrixBase, Rational

    sides = [_parsed(text, real=False) for text in (gold_text, answer_text)]
    if not all(isinstance(side, (Basic, MatrixBase)) for side in sides):
        return False
    letters = set().union(*(side.free_symbols for side in sides))
    inside = set().union(*(modulus.free_symbols for side in sides for modulus in side.atoms(Abs)))
    if not any(is_complex(letter.name) for letter in inside):
        return True
    # Near the positive numbers, where roots and logarithms of products are those of the factors.
    points = [
        {
            letter: value + (I * Rational(1, 9 + place) if is_complex(letter.name) else 0)
            for place, (letter, value) in enumerate(one)
        }
        for one in (_point(letters, shift).items() for shift in (0, 5))
    ]
    try:
        return _same_at(sides[0], sides[1], points)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False


def _same_at(gold: Any, answer: Any, points: list[dict[Any, Any]]) -> bool:
    """Two expressions have the same values at all points, two relations such that one is a multiple of the other."""
    from sympy import Expr, MatrixBase, Tuple
    from sympy.core.relational import Relational

    if gold == answer:
        return True
    if isinstance(gold, MatrixBase) and isinstance(answer, MatrixBase):
        return all(_same_at(one, other, points) for one, other in zip(gold.flat(), answer.flat(), strict=True))
    if isinstance(gold, Tuple) and isinstance(answer, Tuple):
        return all(_same_at(one, other, points) for one, other in zip(gold, answer, strict=True))
    if isinstance(gold, Relational) and isinstance(answer, Relational):
        sides: list[Any] = [gold, answer]
        one, other = ([(side.lhs - side.rhs).subs(point) for point in points] for side in sides)
        return _same_number(one[0] * other[1], one[1] * other[0])
    if not isinstance(gold, Expr) or not isinstance(answer, Expr):
        return False
    return all(_same_number(gold.subs(point), answer.subs(point)) for point in points)


def _same_number(one: Any, other: Any) -> bool:
    values = [complex(value.doit().evalf(EXACT_DIGITS)) for value in (one, other)]
    return abs(values[0] - values[1]) <= NEARLY * max(map(abs, values))


def _under_roots(expression: Any) -> set[Any]:
    """Letters that are positive where the expression is real: with odd exponents in a product under an even root.

    So \\sqrt{a/b} is \\sqrt{a}/\\sqrt{b}, and \\sqrt{x^2} is not x.
    """
    from sympy import Basic, Pow

    if not isinstance(expression, Basic):
        return set()
    letters: set[Any] = set()
    for power in expression.atoms(Pow):
        root: Any = power.exp
        factors: Any = power.base.as_powers_dict()
        if root.is_Rational and root.q == 2:
            if all(base.is_Symbol and exponent.is_odd or base.is_positive for base, exponent in factors.items()):
                letters |= power.base.free_symbols
    return letters


def _with_positive(expression: Any, letters: set[Any]) -> Any:
    from sympy import Basic, Symbol

    if not isinstance(expression, Basic):
        return expression
    return expression.xreplace({letter: Symbol(letter.name, positive=True) for letter in letters})


def warm_up() -> None:
    """Load the computer algebra and run it once, so that the first answer does not pay for it."""
    for logger in ("math_verify.parser", "math_verify.grader", "latex2sympy2_extended"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    algebraically_equal(r"\frac{x}{2}", r"0.5x")
