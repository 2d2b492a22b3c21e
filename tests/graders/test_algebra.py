"""Computer algebra: what is near is not equal, at any scale."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.graders.algebra import algebraically_equal
from spo_rlhf.graders.asked import may_be_complex
from spo_rlhf.graders.compare import equal_answers


@pytest.mark.parametrize(
    "gold, answer",
    [
        (r"\frac{1}{2^{120}}", r"\frac{1}{2^{119}}"),
        (r"1-\frac{1}{2^{60}}", r"1-\frac{1}{2^{61}}"),
        (r"\frac{2^{2005}+1}{3\cdot 2^{2006}}", r"\frac{2^{2005}-1}{3\cdot 2^{2006}}"),
        (r"e^{-50}", r"e^{-60}"),
        (r"\frac{6.63\times10^{-34}}{2\pi}", r"\frac{6.63\times10^{-34}}{\pi}"),
        (r"\frac{x}{2^{120}}", r"\frac{x}{2^{119}}"),
        (r"\sqrt{2}+\frac{1}{10^{30}}", r"\sqrt{2}"),
        (r"\begin{pmatrix}\frac{\pi}{2^{80}}\\1\end{pmatrix}", r"\begin{pmatrix}\frac{\pi}{2^{81}}\\1\end{pmatrix}"),
        (r"\sqrt{2}\cdot 10^{-8}", r"0.00000001"),
        (r"2x+3y=\frac{1}{10^{20}}", r"2x+3y=\frac{2}{10^{20}}"),
    ],
)
def test_a_small_difference_is_a_difference(gold, answer):
    assert algebraically_equal(gold, gold)
    assert not algebraically_equal(gold, answer) and not algebraically_equal(answer, gold)


@given(mantissa=st.integers(1, 99), scale=st.integers(0, 60), radicand=st.sampled_from([2, 3, 5]))
def test_no_power_of_ten_hides_a_changed_digit(mantissa, scale, radicand):
    gold, changed = (rf"\frac{{{m}\sqrt{{{radicand}}}}}{{10^{{{scale}}}}}" for m in (mantissa, mantissa + 1))
    assert algebraically_equal(gold, rf"{mantissa}\cdot 10^{{-{scale}}}\cdot\sqrt{{{radicand}}}")
    assert not algebraically_equal(gold, changed)


def test_an_equation_may_be_a_multiple():
    assert algebraically_equal(r"2x+3y=\frac{1}{10^{20}}", r"4x+6y=\frac{2}{10^{20}}")
    assert algebraically_equal("2x+3y=0.1", "20x+30y=1") and not algebraically_equal("2x+3y=0.1", "20x+30y=2")


@pytest.mark.parametrize("decimal, equal", [("3.141593", True), ("3.141594", False), ("3.14159", False)])
def test_a_decimal_may_be_rounded_to_six_places(decimal, equal):
    assert algebraically_equal(r"\pi", decimal) is equal


@pytest.mark.parametrize(
    "gold, answer, equal",
    [
        (r"\sqrt{\frac{a}{b}}", r"\frac{\sqrt{a}}{\sqrt{b}}", True),
        (r"a^{1/2}b^{1/2}", r"\sqrt{ab}", True),
        (r"\sqrt{\frac{2h}{g}}", r"\frac{\sqrt{2gh}}{g}", True),
        (r"\sqrt{\frac{a}{b}}", r"\frac{\sqrt{b}}{\sqrt{a}}", False),
        (r"\sqrt{x^2}", "x", False),
        (r"\sqrt{x^2y}", r"x\sqrt{y}", False),
        ("|x|", "x", False),
    ],
)
def test_letters_are_positive_where_a_root_of_the_gold_needs_it(gold, answer, equal):
    assert algebraically_equal(gold, answer) is equal


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("y'", "y", False),
        ("f''(x)", "f'(x)", False),
        ("f''(x)", r"f^{\prime\prime}(x)", True),
        ("x_1'", "x_1", False),
        ("(fg)'", "fg", False),
        ("f'-f", "f-f'", False),
        ("2y'+y", "y+2y'", True),
        ("A^T", "A", False),
        ("A^{T}", r"A^\top", True),
        ("(AB)^T", "AB", False),
        ("R-r", "r-R", False),
        (r"\pi(R^2-r^2)", r"\pi R^2-\pi r^2", True),
        ("n+1", "1+N", False),
        ("3h", "3", False),
    ],
)
def test_marks_and_letters_that_the_parser_drops(one: str, other: str, same: bool) -> None:
    assert algebraically_equal(one, other) is same and algebraically_equal(other, one) is same


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("|z|^2", "z^2", False),
        ("|z^2|", "z^2", False),
        (r"\left|z\right|^4", "z^4", False),
        (r"\lvert z_1\rvert^2+1", "z_1^2+1", False),
        (r"|\omega|^2", r"\omega^2", False),
        ("|z-1|^2", "z^2-2z+1", False),
        ("|z|^2=4", "z^2=4", False),
        (r"\begin{pmatrix}|z|^2\\1\end{pmatrix}", r"\begin{pmatrix}z^2\\1\end{pmatrix}", False),
        (r"\ln|w|^2", r"\ln w^2", False),
        ("|z|^2", "|z^2|", True),
        ("|zw|", "|w||z|", True),
        ("|2z-2|", "2|1-z|", True),
        (r"\frac{|z|^2}{2}", r"0.5|z|^2", True),
        ("z+|x|^2", "x^2+z", True),
        ("|x|^2", "x^2", True),
        ("|a+bi|^2", "a^2+b^2", True),
        ("|3+4i|^2", "25", True),
    ],
)
def test_a_modulus_is_that_of_a_complex_number_where_a_letter_may_be_one(gold, answer, equal):
    assert algebraically_equal(gold, answer) is equal and algebraically_equal(answer, gold) is equal


@pytest.mark.parametrize(
    ("problem", "letters"),
    [
        ("", "zw"),
        ("Simplify.", "zw"),
        ("Let z be a real number.", "w"),
        ("Let $x, y$ and $z$ be positive real numbers.", "w"),
        ("For real $w$, find the largest value.", "z"),
        (r"where $z_1, z_2, \dots, z_n$ are real numbers", "w"),
        (r"Given that $z\bar z$ is real and $|z|$ is positive, simplify.", "zw"),
        ("The complex number $a$ and the real number $b$ satisfy it.", "aczw"),
        ("Let n be a positive integer and a complex number a be given.", "abczw"),
        (r"The complex number $z=b+ci$ with $b,c \in \mathbb{R}$.", "azw"),
        ("The real part of z is positive.", "zw"),
        ("Let a, b and c be the third roots of unity.", "abczw"),
    ],
)
def test_which_letters_may_be_complex_is_asked_of_the_problem(problem, letters):
    assert "".join(letter for letter in "abczw" if may_be_complex(letter, problem)) == letters
    for letter in "abczw":
        equal, _ = equal_answers(f"|{letter}|^2", f"{letter}^2", problem)
        assert equal is (letter not in letters), letter


@pytest.mark.parametrize("blank", [r"\,", r"\, ", r"\dots ", r"\cdots\, ", r"\ ", "$, "])
def test_a_blank_to_fill_in_behind_a_letter_takes_no_time(blank):
    """Read in two ways each, 60 would take for ever."""
    assert may_be_complex("z", "Simplify, where z" + 60 * blank + "!")
    assert not may_be_complex("z", "Let x" + 60 * blank + "z be real.")
