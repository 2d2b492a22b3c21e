"""What is not understood is not equal: one generated change to a right answer must turn the verdict."""

from fractions import Fraction

import pytest
from changes import few, right, turns
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.graders.algebra import warm_up
from spo_rlhf.graders.vocabulary import SENSE_OF

UNITS = ("mm", "cm", "m", "km", "inches", "feet", "miles", "seconds", "minutes", "hours", "days", "weeks", "years")
UNITS += (
    "grams",
    "kg",
    "tons",
    "pounds",
    "liters",
    "mL",
    "gallons",
    "acres",
    "hectares",
    "degrees",
    "dollars",
    "cents",
)
THINGS = ("apples", "pears", "boxes", "people", "ways", "tickets", "zlotys", "parsecs", "gigabytes")
SENSES = sorted(set(SENSE_OF.values()))
digits = st.text("0123456789", min_size=1, max_size=30).filter(lambda text: text[0] != "0")


@pytest.fixture(scope="module", autouse=True)
def warm():
    warm_up()


@st.composite
def numbers_with_a_changed_digit(draw) -> tuple[str, str]:
    text = draw(digits)
    at = draw(st.integers(0, len(text) - 1))
    other = draw(st.sampled_from([digit for digit in "123456789" if digit != text[at]]))
    return text, text[:at] + other + text[at + 1 :]


DRESSES = (
    "{}",
    "0.{}",
    "-{}",
    "{}.5",
    r"\frac{{{}}}{{7}}",
    r"\frac{{1}}{{{}}}",
    r"{}\%",
    r"{} \text{{ cm}}",
    r"\${}",
    r"{}\pi",
    r"{}\sqrt{{2}}",
    r"\frac{{\pi}}{{{}}}",
    r"e^{{-{}/7}}",
    "x^2+{}",
    r"{} \times 10^{{-40}}",
    r"\frac{{{}\sqrt{{3}}}}{{10^{{50}}}}",
    r"\begin{{pmatrix}}1\\{}\end{{pmatrix}}",
    "({}, 1)",
    r"\{{{}, x\}}",
    "x > {}",
)


@few
@given(pair=numbers_with_a_changed_digit(), dress=st.sampled_from(DRESSES))
def test_a_digit_at_any_scale(pair, dress):
    turns(*(dress.format(text) for text in pair))


@few
@given(text=digits, dress=st.sampled_from([d for d in DRESSES if not d.startswith(("0.", "-"))]))
def test_a_sign(text, dress):
    turns(dress.format(text), dress.format(f"-{text}"))


@few
@given(a=st.integers(1, 99), n=st.integers(1, 400), shift=st.integers(1, 3))
def test_an_exponent(a, n, shift):
    turns(rf"\frac{{{a}}}{{2^{{{n}}}}}", rf"\frac{{{a}}}{{2^{{{n + shift}}}}}")
    turns(rf"1-\frac{{{a}}}{{3^{{{n}}}}}", rf"1-\frac{{{a}}}{{3^{{{n + shift}}}}}")


@few
@given(value=st.integers(1, 10**6), one=st.sampled_from(UNITS + THINGS), other=st.sampled_from(UNITS + THINGS))
def test_a_unit_or_a_thing(value, one, other):
    if one != other:
        turns(rf"{value}\text{{ {one}}}", rf"{value}\text{{ {other}}}")
        turns(rf"{value} {one}", rf"\text{{It is {value} {other}}}")


@few
@given(value=st.integers(2, 10**6), one=st.sampled_from(SENSES), other=st.sampled_from(SENSES))
def test_a_direction_or_another_sense(value, one, other):
    if one != other:
        turns(rf"{value}\%\text{{ {one}}}", rf"{value}\%\text{{ {other}}}")
        turns(rf"{value}\text{{ miles {one}}}", rf"{value}\text{{ miles {other}}}")


