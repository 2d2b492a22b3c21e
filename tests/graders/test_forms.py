"""Forms that an answer may have, each with a neighbour that says something else."""

import pytest

from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.verdict import Question


def right(gold: str, answer: str) -> bool:
    return grade_here(Question(gold), rf"\boxed{{{answer}}}").correct


@pytest.mark.parametrize(
    "gold, answer, other",
    [
        ("(2,3)", "P(2,3)", "P(3,2)"),
        ("P=(1,2)", "(1,2)", "Q=(1,2)"),
        (r"\{1,2\}", r"A \cup B = \{2,1\}", r"A = \{1,3\}"),
        ("[0,3)", r"\text{Domain: } [0,3)", r"\text{Domain: } [0,3]"),
        ("(1,2)", r"\text{vertex: }(1,2)", r"\text{not: }(1,2)"),
        ("A(2,3), B(3,4)", "A=(2,3), B=(3,4)", "A=(3,4), B=(2,3)"),
        (
            r"2\begin{pmatrix}1\\3\end{pmatrix}",
            r"\begin{pmatrix}2\\6\end{pmatrix}",
            r"\begin{pmatrix}2\\3\end{pmatrix}",
        ),
        ("2A_{16}", "2a_{16}", "2b_{16}"),
        ("321_5", r"321 \text{ (base 5)}", r"321 \text{ (base 6)}"),
        ("1010_2", "1010 in base two", "1010 in base three"),
        (r"90\text{ minutes}", "1 hour and 30 minutes", "1 hour and 31 minutes"),
        (r"66\text{ inches}", r"5\text{ feet }6\text{ inches}", r"6\text{ feet }5\text{ inches}"),
        (r"\{\}", r"\text{no solution}", r"\{0\}"),
        (r"\mathbb{Z}", r"\text{all integers}", r"\text{all real numbers}"),
        ("57", '"57"', '"58"'),
        ("2500", r"\$2.5k", "2.5m"),
        ("3k", "k + 2k", "3000"),
        ("12", "12个", "13个"),
        (r"5\text{ cm}", "5厘米", "5米"),
        ("1,2", "2、1", "1、3"),
        (r"\text{March 3, 2020}", r"\text{March 3rd, 2020}", r"\text{March 4th, 2020}"),
        ("2:3", r"\text{2 to 3}", r"\text{3 to 2}"),
    ],
)
def test_a_form_says_what_it_says(gold, answer, other):
    assert right(gold, answer) and not right(gold, other)


@pytest.mark.parametrize(
    "output, answer",
    [
        (r"\boxed{14} since \boxed is required", "14"),
        (r"\boxed 5", "5"),
        (r"\boxed x", "x"),
        ("#### Final Answer\n14", "14"),
        ("#### **Answer:**\n\n14 apples", "14 apples"),
    ],
)
def test_where_an_answer_stands(output, answer):
    assert grade_here(Question(answer), output).correct and not grade_here(Question("15"), output).correct
