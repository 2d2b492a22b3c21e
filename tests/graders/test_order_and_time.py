"""Clock times, ratios, and the order that a problem asks for."""

import pytest

from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.guards import Problem
from spo_rlhf.graders.verdict import Question


def right(gold: str, answer: str, problem: str | None = None) -> bool:
    return grade_here(Question(gold, problem), rf"\boxed{{{answer}}}").correct


@pytest.mark.parametrize(
    "gold, answer",
    [
        (r"\text{5:20 PM}", r"5:20\ \text{PM}"),
        (r"\text{10:30 a.m.}", r"10:30\,\text{a.m.}"),
        (r"10\!:\!30\text{ PM}", "10:30 pm"),
        ("4:30 p.m.", "16:30"),
        ("0:30", "12:30 a.m."),
        ("2:30 p.m.", "2:30:00 p.m."),
        ("4:30 p.m.", r"\text{04:30 PM}"),
        ("12:15 a.m.", "12:15 AM"),
        ("5 p.m.", r"5\text{ PM}"),
        ("5 p.m.", "5:00"),
        (r"\text{noon}", "12 p.m."),
        (r"12\text{ o'clock}", "12:00"),
        (r"6\text{ p.m. Monday}", r"\text{6 PM on Monday}"),
        ("4:30", r"4:30\text{ p.m.}"),
        ("5:30", r"\text{half past five}"),
        ("5:30 p.m.", "half past 5 pm"),
        ("5:45", r"\text{a quarter to six}"),
        ("12:45", "quarter to one"),
        ("6:15", r"\text{quarter past six o'clock}"),
    ],
)
def test_a_time_in_other_dress_is_the_time(gold, answer):
    assert right(gold, answer) and right(answer, gold)


@pytest.mark.parametrize(
    "gold, answer",
    [
        (r"5:20 \text{ p.m.}", r"5:20 \text{ a.m.}"),
        (r"5:20 \text{ p.m.}", r"1:4 \text{ p.m.}"),
        (r"5:20 \text{ p.m.}", "5:02 p.m."),
        ("4:30 p.m.", "2:15 p.m."),
        ("4:30", "2:15"),
        ("5:30", r"\text{half past four}"),
        ("5:30 p.m.", "half past five a.m."),
        ("5:45", "quarter past five"),
        ("half past five", "half past fifteen"),
        ("4:30 a.m.", "16:30"),
        (r"12\text{ o'clock}", r"12\text{ minutes}"),
        (r"\text{noon}", r"\text{midnight}"),
        ("10:30", "22:30"),
        ("7:00", "19:00"),
        ("0:30", "12:30"),
        ("0:30", "12:30 p.m."),
        ("2:30:00", "2:30"),
        ("10:30", r"\frac{1}{3}"),
        ("2024-01-02", "2024-02-01"),
        ("2024-12-25", "1987"),
        ("01/02/2024", "02/01/2024"),
        ("555-1234", "-679"),
        (r"6\text{ p.m. Monday}", r"6\text{ a.m. Tuesday}"),
        (r"6\text{ p.m. Monday}", r"6\text{ p.m. Tuesday}"),
    ],
)
def test_another_time_is_another_answer(gold, answer):
    assert right(gold, gold) and right(answer, answer)
    assert not right(gold, answer) and not right(answer, gold)


def test_ratios_may_be_given_in_other_terms():
    assert right("3:2", "6:4") and right("1:2:3", "2:4:6") and not right("1:2:3", "2:4:5") and not right("3:2", "2:3")
    assert right("3:10", "6:20", "What is the ratio of cats to dogs?") and not right("3:10", "6:20")
    assert not right("1:30", "2:60")


ORDERED = [
    "List them from shortest to tallest.",
    "Write the numbers in increasing order.",
    "Arrange them smallest first.",
    "What are the numbers, sorted from low to high?",
    "Sort the numbers.",
    "Order them alphabetically.",
]
UNORDERED = [
    "Find all real roots.",
    "In order to win, which numbers are needed?",
    "Find all ordered pairs.",
    "The numbers are written in increasing order. Find all of them.",
    "Give your answers in any order.",
    "The shortest side is opposite the smallest angle.",
]


@pytest.mark.parametrize("problem", ORDERED)
def test_an_order_that_is_asked_for_counts(problem):
    for gold, answer in (
        ("-3, 0, 5", "5, 0, -3"),
        (r"\text{Anna, Bob}", r"\text{Bob, Anna}"),
        (r"\frac12, 3", r"3, 0.5"),
    ):
        assert right(gold, gold, problem) and not right(gold, answer, problem) and right(gold, answer)
    assert not right("1, 2", r"\{2, 1\}", problem) and right("1, 2", r"\{1, 2\}", problem)


@pytest.mark.parametrize("problem", UNORDERED)
def test_no_order_is_asked_for(problem):
    assert not Problem(problem).asks_for_order and right("-3, 0, 5", "5, 0, -3", problem)
