"""The words beside a number: what they turn into another value, what they leave, and what they only repeat."""

import pytest

from spo_rlhf.graders.compare import equal_answers
from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.units import unit_of
from spo_rlhf.graders.verdict import Question
from spo_rlhf.graders.vocabulary import Label, read_label


def right(gold: str, answer: str) -> bool:
    return grade_here(Question(gold), rf"\boxed{{{answer}}}").correct


@pytest.mark.parametrize(
    "one, other",
    [
        (r"10\% \text{ increase}", r"10\% \text{ decrease}"),
        (r"10\%\text{ loss}", r"10\%\text{ profit}"),
        (r"5\text{ years older}", r"5\text{ years younger}"),
        (r"40\text{ miles north}", r"40\text{ miles south}"),
        (r"44\text{ BC}", r"44\text{ AD}"),
        (r"20^\circ\text{C}", r"20^\circ\text{F}"),
        (r"20\text{ degrees Celsius}", r"20\text{ degrees Fahrenheit}"),
        (r"2\text{ acres}", r"2\text{ hectares}"),
        (r"5\text{ tons}", r"5\text{ kg}"),
        (r"5\text{ apples}", r"5\text{ pears}"),
        (r"5\text{ dollars}", r"5\text{ coins}"),
        (r"18\text{ dollars per week}", r"18\text{ dollars per month}"),
        (r"5\text{ tenths}", r"5\text{ hundredths}"),
        (r"5\text{ thousandths}", "5"),
        ("1.5 miles", "15 miles"),
        ("5 yen", "5 yuan"),
        ("5 b", "5 B"),
        ("5 Pa", "5 pA"),
        (r"5\text{ mW}", r"5\text{ MW}"),
        ("5 mm", "5 Mm"),
        (r"5\text{ Pa}", r"5\text{ pA}"),
        (r"5\text{ b}", r"5\text{ B}"),
        ("3 score", "3"),
        ("2 out of 5", "5 out of 2"),
        ("2 in 5", "5 in 2"),
        ("2x3", "3x2"),
        (r"90^\circ\text{ clockwise}", r"90^\circ\text{ counterclockwise}"),
        (r"5\text{ cm}", r"The length is 5 m"),
        (r"\$5\text{ profit}", r"It is a loss of \$5"),
        (r"3\pi\text{ feet above}", r"3\pi\text{ feet below}"),
    ],
)
def test_two_different_words_are_two_answers(one, other):
    assert right(one, one) and right(other, other)
    assert not right(one, other) and not right(other, one)


@pytest.mark.parametrize(
    "gold, answer",
    [
        ("18", r"18\text{ eggs per day}"),
        (r"18\text{ eggs}", "18"),
        (r"18\text{ eggs}", "18 egg"),
        (r"5\text{ people}", r"5\text{ persons in total}"),
        (r"5\%", r"5\%\text{ increase}"),
        (r"10\%\text{ increase}", r"10\text{ percent more}"),
        (r"40\text{ miles north}", r"40\text{ mi northward}"),
        (r"20^\circ\text{C}", r"20\text{ degrees Celsius}"),
        (r"20^\circ\text{C}", r"20^\circ"),
        (r"2\text{ hectares}", r"20000\text{ m}^2"),
        ("0.005", r"5\text{ thousandths}"),
        (r"18\text{ months}", r"1.5\text{ years}"),
        (r"6\text{ ft}", r"72\text{ in}"),
        ("5 KG", "5 kg"),
        ("1 GHz", "1000 MHz"),
        ("6", r"6\text{ in total}"),
        (r"\$4.50\text{ per pound}", "4.50 dollars per pound"),
        (r"15\text{ dollars/hr}", r"\$15\text{ per hour}"),
        (r"\$4.50", "4.50 dollars per pound"),
    ],
)
def test_empty_and_equal_words_say_the_same(gold, answer):
    assert right(gold, answer)


def test_every_word_is_of_one_class():
    label = read_label("miles north of the old bridge")
    assert label == Label(unit_of("mile"), frozenset({"north"}), frozenset({"old", "bridge"}))
    assert read_label("in total") == read_label("") == Label()
    assert read_label("in") == Label(unit_of("inch"))


@pytest.mark.parametrize(
    "sentence",
    [
        r"\text{cis} 5",
        r"\text{abs}(5)",
        "it can't be 5",
        "The answer exceeds 5",
        "It is a multiple of 5",
        "It is divisible by 5",
        r"\text{fails for } 5",
        r"\text{is false: } 5",
        "There are infinitely many besides 5",
        "The remainder is x when divided by 5",
        "x is the logarithm of 5",
        "it is hardly 5",
    ],
)
def test_a_sentence_that_does_not_give_its_number_as_the_answer(sentence) -> None:
    assert not equal_answers("5", sentence)[0] and equal_answers("5", "She pays 5 every day")[0]
