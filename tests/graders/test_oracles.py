"""The strict grader beside math-verify: one verdict on generated pairs whose truth is known, and where the two differ by design."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spo_rlhf.graders.algebra import warm_up
from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.verdict import Question

few = settings(max_examples=25)
small = st.integers(-30, 30)


@pytest.fixture(scope="module", autouse=True)
def warm():
    warm_up()


def of_math_verify(gold: str, answer: str) -> bool:
    """Its own parser and verdict, with its defaults but for the time limits, which need the main thread."""
    import math_verify

    read = [math_verify.LatexExtractionConfig(boxed_match_priority=0), math_verify.ExprExtractionConfig()]
    gold_read, answer_read = (
        math_verify.parse(rf"\boxed{{{text}}}", read, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        for text in (gold, answer)
    )
    return math_verify.verify(gold_read, answer_read, timeout_seconds=None)


def ours(gold: str, answer: str) -> bool:
    return grade_here(Question(gold), rf"\boxed{{{answer}}}").correct


def agree(gold: str, answer: str, truth: bool) -> None:
    assert (ours(gold, answer), of_math_verify(gold, answer)) == (truth, truth), (gold, answer)


def fraction(value: Fraction) -> str:
    return rf"{'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


SPELLINGS = [
    fraction,
    lambda value: fraction(value).replace("frac", "dfrac"),
    lambda value: f"{value.numerator}/{value.denominator}",
    lambda value: rf"\frac{{{3 * value.numerator}}}{{{3 * value.denominator}}}",
    lambda value: f"x = {fraction(value)}",
    lambda value: f"${fraction(value)}$",
]
rationals = st.fractions(-50, 50, max_denominator=12)


@few
@given(rationals, rationals, st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS))
def test_rational_numbers_in_any_spelling(one, other, write, write_other) -> None:
    agree(write(one), write_other(one), True)
    if one != other:
        agree(write(one), write_other(other), False)


@few
@given(st.integers(-(10**6), 10**6), st.integers(0, 4), st.integers(1, 9))
def test_decimals_with_zeros_behind_them(digits, places, change) -> None:
    exact, changed = (Fraction(number, 10**places) for number in (digits, digits + change))
    written, other = (f"{float(value):.{places + 2}f}" for value in (exact, changed))
    agree(fraction(exact), written, True)
    agree(fraction(exact), other, False)


@few
@given(st.integers(1, 20), st.sampled_from([2, 3, 5, 6, 7]), st.integers(2, 5), st.integers(1, 3))
def test_square_roots_with_a_factor_drawn_out(a, radicand, factor, change) -> None:
    gold = rf"{a * factor}\sqrt{{{radicand}}}"
    agree(gold, rf"{a}\sqrt{{{radicand * factor**2}}}", True)
    agree(gold, rf"\frac{{{a * factor * radicand}}}{{\sqrt{{{radicand}}}}}", True)
    agree(gold, rf"{a * factor + change}\sqrt{{{radicand}}}", False)
    agree(gold, rf"-{a}\sqrt{{{radicand * factor**2}}}", False)


def linear(root: int) -> str:
    return f"(x{-root:+d})"


@few
@given(small.filter(bool), small.filter(bool), st.integers(1, 5))
def test_polynomials_multiplied_out(p, q, change) -> None:
    def multiplied_out(constant: int) -> str:
        return f"x^2{-(p + q):+d}x{constant:+d}"

    agree(multiplied_out(p * q), linear(p) + linear(q), True)
    agree(multiplied_out(p * q), linear(q) + linear(p), True)
    agree(multiplied_out(p * q + change), linear(p) + linear(q), False)


@few
@given(st.lists(small, min_size=2, max_size=5, unique=True), st.data())
def test_sets_in_any_order_and_tuples_in_theirs(items, data) -> None:
    shuffled = data.draw(st.permutations(items))
    one, other = (", ".join(map(str, numbers)) for numbers in (items, shuffled))
    changed = ", ".join(map(str, [*shuffled[:-1], 99]))
    agree(rf"\{{{one}\}}", rf"\{{{other}\}}", True)
    agree(rf"\{{{one}\}}", rf"\{{{changed}\}}", False)
    agree(f"({one})", f"({other})", shuffled == items)


@few
@given(small, st.integers(1, 20), st.sampled_from(["()", "[)", "(]", "[]"]), st.sampled_from(["()", "[)", "(]", "[]"]))
def test_intervals_with_their_ends(low, width, ends, other) -> None:
    def interval(ends: str) -> str:
        return f"{ends[0]}{low}, {low + width}{ends[1]}"

    agree(interval(ends), interval(other), ends == other)
    above, below = (("<", r"\leq")[end == "]"] for end in (ends[1], other[1]))
    agree(f"x {above} {low}", rf"(-\infty, {low}{ends[1]}", True)
    agree(rf"x {above} {low}", f"x {below} {low}", above == below)


# Gold, answer, our verdict, and why ours is not math-verify's.
DIFFERENT = {
    "a difference below 1e-15 is one": (r"\frac{1}{2^{60}}", r"\frac{1}{2^{61}}", False),
    "arithmetic that is left to do is no answer": ("5", "2+3", False),
    "nor is a factorial": ("6", "3!", False),
    "nor is a binomial": ("6", r"\binom{4}{2}", False),
    "nor is a function of a number": ("3", r"e^{\ln 3}", False),
    "units of other sizes": (r"5 \text{ cm}", r"5 \text{ km}", False),
    "halves of the day": (r"12:30\text{ a.m.}", r"12:30\text{ p.m.}", False),
    "numerals of other bases": ("10_2", "10_3", False),
    "a right angle": (r"90^\circ", r"\frac{\pi}{2}", True),
    "a chain of inequalities is an interval": ("(0, 1)", "0 < x < 1", True),
    "and so is one, whichever of the two is the gold answer": (r"(-\infty, 3)", "x < 3", True),
    "a column is a vector": (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)", True),
    "the root of a negative number": (r"\sqrt{-4}", "2i", True),
    "the exponent of a calculator": ("100", "1e2", True),
}


@pytest.mark.parametrize("why", DIFFERENT)
def test_where_math_verify_says_something_else(why: str) -> None:
    gold, answer, verdict = DIFFERENT[why]
    assert (ours(gold, answer), of_math_verify(gold, answer)) == (verdict, not verdict)
