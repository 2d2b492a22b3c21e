"""What the algebra's parser would pass over is not equal; what it can read, in any notation, is."""

import pytest

from spo_rlhf.graders.compare import equal_answers
from spo_rlhf.graders.notation import for_the_parser, misread, relations

UNKNOWN = (
    "neg sim propto ll gg subset in notin rightarrow uparrow cong equiv perp not cancel{6} because lg nabla partial angle "
    "dots ldots cdots mid iff implies Rightarrow doteq circ bmod pmod mod mathcal{A} boldsymbol oplus"
).split()


@pytest.mark.parametrize("command", UNKNOWN)
def test_an_unknown_command_is_not_passed_over(command) -> None:
    for text in (rf"\{command} 5", rf"6 \{command} 5"):
        assert not equal_answers("5", text)[0], text


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", r"\neq 5"),
        ("5", r"\not= 5"),
        ("5", r"\geq 5"),
        ("5", "> 5"),
        ("5", r"5\ldots"),
        ("5", "5^T"),
        ("5", "5}"),
        ("1", "0^0"),
        (r"\emptyset", r"\{\emptyset\}"),
        ("2", r"\binom{5}{2}"),
        ("2", r"\begin{cases} 1 & x>0 \\ 2 & x<0\end{cases}"),
        (r"\begin{cases} 1 & x>0 \\ 2 & x<0\end{cases}", r"\begin{cases} 3 & x>0 \\ 2 & x<0\end{cases}"),
        (r"\pi r^2 h", r"\pi r^2"),
        (r"\sqrt{2}", r"\sqrt{2}h"),
        (r"\frac{1}{2}", r"\frac{1}{2}d"),
        ("3R^2", "3r^2"),
        (r"\pi R^2", r"\pi r^2"),
        (r"R^2 - r^2", r"r^2 - R^2"),
        ("R - r", "0"),
        ("x+Y", "X+y"),
        ("2e", "2E"),
        ("2i", "2I"),
        ("2e3", "6e"),
        (r"\delta x", r"\Delta x"),
        ("f'(x)", "f(x)"),
        ("f''(x)", "f'(x)"),
        ("x'y", "xy"),
        ("A^T B", "AB"),
        ("f^{-1}(x)", r"\frac{1}{f(x)}"),
        (r"\frac{dy}{dx}", r"\frac{dx}{dy}"),
        (r"\frac{\partial f}{\partial x}", r"\frac{\partial f}{\partial y}"),
        (r"\lim_{x \to 0^+} f(x)", r"\lim_{x \to 0^-} f(x)"),
        ("x^{2^3}", "x^2^3"),
        (r"x \pm 2y \pm 1", "1"),
        (r"\sin 30^\circ", r"\sin 30"),
        (r"2\cos 40^\circ + 1", r"2\cos 40 + 1"),
        (r"\sin(x^\circ)", r"\sin(x)"),
        (r"\sin(a+b^\circ)", r"\sin(a+b)"),
        ("x+y<3", "x+y=3"),
        ("x+y<3", r"x+y \leq 3"),
        ("3x", "(1)(2)x"),
        (r"5\pi", r"2(3)\pi"),
        (r"\angle ABC", r"\angle ACB"),
        ("BCA", "ABC"),
        ("A B C", "C B A"),
    ],
)
def test_what_the_parser_would_misread_is_not_equal(gold, answer) -> None:
    assert not equal_answers(gold, answer)[0] and not equal_answers(answer, gold)[0]
    assert equal_answers(gold, gold.replace(" ", "  "))[0], "and it equals itself"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\pi r^2 h", r"\pi h r^2"),
        (r"\frac{R}{r}", "R/r"),
        ("R^2 - r^2", "(R-r)(R+r)"),
        (r"2\cos 40^\circ", r"2\sin 50^\circ"),
        (r"2\cos 40^\circ", r"2\cos(40^{\circ})"),
        (r"\tan(x^\circ)", r"\frac{\sin(x^\circ)}{\cos(x^\circ)}"),
        ("2x", "(1)(2)x"),
        (r"6\pi", r"2(3)\pi"),
        (r"\log_2(x)", r"\frac{\ln x}{\ln 2}"),
        (r"\sin^2(x)", "1-cos^2(x)"),
        (r"\sin x", "sin x"),
        ("x+y<3", "3 > x+y"),
        ("x+y=3", "2x+2y=6"),
        (r"\frac{NO}{BO}=\frac{1}{2}", r"\frac{1}{2}"),
        ("V_1:V_2=11:21", "11:21"),
        (r"\frac{5}{6}", r"{5 \over 6}"),
        (r"\frac{x+1}{6}", r"1 + x \over 6"),
        (r"\binom{n}{k}", r"{n \choose k}"),
        ("5", r"\Large 5"),
        ("5", r"x = \boxed{5}"),
        ("5", "5m"),
        ("1,2,3", "1, 2, and 3"),
        ("a_1 + I", "I + a_1"),
        ("x^{10}", r"x^{5} \cdot x^{5}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}^T"),
    ],
)
def test_what_it_can_read_is_equal_in_any_notation(gold, answer) -> None:
    assert equal_answers(gold, answer)[0]


def test_the_value_of_a_sum_is_no_answer_to_its_equation() -> None:
    assert equal_answers("3", "x+y=3")[0] and not equal_answers("x+y=3", "3")[0]


def test_a_form_that_only_a_number_allows_is_no_copy_from_the_problem() -> None:
    assert not equal_answers("3", "3m", "Simplify 3m - m + m when m = 1.")[0] and not equal_answers("x", "5m")[0]


def test_what_is_said_of_an_answer_that_is_not_understood() -> None:
    assert equal_answers("5", r"\neg 5") == (False, r"not understood: \neg")
    assert misread("x+1") is None and misread(r"\begin{cases}1\end{cases}") == r"\begin{"


def test_relations_count_whatever_their_direction() -> None:
    assert relations("1 < x < 2") == relations("2 > x > 1") != relations(r"1 < x \leq 2")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("2(3)x", r"2\cdot (3)x"),
        ("x(3)2", r"x(3)\cdot 2"),
        (r"\log_2(3)", r"\log_2(3)"),
        ("x^2(3)", "x^2(3)"),
        (r"30^\circ", r"30^\circ"),
        (r"\sin 30^\circ", r"\sin (\frac{30\pi}{180})"),
        (r"I \in", r"\iota  \in"),
    ],
)
def test_how_an_expression_is_spelled_for_the_parser(text, parsed) -> None:
    assert for_the_parser(text) == parsed
