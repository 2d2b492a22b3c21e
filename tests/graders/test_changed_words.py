"""Generated changes to what stands beside, between and around the numbers: units, signs in words, connectives, directions, roles."""

from fractions import Fraction
from itertools import pairwise, permutations

import pytest
from changes import few, right, same, turns
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.graders.algebra import warm_up
from spo_rlhf.graders.units import SYMBOLS, WORDS, known, unit_of
from spo_rlhf.graders.vocabulary import NEGATIVE, SENSE_OF, TURNING

BASES = ("m", "g", "s", "L", "W", "J", "N", "Pa", "Hz", "V", "A", "mol", "B")
PREFIXES = {"": 0, "k": 3, "M": 6, "m": -3}
TURNING_WORDS = sorted(word for word, sense in SENSE_OF.items() if sense in TURNING and word != "minus")
NEGATIVE_WORDS = [word for word in TURNING_WORDS if SENSE_OF[word] in NEGATIVE]
numbers = st.integers(2, 10**6)


@pytest.fixture(scope="module", autouse=True)
def warm():
    warm_up()


def flips(name: str) -> list[str]:
    """The name with one letter in the other case, and with all of them."""
    changed = [name[:at] + name[at].swapcase() + name[at + 1 :] for at in range(len(name))]
    return sorted({*changed, name.swapcase()} - {name})


@pytest.mark.parametrize("symbols", [sorted(SYMBOLS)[start::8] for start in range(8)], ids=str)
def test_the_case_of_a_symbol_is_another_unit_or_none(symbols):
    """Unless the table has both spellings as one unit: "L" and "l", "kg" and "Kg"."""
    for symbol in symbols:
        for flipped in flips(symbol):
            check = same if known(flipped) == known(symbol) else turns
            check(rf"5\text{{ {symbol}}}", rf"5\text{{ {flipped}}}")


@pytest.mark.parametrize(
    "words", [sorted(word for word in WORDS if word.isalpha())[start::8] for start in range(8)], ids=str
)
def test_a_word_is_the_same_unit_in_any_case(words):
    for word in words:
        same(rf"5\text{{ {word}}}", rf"5\text{{ {word.capitalize()}}}")
        assert unit_of(word) == unit_of(word.upper())


@few
@given(
    value=numbers,
    base=st.sampled_from(BASES),
    one=st.sampled_from(sorted(PREFIXES)),
    other=st.sampled_from(sorted(PREFIXES)),
)
def test_prefixes_of_a_unit(value, base, one, other):
    if other + base in SYMBOLS and one + base in SYMBOLS:
        factor = Fraction(10) ** (PREFIXES[one] - PREFIXES[other])
        for text, scaled in ((rf"{value}\text{{ {one}{base}}}", factor), (rf"{value} {one}{base}", factor)):
            same(
                text, rf"\frac{{{(value * scaled).numerator}}}{{{(value * scaled).denominator}}}\text{{ {other}{base}}}"
            )
            turns(text, rf"{10 * value * scaled}\text{{ {other}{base}}}")
            if one != other:
                turns(text, text.replace(f" {one}{base}", f" {other}{base}"))


@few
@given(value=numbers, prefix=st.sampled_from(["", "k", "M", "m"]))
def test_ohms_and_millionths(value, prefix):
    same(rf"{value}\,{prefix}\Omega", rf"{value}\text{{ {prefix}}}\Omega")
    same(rf"{value}\ \Omega", str(value))
    turns(rf"{value}\,{prefix}\Omega", rf"{value}\ \mu\Omega")
    turns(rf"{value}\ \mu\text{{m}}", rf"{value}\text{{ mm}}")
    same(f"{value} μm", rf"{value}000\text{{ nm}}")


@few
@given(
    value=numbers, word=st.sampled_from(TURNING_WORDS), unit=st.sampled_from(["", " dollars", " degrees", " meters"])
)
def test_a_word_that_turns_the_sign_is_not_left_out(value, word, unit):
    plain, turned = rf"{value}\text{{{unit}}}" if unit else str(value), rf"{value}\text{{{unit} {word}}}"
    turns(plain, turned)
    turns(turned, rf"-{turned}")
    asked = f"How many {unit} {word} was it?"
    assert right(plain, turned, asked)
    if word in NEGATIVE_WORDS:
        same(turned, f"-{plain}")
        turns(turned, f"-{plain}0")


@few
@given(
    value=numbers,
    word=st.sampled_from(["below", "under"]),
    unit=st.sampled_from(["", " degrees", r"\text{ degrees}", r"^\circ"]),
)
def test_below_zero(value, word, unit):
    for zero in ("zero", "0") if unit == "" else ("zero",):
        text = rf"{value}{unit}\text{{ {word} {zero}}}"
        same(text, f"-{value}{unit}")
        turns(text, f"{value}{unit}")
        turns(text, text.replace(word, "above"))
    same(f"{value} {word} zero", f"-{value}")
    turns(f"{value} {word} zero", str(value))


