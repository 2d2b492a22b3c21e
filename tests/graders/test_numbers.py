"""Numbers and quantities as such: exact values, and where a number stops being one."""

from fractions import Fraction

import pytest

from spo_rlhf.graders.normalize import join_thousands, normalize, squash, strip_wrapping, to_ascii
from spo_rlhf.graders.numbers import MAX_DIGITS, MAX_EXPONENT, SCALES, compound, number, quantity, same_quantity
from spo_rlhf.graders.units import unit_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", Fraction(12)),
        ("-3.", Fraction(-3)),
        ("+.5", Fraction(1, 2)),
        ("2.50", Fraction(5, 2)),
        (r"\frac{1}{2}", Fraction(1, 2)),
        (r"-\frac{1}{2}", Fraction(-1, 2)),
        (r"\frac{-1}{2.5}", Fraction(-2, 5)),
        (r"-\frac{-3}{4}", Fraction(3, 4)),
        ("3/4", Fraction(3, 4)),
        ("-(3/4)", Fraction(-3, 4)),
        (r"2\frac{1}{3}", Fraction(7, 3)),
        (r"-2\frac{1}{3}", Fraction(-7, 3)),
        ("2 1/3", Fraction(7, 3)),
        (" -2 1 / 3 ", Fraction(-7, 3)),
        (r"3\times10^{2}", Fraction(300)),
        (r"-3\cdot 10^2", Fraction(-300)),
        ("1.5*10^{-2}", Fraction(3, 200)),
        ("2x10^3", Fraction(2000)),
        ("1e3", Fraction(1000)),
        ("-1.5E-2", Fraction(-3, 200)),
        ("2^{10}", Fraction(1024)),
        ("2^{-2}", Fraction(1, 4)),
        ("-2^3", Fraction(-8)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"1.2\overline{34}", Fraction(611, 495)),
        (r"-.\overline{9}", Fraction(-1)),
        (r"3.0\overline{6}", Fraction(46, 15)),
        ("((5))", None),
        ("(5)", Fraction(5)),
        ("{5}", Fraction(5)),
        ("{(5)}", None),
        ("()", None),
        ("(1)(2)", None),
        ("1 2", None),
        ("1 2/3 4", None),
        ("1/0", None),
        ("0^0", None),
        ("(1/2))", None),
        ("((1/2)", None),
        (r"\frac{1}{0}", None),
        ("x", None),
        ("", None),
        ("--5", None),
        ("5%", None),
    ],
)
def test_the_exact_value_of_what_is_nothing_but_a_number(text, value) -> None:
    assert number(text) == value


def test_how_large_a_number_may_be() -> None:
    assert number("9" * MAX_DIGITS) == 10**MAX_DIGITS - 1 and number("9" * (MAX_DIGITS + 1)) is None
    assert MAX_DIGITS == MAX_EXPONENT == 1000
    for sign, value in (("", Fraction(10) ** 1000), ("-", Fraction(1, 10**1000))):
        assert number(f"1e{sign}1000") == number(f"10^{{{sign}1000}}") == value
        assert number(f"1e{sign}1001") is number(f"10^{{{sign}1001}}") is None
    assert number("1000000^2") == 10**12 and number("1000001^2") is None


PARTS = "halves thirds fourths fifths sixths sevenths eighths ninths tenths elevenths twelfths".split()
POWERS_OF_TEN = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
POWERS_OF_TEN |= {"grand": 3, "lakh": 5, "crore": 7, "mn": 6, "mln": 6, "bn": 9}
TENTHS = {"hundredths": -2, "thousandths": -3, "ten-thousandths": -4, "hundred-thousandths": -5, "millionths": -6}
SCALED = [
    ("3 dozen", Fraction(36)),
    *((f"3 {name}", Fraction(3, size)) for size, name in enumerate(PARTS, start=2)),
    *((f"3 {name}", 3 * Fraction(10) ** power) for name, power in (POWERS_OF_TEN | TENTHS).items()),
]


def test_every_word_of_scale_is_below() -> None:
    assert {f"3 {name}" for name in SCALES} == {text for text, _ in SCALED}


@pytest.mark.parametrize(
    ("text", "value", "percent", "unit"),
    [
        *((text, value, False, None) for text, value in SCALED),
        ("5 cm", 5, False, "cm"),
        ("5cm", 5, False, "cm"),
        ("5 m", 5, False, "m"),
        ("5m", None, False, None),
        ("5x", None, False, None),
        ("5 apples", 5, False, None),
        (r"5\text{ cm}", 5, False, "cm"),
        ("50%", 50, True, None),
        (r"50\%", 50, True, None),
        ("50 percent", 50, True, None),
        (r"\$5", 5, False, "dollar"),
        (r"-\$5", -5, False, "dollar"),
        ("5 USD", 5, False, "dollar"),
        ("€5", 5, False, "euro"),
        (r"3\text{ million dollars}", 3_000_000, False, "dollar"),
        (r"90^\circ", 90, False, "degree"),
        ("3rd", 3, False, None),
        ("21^{st}", 21, False, None),
        (r"5\frac{\text{km}}{\text{h}}", 5, False, "km/h"),
        (r"5\text{ km}\cdot\text{h}^{-1}", 5, False, "km/h"),
        ("1 hour 30 minutes", Fraction(3, 2), False, "hour"),
        ("5 ft 6 in", Fraction(11, 2), False, "ft"),
        ("1 hour, 1 minute and 30 seconds", Fraction(41, 40), False, "hour"),
        ("5 xy ab", None, False, None),
        ("20/month", 20, False, "1/month"),
        ("20/month apples", None, False, None),
        ("6 in 5 ft", None, False, "ft"),
        ("5 ft 6 ft", None, False, "ft"),
        ("5 ft 6 kg", None, False, "kg"),
    ],
)
def test_a_quantity_is_taken_apart(text, value, percent, unit) -> None:
    found = quantity(normalize(text))
    assert (found.value, found.percent) == (value, percent)
    assert found.unit == (None if unit is None else unit_of(unit))


