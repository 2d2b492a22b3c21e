"""Numbers and quantities in normalised text, exactly: no floating point, no evaluation of anything but a number."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from spo_rlhf.graders.notation import TRIGONOMETRY
from spo_rlhf.graders.units import DEGREE, MAX_WORDS, Unit, known, unit_of
from spo_rlhf.graders.vocabulary import NEGATIVE, SENSE_OF, Label, nested, read_label, senses_of

MAX_DIGITS = 1000
MAX_EXPONENT = 1000
ROUNDED_DIGITS = 6

_INT = r"\d+"
_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_SIGN = r"([-+]?)"
_PATTERNS: list[tuple[re.Pattern[str], Callable[..., Fraction]]] = [
    (re.compile(rf"{_SIGN}({_DECIMAL})"), lambda s, a: _signed(s, Fraction(a if a[-1] != "." else a[:-1]))),
    (
        re.compile(rf"{_SIGN}\\frac\{{([-+]?{_DECIMAL})\}}\{{([-+]?{_DECIMAL})\}}"),
        lambda s, a, b: _signed(s, Fraction(a) / Fraction(b)),
    ),
    (
        re.compile(rf"{_SIGN}\(?([-+]?{_DECIMAL})/({_DECIMAL})\)?"),
        lambda s, a, b: _signed(s, Fraction(a) / Fraction(b)),
    ),
    (
        re.compile(rf"{_SIGN}({_INT})\\frac\{{({_INT})\}}\{{({_INT})\}}"),
        lambda s, w, a, b: _signed(s, int(w) + Fraction(int(a), int(b))),
    ),
    (
        re.compile(rf"{_SIGN}({_DECIMAL})(?:\\times|\\cdot|\*|x)10\^(?:\{{([-+]?{_INT})\}}|({_INT}))"),
        lambda s, a, e, f: _signed(s, Fraction(a) * _power(10, e or f)),
    ),
    (re.compile(rf"{_SIGN}({_DECIMAL})[eE]([-+]?{_INT})"), lambda s, a, e: _signed(s, Fraction(a) * _power(10, e))),
    (
        re.compile(rf"{_SIGN}({_INT})\^(?:\{{([-+]?{_INT})\}}|({_INT}))"),
        lambda s, a, e, f: _signed(s, _power(int(a), e or f)),
    ),
    (
        re.compile(rf"{_SIGN}({_INT})?\.(\d*)\\overline\{{({_INT})\}}"),
        lambda s, w, d, r: _signed(
            s, Fraction(f"{w or 0}.{d or 0}") + Fraction(int(r), (10 ** len(r) - 1) * 10 ** len(d))
        ),
    ),
]
MIXED_WITH_SPACE = re.compile(rf"([-+]?{_INT})\s+({_INT})\s*/\s*({_INT})")

PLAIN_LETTER_UNITS = frozenset("mgslL")  # the letters that stand for a unit without \text, after a space: "5 m"
# Words that make a trailing text more than a unit.
NOT_A_UNIT = frozenset(
    "or and to not no if when either between but than into plus minus times except only is are was were because "
    "million billion trillion thousand hundred dozen score gross half third quarter quarters twentieths mod squared cubed factorial "
    "excluded excluding exclusive exclude excludes wrong incorrect false impossible never cannot neither unless without besides maybe "
    "perhaps possibly most least maximum minimum "
    "upward upwards doubled tripled quadrupled halved inverted recurring repeating conjugate imaginary binary octal hexadecimal hex".split()
)
NO_UNIT_SYMBOLS = frozenset(("M", "k"))  # a million or molar, a thousand
_PARTS = "halves thirds fourths fifths sixths sevenths eighths ninths tenths elevenths twelfths".split()
SCALES: dict[str, int | Fraction] = {
    "ten-thousandths": Fraction(1, 10**4),
    "hundred-thousandths": Fraction(1, 10**5),
    "hundred": 100,
    "thousand": 10**3,
    "grand": 10**3,
    "lakh": 10**5,
    "crore": 10**7,
    "mn": 10**6,
    "mln": 10**6,
    "bn": 10**9,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "hundredths": Fraction(1, 100),
    "thousandths": Fraction(1, 10**3),
    "millionths": Fraction(1, 10**6),
    **{name: Fraction(1, size) for size, name in enumerate(_PARTS, start=2)},
}

_TEXT_UNIT = re.compile(r"^(.*[\d})!A-Za-z.%])\s*\\text\s*\{([^{}]*)\}\s*(?:\^\s*\{?(\d)\}?)?$")
_PLAIN_UNIT = re.compile(
    r"^(.*?(?:[\d})%]|\\pi(?![A-Za-z]))\s*)((?:/\s*)?(?:[A-Za-z][A-Za-z'./-]*+\s*+)+)"
    r"(?:\^\s*\{?(\d)\}?)?(?:\s*\(([A-Za-z -]*)\))?$"
)
_PERCENT = re.compile(r"percent(?:s|age)?(?![a-z])(?! points?\b)")
_BELOW_0 = re.compile(r"(?<=\b(?:above|below|under)) 0(?![\d.])")  # the only digit among words
_ARTICLE = re.compile(r"^(?:an?|the) (?=\\?\$?\d.*[a-z]{3})")  # "a 5\% decrease"
# Words in two pieces: "5 degrees\\text{ below zero}", "5\\text{ degrees}\\text{ below zero}".
_PLAIN_THEN_TEXT = re.compile(r"^([-+]?[\d./]+) ([a-z]{3,}[a-z ]*?)\s*\\text\s*\{([A-Za-z ]+)\}$")
_TEXT_THEN_TEXT = re.compile(r"(\\text\s*\{[^{}]*)\}\s*\\text\s*\{([A-Za-z ]+\})$")
_WINDS = {"N": "north", "E": "east", "S": "south", "W": "west"}  # behind degrees; elsewhere they are units
_OUT_OF = re.compile(r"(\d+) (?:in|out of)(?: every)? (\d+)\b(.*)")
# "a loss of 5", "decreased by 5", "down 5"; not "less than 5", "under 5", which are bounds.
_CHANGE = (
    "increase increased increases rise rises rose higher up growth gain gained profit surplus "
    "decrease decreased decreases drop drops dropped fall falls fell reduction reduced decline declined down "
    "loss lost loses deficit shortfall debt owes owed short shortage"
).split()
_SENSE_FIRST = re.compile(rf"(?:an? |the )?({'|'.join(_CHANGE)}) (?:(?:of|by) )?(?=[-+\d.(\\$€£₹¥])(.+)", re.IGNORECASE)
_CURRENCY_NAME = r"(?:US\s*)?\\\$|[€£₹¥¢]|\b(?:USD|EUR|GBP|INR|JPY|Rs)\b\.?|\\text\s*\{\s*(?:USD|EUR|Rs)\.?\s*\}"
_CURRENCY = re.compile(rf"^([-+]?)\s*({_CURRENCY_NAME})\s*(?=[-+\d.\\])")
_CURRENCY_BEHIND = re.compile(rf"^(.*[\d)}}])\s*({_CURRENCY_NAME})$")
# Units written as a fraction or a product: "\frac{\text{km}}{\text{h}}", "\text{km}\cdot\text{h}^{-1}".
_UNIT_NAME = r"\\text\s*\{([^{}]*)\}"
_UNIT_RATIO = re.compile(
    rf"\\frac\s*\{{\s*{_UNIT_NAME}\s*\}}\s*\{{\s*{_UNIT_NAME}\s*(?:\^\s*(\d))?\s*\}}"
    rf"|{_UNIT_NAME}\s*(?:\\cdot)?\s*{_UNIT_NAME}\s*\^\s*\{{\s*-1\s*\}}|{_UNIT_NAME}\s*/\s*{_UNIT_NAME}"
)
_COMPOUND_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+\.?)")
_COMPOUND = re.compile(rf"{_COMPOUND_PART.pattern}(?:(?:\s*,|\s+and)?\s*{_COMPOUND_PART.pattern}){{1,3}}")
_SCALE = re.compile(r"^(.*\d)\s*(\\text\s*\{\s*)?(" + "|".join(SCALES) + r")s?\b(.*)$")


@dataclass(frozen=True)
class Quantity:
    """An answer taken apart: `core` without words and percent sign, and its exact `value` if it is a plain number."""

    core: str
    value: Fraction | None
    percent: bool = False
    label: Label = Label()

    @property
    def unit(self) -> Unit | None:
        return self.label.unit

    @property
    def said(self) -> frozenset[str]:
        """What the words and the percent sign say."""
        return self.label.said | ({"%"} if self.percent else set())

    def signed(self) -> "Quantity | None":
        """The quantity with a sign for the sense that turns it, "5 below zero" as -5; None where there is none to turn."""
        turning = self.label.turning
        if len(turning) != 1 or not turning <= NEGATIVE or self.value is None or self.value <= 0:
            return None
        return replace(self, core=f"-{self.core}", value=-self.value, label=self.label.without(turning))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else Fraction(value)


def _power(base: int, exponent: str) -> Fraction:
    if abs(int(exponent)) > MAX_EXPONENT or base > MAX_EXPONENT**2:
        raise OverflowError("exponent too large")
    if base == 0 == int(exponent):
        raise ZeroDivisionError("0^0")
    return Fraction(base) ** int(exponent)


def number(text: str) -> Fraction | None:
    """The exact value of `text` if it is nothing but a number: integer, decimal, fraction, mixed, power, scientific."""
    if match := MIXED_WITH_SPACE.fullmatch(text.strip()):
        text = rf"{match[1]}\frac{{{match[2]}}}{{{match[3]}}}"
    if re.search(r"\d\s+\d", text):
        return None
    text = re.sub(r"\s+", "", text)
    while len(text) > 2 and text[0] + text[-1] in ("()", "{}") and not re.search(r"[(){}]", text[1:-1]):
        text = text[1:-1]
    if len(text) > MAX_DIGITS:
        return None
    for pattern, value in _PATTERNS:
        if match := pattern.fullmatch(text):
            try:
                return value(*match.groups())
            except (ZeroDivisionError, OverflowError, ValueError):
                return None
    return None


def quantity(text: str) -> Quantity:
    """Take the unit, currency, words and percent sign off a normalised answer."""
    if found := compound(text) or _sense_first(text) or _out_of(text):
        return found
    text = _PLAIN_THEN_TEXT.sub(r"\1\\text{ \2 \3}", _TEXT_THEN_TEXT.sub(r"\1 \2", _ARTICLE.sub("", text)))
    text = _BELOW_0.sub(" zero", text)
    core, unit, percent, scale, label = _UNIT_RATIO.sub(_joined_units, text.strip()), None, False, 1, Label()
    if match := _CURRENCY.match(core):
        core, unit = match[1] + core[match.end() :], _currency(match[2])
    elif match := _CURRENCY_BEHIND.match(core):
        core, unit = match[1], _currency(match[2])
    if (match := _SCALE.match(core)) and number(match[1]) is not None:
        rest = (r"\text{" if match[2] else "") + match[4]
        core, scale = f"{match[1]} {rest if re.search('[A-Za-z]{2}', match[4]) else ''}".strip(), SCALES[match[3]]
    for pattern in (_TEXT_UNIT, _PLAIN_UNIT):
        match = pattern.match(core)
        if match and _is_unit(match[2], pattern is _PLAIN_UNIT, match[1]):
            core, words = match[1].strip(), match[2].strip()
            words = _WINDS.get(words, words) if core.endswith(r"\circ") else words
            if first := _PERCENT.match(words.lower()):
                percent, words = True, words[first.end() :]
            label = read_label(words, match[3])
            aside = match[4] if pattern is _PLAIN_UNIT and match[4] else ""
            label = replace(label, senses=label.senses | senses_of(aside))
            break
    match = re.match(r"^(.*\S)\s*\^\s*\\circ\s*([CFK]|\\text\{\s*[CFK]\s*\})?$", core)
    if match and not TRIGONOMETRY.search(core):  # of "\\sin 30^\\circ" the degrees are the argument's
        core, unit = match[1], DEGREE
        if match[2]:
            label = replace(label, senses=read_label(match[2]).senses)
    if core.endswith("%"):
        core, percent = core.rstrip("%\\ "), True
    if match := re.match(r"^(\d+)\s*(?:\^\s*)?\{?\s*(?:\\text\s*\{\s*)?(?:st|nd|rd|th)\s*\}?\}?$", core):
        core = match[1]
    value = number(core)
    return Quantity(core, None if value is None else value * scale, percent, replace(label, unit=label.unit or unit))


def compound(text: str) -> Quantity | None:
    """ "1 hour 30 minutes", "5 ft 6 in" in the first unit; None for anything else.

    Units of one dimension, each smaller than the one before.
    """
    plain = _plain(text.replace(r",\land", ","))
    if not _COMPOUND.fullmatch(plain):
        return None
    units, values = [], []
    for value, name in _COMPOUND_PART.findall(plain):
        units.append(unit_of(name))
        values.append(Fraction(value))
    known = [unit for unit in units if unit is not None]
    if len(known) < len(units) or len({unit.dimensions for unit in known}) > 1:
        return None
    if any(unit.size <= smaller.size for unit, smaller in zip(known, known[1:])):
        return None
    total = sum((value * unit.size for value, unit in zip(values, known)), Fraction(0)) / known[0].size
    return Quantity(str(total), total, label=Label(known[0]))


def _sense_first(text: str) -> Quantity | None:
    """ "a loss of \\$5", "decreased by 5\\%": the number with the sense of the word before it."""
    match = _SENSE_FIRST.fullmatch(_plain(text)) if text[:1] == "\\" or text[:1].isalpha() else None
    if not match:
        return None
    found = quantity(match[2])
    label = replace(found.label, senses=found.label.senses | {SENSE_OF[match[1].lower()]})
    return replace(found, label=label) if found.value is not None else None


def is_out_of(text: str) -> bool:
    """A part of a whole in words, "2 out of 5", which is no ratio of two parts, "2:5"."""
    return _out_of(text) is not None


def _out_of(text: str) -> Quantity | None:
    """ "2 out of 5", "1 in 4" as fractions, with the words behind them."""
    match = _OUT_OF.fullmatch(_plain(text)) if "in" in text or "out" in text else None
    if not match or not int(match[2]) or re.search(r"[\d\\]", match[3]):
        return None
    label = read_label(match[3])
    if label.unit:  # "6 in 5 ft" are no six of five feet
        return None
    return Quantity(rf"\frac{{{match[1]}}}{{{match[2]}}}", Fraction(int(match[1]), int(match[2])), label=label)


def _plain(text: str) -> str:
    """Words without \\text{}, with single spaces."""
    return " ".join(re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).split())


def _joined_units(match: re.Match) -> str:
    above, below, power, *rest = match.groups(default="")
    above, below = (above, below) if above else (rest[0] or rest[2], rest[1] or rest[3])
    return rf"\text{{{above}/{below}{'^' + power if power else ''}}}"


def _currency(name: str) -> Unit | None:
    return unit_of(re.sub(r"\\text|US(?=\s*\\)|[\\{}.\s]", "", name))


def _is_unit(words: str, plain: bool, core: str) -> bool:
    names = re.findall(r"[A-Za-z]+", words)
    if (
        not names
        or len(names) > MAX_WORDS
        or NOT_A_UNIT & set(words.lower().split())
        or NO_UNIT_SYMBOLS & set(names)
        or re.search(r"(?<!\^)\d", words)
    ):
        return False
    if not plain:
        return bool(re.search(r"[\d}]|\\pi|[a-z]", core))
    # Without \text, letters after a number may be variables: "5x" is no quantity, "5 km", "5 m" and "5 apples" are.
    if number(core.rstrip("%\\ ")) is None:
        return len(words.strip()) > 1 and (unit_of(words) is not None or names[-1] in ("unit", "units"))
    if words.startswith("/"):  # "$20/month"
        return all(map(known, names))
    if len(names) == 1 and len(names[0]) <= 2:
        return unit_of(words) is not None and (
            len(names[0]) == 2 or core[-1:] == " " and names[0] in PLAIN_LETTER_UNITS
        )
    return any(len(name) > 2 for name in names) or core[-1:] == " " and all(map(known, names))


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Equal values, of two known units after exact conversion; a sign may be said by a word ("5 below zero").

    A percent sign on one side only may stand for /100 or be left out.
    """
    if bool(gold.label.turning) != bool(answer.label.turning):
        gold, answer = gold.signed() or gold, answer.signed() or answer
    if gold.value is None or answer.value is None or not compatible_units(gold, answer, converted=True):
        return False
    if gold.percent == answer.percent:
        if gold.unit and answer.unit and gold.unit.size != answer.unit.size:
            return gold.value * gold.unit.size == answer.value * answer.unit.size
        return gold.value == answer.value or _is_rounded(gold, answer) or _is_rounded(answer, gold)
    plain, percent = (answer.value, gold.value) if gold.percent else (gold.value, answer.value)
    return plain == percent or plain == percent / 100


def _is_rounded(exact: Quantity, decimal: Quantity) -> bool:
    """`decimal` is a fraction rounded rightly to at least ROUNDED_DIGITS digits: 0.666667 for 2/3, not 0.666666."""
    match = re.fullmatch(r"[-+]?\d*\.(\d+)", decimal.core)
    if not match or not decimal.value or len(match[1]) < ROUNDED_DIGITS or not re.search(r"\\frac|/", exact.core):
        return False
    assert exact.value is not None, "only numbers are compared"
    return abs(exact.value - decimal.value) <= Fraction(1, 2 * 10 ** len(match[1]))


def compatible_units(gold: Quantity, answer: Quantity, converted: bool = False) -> bool:
    """Words that agree, and of two known units the same one; with `converted`, two that measure the same."""
    if not gold.label.agrees_with(answer.label) or not nested(gold.said, answer.said):
        return False
    if gold.unit is None or answer.unit is None or gold.unit == answer.unit:
        return True
    return converted and gold.unit.dimensions == answer.unit.dimensions