@few
@given(
    value=numbers,
    change=st.sampled_from(
        ["a loss of", "a decrease of", "a drop of", "decreased by", "a deficit of", "fell by", "down"]
    ),
    money=st.sampled_from(["{}", r"\${}", r"{}\%", "{} dollars"]),
)
def test_a_change_with_its_sense_before_the_number(value, change, money):
    plain = money.format(value)
    turns(plain, f"{change} {plain}")
    same(f"{change} {plain}", f"-{plain}")
    turns(f"{change} {plain}", f"an increase of {plain}")
    assert (
        right(plain, f"{change} {plain}", "By how much did it decrease, and what did she lose? So how far is it down?")
        or "deficit" in change
    )


@few
@given(value=numbers, unit=st.sampled_from(["dollars", "meters", "years", "percentage points", "pp", "kg", "euros"]))
def test_a_share_is_no_amount(value, unit):
    turns(rf"{value}\%", rf"{value}\text{{ {unit}}}")
    turns(rf"{value}\text{{ percent}}", rf"{value}\text{{ {unit}}}")


def holds(names: list[str], words: list[str]) -> frozenset[frozenset[str]]:
    """What "A and B or C" says, as a set of sets: "and" binds more tightly."""
    groups = [[names[0]]]
    for name, word in zip(names[1:], words):
        if word == "or":
            groups.append([name])
        else:
            groups[-1].append(name)
    return frozenset(map(frozenset, groups))


@few
@given(
    names=st.permutations(["A", "B", "C", "D"]),
    other=st.permutations(["A", "B", "C", "D"]),
    words=st.lists(st.sampled_from(["and", "or"]), min_size=3, max_size=3),
    changed=st.lists(st.sampled_from(["and", "or"]), min_size=3, max_size=3),
    form=st.sampled_from(["{}", r"\text{{{}}}", "x_{} = 1"]),
)
def test_what_and_and_or_join(names, other, words, changed, form):
    one, two = (
        "".join(f"{form.format(name)} {word} " for name, word in zip(letters, [*joins, ""])).strip()
        for letters, joins in ((names, words), (other, changed))
    )
    check = same if holds(names, words) == holds(other, changed) else turns
    check(one, two)


@few
@given(values=st.lists(st.integers(-99, 99), min_size=2, max_size=4, unique=True), letter=st.sampled_from("xyzt"))
def test_the_word_between_conditions_on_one_letter(values, letter):
    conditions = [f"{letter} = {value}" for value in values]
    turns(" or ".join(conditions), " and ".join(conditions))
    same(" or ".join(conditions), ", ".join(map(str, values)))


@few
@given(
    start=st.sampled_from("NS"),
    end=st.sampled_from("EW"),
    angle=st.integers(1, 89),
    other=st.integers(1, 89),
    form=st.sampled_from(["{}{}{}", "{} {} {}", r"{}{}^\circ {}", r"\text{{{}}} {}^\circ \text{{{}}}", "5 km {}{}{}"]),
)
def test_a_bearing(start, end, angle, other, form):
    text, words = form.format(start, angle, end), {"N": "north", "S": "south", "E": "east", "W": "west"}
    turns(text, form.format(end, angle, start))
    turns(text, form.format(start, angle, {"E": "W", "W": "E"}[end]))
    turns(text, form.format({"N": "S", "S": "N"}[start], angle, end))
    if other != angle:
        turns(text, form.format(start, other, end))
    if not form.startswith("5"):
        turns(text, str(angle))
        same(text, rf"{angle}^\circ\text{{ {words[end]} of {words[start]}}}")
        turns(text, rf"{angle}^\circ\text{{ {words[start]} of {words[end]}}}")


@few
@given(
    letters=st.sampled_from(
        [*permutations(["a", "b"]), *permutations(["r", r"\theta"]), *permutations(["x", "y", "z"])]
    ),
    values=st.lists(st.integers(1, 9), min_size=3, max_size=3, unique=True),
)
def test_names_of_coordinates_and_none(letters, values):
    point = f"({','.join(map(str, values[: len(letters)]))})"
    names = f"({','.join(letters)})"
    alphabetical = sorted(letters, key=lambda letter: (letter.startswith("\\"), letter))
    check = same if list(letters) == alphabetical else turns
    check(f"{names} = {point}", point)
    same(f"{names} = {point}", point, f"Find ${names}$.")
    backwards = f"({','.join(reversed(letters))})"
    turns(f"{names} = {point}", point, f"Find ${backwards}$.")
    turns(f"{names} = {point}", f"{backwards} = {point}")


@few
@given(
    major=st.integers(0, 20),
    minor=st.integers(1, 20),
    name=st.sampled_from(["v", "v ", "version ", "release ", "iOS ", "Section "]),
)
def test_the_number_of_a_version(major, minor, name):
    turns(f"{name}{major}.{minor}", f"{name}{major}.{minor}0")
    turns(f"{major}.{minor}.1", f"{major}.{minor}.10")
    turns(f"{major}.{minor}", f"{major}.{minor}0", "Which version of it came first?")
    assert right(f"{major}.{minor}", f"{major}.{minor}0", "How long is it?")