def test_units_of_one_dimension_each_smaller_than_the_one_before() -> None:
    assert compound("1 hour 30 apples") is None and compound("5 cm") is None
    whole = compound("2 days 12 hours")
    assert whole is not None and (whole.core, whole.value, whole.unit) == ("5/2", Fraction(5, 2), unit_of("day"))


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("5 cm", "50 mm", True),
        ("5 cm", "5 mm", False),
        ("5 cm", "5", True),
        ("5", "50 mm", False),
        ("50%", "0.5", True),
        ("50%", "50", True),
        ("0.5", "50%", True),
        ("50", "50%", True),
        ("50%", "0.05", False),
        ("50%", "5000", False),
        ("50%", "50%", True),
        ("0.5%", "50%", False),
        (r"\frac{1}{3}", "0.333333", True),
        (r"\frac{1}{3}", "0.33333", False),
        ("0.333333", r"\frac{1}{3}", True),
        (r"\frac{1}{3}", "0.333334", False),
        (r"\frac{2}{3}", "0.666667", True),
        (r"\frac{2}{3}", "0.666666", False),
        (r"\frac{1}{8000000}", "0.000000125", True),
        (r"\frac{1}{3}", "0.333335", False),
        (r"\frac{1}{3}", "-0.333333", False),
        ("1/3", "0.3333333333", True),
        (r"\frac{1}{8}", "0.125000", True),
        ("3", "3.000001", False),
        (r"\frac{2}{1000000}", "0.000003", False),
        ("x", "5", False),
        ("5", "x", False),
    ],
)
def test_quantities_are_equal_exactly_or_after_exact_conversion(gold, answer, same) -> None:
    assert same_quantity(quantity(normalize(gold)), quantity(normalize(answer))) is same


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("1,234", "1234"),
        ("1,234,567.8", "1234567.8"),
        ("(1,234)", "(1,234)"),
        ("[1,234", "[1,234"),
        ("(1) 1,234", "(1) 1234"),
        (r"(1{,}234, 5)", "(1234, 5)"),
        (r"\{1,234\}", r"\{1,234\}"),
        (r"1\,234", "1234"),
        ("1 234", "1234"),
        ("1,23", "1,23"),
        ("1,2345", "1,2345"),
        ("12345,678", "12345,678"),
        (")(1,234", ")(1234"),
    ],
)
def test_separators_of_thousands(text, joined) -> None:
    assert join_thousands(text) == joined


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("$5$", "5"),
        (r"\(5\)", "5"),
        ("**5**", "5"),
        ("$", "$"),
        ("$$", ""),
        ("$5$ and $6$", "$5$ and $6$"),
        (r"\boxed{5}", "5"),
        (r"\boxed{\boxed{5}}.", "5"),
        ("{5}", "5"),
        ("5!", "5!"),
        ("5 ; ", "5"),
        (r"$5\$", r"$5\$"),
        ("x\\", "x"),
    ],
)
def test_what_is_wrapped_around_an_answer(text, stripped) -> None:
    assert strip_wrapping(text) == stripped


@pytest.mark.parametrize(
    ("text", "ascii_text"),
    [
        ("x² ≤ ½", r"x^{2} \leq  \frac{1}{2}"),
        ("a₁₀", "a_{10}"),
        ("10⁻³", "10^{-3}"),
        ("α+π", r" \alpha + \pi "),
        ("1\u200b2\u00a03", "12 3"),
        ("５", "5"),
    ],
)
def test_unicode_mathematics_is_latex(text, ascii_text) -> None:
    assert to_ascii(text) == ascii_text


def test_only_spaces_between_digits_are_kept_letter_by_letter() -> None:
    assert squash("x + 1 2") == "x+1 2" and squash("1/2") == r"\frac{1}{2}" and squash("x1/2") == "x1/2"


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        (r"1/3 \approx 0.33", "1/3"),
        (r"x \approx 0.33", "0.33"),
        (r"\pi \approx 3.14", r"\pi"),
        (r"\approx 3", "3"),
        ("about 3", "3"),
    ],
)
def test_of_an_exact_and_a_rounded_value_the_exact_one_counts(text, exact) -> None:
    assert normalize(text) == exact