@few
@given(hour=st.integers(1, 12), minute=st.integers(0, 59), other=st.integers(0, 59))
def test_the_half_of_the_day_and_the_minute(hour, minute, other):
    time = rf"{hour}:{minute:02d}\text{{ a.m.}}"
    turns(time, time.replace("a.m.", "p.m."))
    if other != minute:
        turns(time, rf"{hour}:{other:02d}\text{{ a.m.}}")
        turns(f"{hour}:{minute:02d}", f"{hour}:{other:02d}")
    turns(f"{hour}:{minute:02d}", f"{hour % 12 + (0 if hour == 12 else 12)}:{minute:02d}")
    turns(f"{hour}:{minute:02d}", f"{hour}:{minute:02d}:00")


@few
@given(numeral=st.text("0123", min_size=1, max_size=8), base=st.integers(4, 16), other=st.integers(4, 16))
def test_a_base(numeral, base, other):
    if base != other:
        turns(f"{numeral}_{{{base}}}", f"{numeral}_{{{other}}}")
        turns(f"{numeral}_{{{base}}}", rf"{numeral}\text{{ (base {other})}}")


@few
@given(low=st.fractions(-50, 50, max_denominator=9), width=st.integers(1, 9), which=st.integers(0, 1))
def test_an_open_end(low, width, which):
    ends = [rf"\frac{{{end.numerator}}}{{{end.denominator}}}" for end in (low, low + Fraction(width))]
    interval = ["(", f"{ends[0]},{ends[1]}", "]"]
    changed = ["[" if which == 0 else "(", interval[1], ")" if which else "]"]
    turns("".join(interval), "".join(changed))
    turns("S = " + "".join(interval), "S = " + "".join(changed))
    turns(rf"{ends[0]} < x \leq {ends[1]}", rf"{ends[0]} \leq x \leq {ends[1]}")


@few
@given(items=st.lists(st.integers(-99, 99), min_size=2, max_size=5, unique=True), data=st.data())
def test_the_order_that_was_asked_for(items, data):
    shuffled = data.draw(st.permutations(items))
    if shuffled != items:
        gold, changed = (", ".join(map(str, numbers)) for numbers in (items, shuffled))
        turns(gold, changed, "Write them in increasing order of size.".replace(" of size", ""))
        assert right(gold, changed, "Find all of them.")
        turns(f"({gold})", f"({changed})")


@few
@given(above=st.integers(1, 999), below=st.sampled_from([3, 7, 9, 11, 13, 17, 21]), places=st.integers(6, 12))
def test_a_digit_of_a_decimal_that_is_no_rounding(above, below, places):
    exact, rounded = Fraction(above, below), round(Fraction(above, below) * 10**places)
    if exact.denominator > 1 and rounded:
        texts = [str(number).zfill(places + 1) for number in (rounded, rounded - 1, rounded + 1)]
        decimal, *changed = (f"{text[:-places]}.{text[-places:]}" for text in texts)
        gold = rf"\frac{{{above}}}{{{below}}}"
        assert right(gold, decimal) and right(decimal, gold)
        for other in changed:
            turns(gold, other)


@few
@given(
    letter=st.sampled_from("fghyAB"), mark=st.sampled_from(["'", r"^{\prime}", "^T", "_1'"]), times=st.integers(2, 99)
)
def test_a_mark_of_a_letter(letter, mark, times):
    if mark != "^T" or letter.isupper():
        turns(letter + mark, letter)
        turns(rf"{times}{letter}{mark}+x", rf"x+{times}{letter}")


@few
@given(day=st.dates(), other=st.dates(), form=st.sampled_from(["%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y"]))
def test_a_date(day, other, form):
    if day.strftime(form) != other.strftime(form):
        turns(day.strftime(form), other.strftime(form))


@few
@given(
    items=st.lists(st.sampled_from(["red", "blue", "Alice", "Bob", "A", "C", "x<1", "x>2"]), min_size=2, unique=True)
)
def test_the_word_that_joins(items):
    turns(" and ".join(items), " or ".join(items))


@few
@given(letters=st.permutations("abc"), values=st.permutations([1, 2, 3]))
def test_the_roles_of_names(letters, values):
    if "".join(letters) != "abc":
        point = f"({','.join(map(str, values))})"
        turns(f"(a,b,c)={point}", f"({','.join(letters)})={point}")
        turns(f"(a,b,c)={point}", f"(x,y,z)={point}")