ENDS = [
    ("least", "greatest"),
    ("smallest", "largest"),
    ("lowest", "highest"),
    ("oldest", "newest"),
    ("fastest", "slowest"),
]
ASKING = [
    "List them {}.",
    "What are the numbers, {}?",
    "Find all of them. Write them {}.",
    "Please give your answers {}.",
]
ORDERS = [
    "in increasing order",
    "in ascending order",
    "in order of size",
    "in descending order",
    "in alphabetical order",
]
ORDERS += [
    "in chronological order",
    "in non-decreasing order",
    "ascending",
    "alphabetically",
    "chronologically",
    "ranked",
]
ORDERS += [f"from {low} to {high}" for ends in ENDS for low, high in (ends, ends[::-1])]
ORDERS += [f"{low} to {high}" for low, high in ENDS] + [f"{end} first" for ends in ENDS for end in ends]
ORDERS += [f"starting with the {end}" for ends in ENDS for end in ends] + [
    "with the larger one first",
    "sorted by size",
]


@few
@given(
    asking=st.sampled_from(ASKING),
    order=st.sampled_from(ORDERS),
    items=st.lists(st.integers(-99, 99), min_size=2, max_size=4, unique=True),
    data=st.data(),
)
def test_every_way_to_ask_for_an_order(asking, order, items, data):
    shuffled = data.draw(st.permutations(items))
    if shuffled != items:
        gold, changed = (", ".join(map(str, numbers)) for numbers in (items, shuffled))
        turns(gold, changed, asking.format(order))
        same(gold, changed, "List them. The table was made " + order + ".")


@few
@given(
    part=st.integers(1, 30),
    whole=st.integers(2, 30),
    form=st.sampled_from(["{} out of {}", "{} in {}", r"{}\text{{ out of }}{}"]),
)
def test_a_part_of_a_whole(part, whole, form):
    text = form.format(part, whole)
    same(text, rf"\frac{{{part}}}{{{whole}}}")
    turns(text, rf"\frac{{{part}}}{{{whole + 1}}}")
    if part != whole:
        turns(text, form.format(whole, part))
        turns(text, f"{part}:{whole - part}" if whole > part else f"{part + 1}:{whole}")


def in_characters(value: int) -> str:
    """A whole number below 10^8 in Chinese characters."""
    if value >= 10**4:
        low = value % 10**4
        gap = "零" if 0 < low < 1000 else ""
        return in_characters(value // 10**4) + "万" + (gap + in_characters(low) if low else "")
    digits = [int(digit) for digit in str(value)]
    parts = [
        ("零一二三四五六七八九"[digit], ["", "十", "百", "千"][len(digits) - at - 1]) for at, digit in enumerate(digits)
    ]
    text = "".join("零" if digit == "零" else digit + place for digit, place in parts).rstrip("零")
    while "零零" in text:
        text = text.replace("零零", "零")
    return text or "零"


@few
@given(
    value=st.integers(0, 10**8 - 1),
    other=st.integers(0, 10**8 - 1),
    dress=st.sampled_from(["{}", "{}个", "第{}", "{}米"]),
)
def test_numerals_in_characters(value, other, dress):
    text = dress.format(in_characters(value))
    same(text, str(value))
    if dress == "{}":
        same(in_characters(value).replace("零", "〇"), str(value))
        same("负" + text, f"-{value}")
    if value:
        turns("负" + in_characters(value), str(value))
    if other != value:
        turns(text, str(other))
        turns(text, dress.format(in_characters(other)))


def in_roman(value: int) -> str:
    signs = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL")]
    text = ""
    for size, sign in [*signs, (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]:
        text, value = text + sign * (value // size), value % size
    return text


def test_roman_numerals():
    numerals = sorted((in_roman(value) for value in range(2, 200) if len(in_roman(value)) > 1), key=sorted)
    for one, other in pairwise(numerals):  # those of the same letters stand together
        turns(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("saw", "was"),
        ("Ann", "Nan"),
        ("ray AB", "ray BA"),
        ("arc AB", "car AB"),
        ("box A", "A box"),
        ("cat 5", "act 5"),
    ],
)
def test_a_word_of_three_letters_is_no_product(one, other):
    turns(one, other)


def test_products_of_three_letters():
    same("abc", "cab")
    same("xyz", "zyx")
    same(r"\frac{abc}{4R}", r"\frac{cba}{4R}")
    same("sin x", r"\sin x")


@pytest.mark.parametrize(
    ("one", "other"),
    [("AB", "BA"), ("2AB + C", "2BA + C"), ("A^{-1}B", "BA^{-1}"), (r"\frac{1}{2}(AB)", r"\frac{1}{2}(BA)")],
)
def test_products_of_matrices_have_an_order(one, other):
    turns(one, other, problem="The matrices do not commute. Simplify.")


def test_sums_of_matrices_and_numbers_have_none():
    problem = "The matrices commute with scalars. Simplify."
    same("2AB + C", "C + 2AB", problem=problem)
    same(r"\frac{1}{2}AB", "0.5AB", problem=problem)
    same("A + B", "B + A", problem=problem)
    same("AB", "BA")  # of lengths
