"""Units of measure by name: which are the same, and which convert exactly into each other.

A closed table: words and abbreviations of words in any case ("Meters", "FT"), symbols letter by letter, for there the case is the
size or another unit ("mW" and "MW", "s" and "S"). What is not listed is no unit: `vocabulary` compares such words by their letters.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_INCH = Fraction(254, 10_000)  # metres
# Dimension -> words, in any case, or symbols -> size in the dimension's first unit. A plural "s" is taken off before the look-up.
_WORDS: dict[str, dict[str, Fraction | int]] = {
    "length": {
        "inch in inche": _INCH,
        "foot ft feet": 12 * _INCH,
        "yard yd": 36 * _INCH,
        "mile mi": 63_360 * _INCH,
    },
    "area": {"hectare": 10_000, "acre": 4840 * (36 * _INCH) ** 2},
    "time": {"sec": 1, "minute min": 60, "hour hr": 3600, "day": 86_400, "week wk": 604_800},
    "year": {"year yr": 1, "month": Fraction(1, 12), "decade": 10, "century centurie": 100},
    "mass": {"pound lb": Fraction(45_359_237, 100_000), "ounce oz": Fraction(45_359_237, 1_600_000)},
    "ton": {"ton tonne": 1},  # long, short or metric: not comparable with kilograms
    "gallon": {"gallon gal": 1, "quart": Fraction(1, 4), "pint": Fraction(1, 8)},
    "dollar": {"$ dollar usd us$ buck": 1, "cent ¢": Fraction(1, 100)},
    "euro": {"€ euro eur": 1},
    "sterling": {"£ gbp": 1},
    "rupee": {"₹ rupee rs inr": 1},
    "yen": {"¥ yen jpy": 1},
    "yuan": {"yuan rmb cny": 1},
    "degree": {"degree deg": 1},
    "radian": {"radian rad": 1},
    "percentage point": {"percentagepoint": 1, "basispoint": Fraction(1, 100)},
}
_SYMBOLS: dict[str, dict[str, Fraction | int]] = {
    "area": {"ha": 10_000},
    "time": {"h": 3600, "d": 86_400},
    "percentage point": {"pp": 1, "bp": Fraction(1, 100)},
}
_PREFIXES = {
    "n nano": Fraction(1, 10**9),
    "micro": Fraction(1, 10**6),  # "\mu" is made of `normalize`
    "m milli": Fraction(1, 1000),
    "c centi": Fraction(1, 100),
    "d deci": Fraction(1, 10),
    "k K kilo": Fraction(1000),
    "M mega": Fraction(10**6),
    "G giga": Fraction(10**9),
    "T tera": Fraction(10**12),
}
_SMALLER, _LARGER = "n micro m", "k M G T"
# Symbols and words of a unit -> dimension, size, and the prefixes it takes besides "micro m k M", those of every unit.
_WITH_PREFIXES: dict[tuple[str, str], tuple[str, int, str]] = {
    ("m", "meter metre"): ("length", 1, "n micro m c d k M G T"),
    ("g", "gram gramme"): ("mass", 1, "n micro m c d k M G T"),
    ("s", "second"): ("time", 1, _SMALLER),
    ("L l", "liter litre"): ("volume", 1, "n micro m c d k M"),
    ("W", "watt"): ("power", 1, f"{_SMALLER} {_LARGER}"),
    ("J", "joule"): ("energy", 1, f"{_SMALLER} {_LARGER}"),
    ("Wh", "watthour"): ("energy", 3600, _LARGER),
    ("eV", "electronvolt"): ("electron volt", 1, f"m {_LARGER}"),
    ("cal", "calorie"): ("calorie", 1, "k"),
    ("N", "newton"): ("force", 1, f"{_SMALLER} {_LARGER}"),
    ("Pa", "pascal"): ("pressure", 1, f"{_SMALLER} {_LARGER}"),
    ("Hz", "hertz"): ("frequency", 1, f"m {_LARGER}"),
    ("V", "volt"): ("voltage", 1, f"{_SMALLER} {_LARGER}"),
    ("A", "ampere amp"): ("current", 1, f"{_SMALLER} {_LARGER}"),
    ("ohm", "ohm"): ("resistance", 1, f"{_SMALLER} {_LARGER}"),
    ("F", "farad"): ("capacitance", 1, _SMALLER),
    ("H", "henry henrie"): ("inductance", 1, _SMALLER),
    ("C", "coulomb"): ("charge", 1, _SMALLER),
    ("T", "tesla"): ("flux density", 1, _SMALLER),
    ("S", "siemens"): ("conductance", 1, _SMALLER),
    ("mol", "mole"): ("amount", 1, f"{_SMALLER} k"),
    ("B", "byte"): ("data", 8, _LARGER),
    ("b bit", "bit"): ("data", 1, _LARGER),
    ("bps", "bps"): ("data rate", 1, _LARGER),
}
_OTHER_SPELLINGS = {"KG": "kg", "KM": "km"}  # K and G, or M, would be no unit together


def _spelled(table: dict[str, dict[str, Fraction | int]]) -> dict[str, tuple[str, Fraction]]:
    return {
        name: (dimension, Fraction(size))
        for dimension, units in table.items()
        for names, size in units.items()
        for name in names.split()
    }


def _with_prefixes() -> tuple[dict[str, tuple[str, Fraction]], dict[str, tuple[str, Fraction]]]:
    """The words and the symbols that prefixes make, the bare ones among them."""
    words, symbols = {}, {}
    for (short, long), (dimension, size, taken) in _WITH_PREFIXES.items():
        symbols |= {name: (dimension, Fraction(size)) for name in short.split()}
        words |= {name: (dimension, Fraction(size)) for name in long.split()}
        for prefixes, factor in _PREFIXES.items():
            *letters, word = prefixes.split()
            if (letters or [word])[0] in taken.split():
                scaled = dimension, factor * size
                symbols |= {letter + name: scaled for letter in letters or [word] for name in short.split()}
                words |= {word + name: scaled for name in long.split()}
    return words, symbols


_made = _with_prefixes()
WORDS = _spelled(_WORDS) | _made[0]
SYMBOLS = _spelled(_SYMBOLS) | _made[1] | {other: _made[1][name] for other, name in _OTHER_SPELLINGS.items()}
CURRENCIES = frozenset("dollar euro sterling rupee yen yuan".split())
SPEEDS = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "mpg": "mi/gal"}
MAX_WORDS = 6
_PHRASES = re.compile(r"(?i)\b(percentage|basis)\s+(points?)\b|\b((?:kilo|mega|giga|tera)?watt)[\s-](hours?)\b")
_PART = re.compile(
    r"(?:((?i:square|sq|cubic|cu))\s+)?([A-Za-z$€£¢₹¥]+)(?:\s+((?i:squared|cubed)))?\s*(?:\^\s*\{?(-?\d)\}?)?"
)
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}


@dataclass(frozen=True)
class Unit:
    """`dimensions` holds (dimension, exponent) pairs in order, `size` is in the product of their first units."""

    dimensions: tuple[tuple[str, int], ...]
    size: Fraction


def known(name: str) -> tuple[str, Fraction] | None:
    """Dimension and size of a single unit's name, which may be in the plural; None for one that is not listed."""
    word = name.lower()
    singular = name.removesuffix("s") if len(name) > 2 else name
    return (
        SYMBOLS.get(name)
        or WORDS.get(word)
        or (WORDS.get(word.removesuffix("s")) if len(word) > 2 else None)
        or SYMBOLS.get(singular if len(singular) > 1 else name)
    )


def unit_of(words: str, power: str | None = None) -> Unit | None:
    """The unit that words name ("square inches", "km/h", "miles per hour", "m/s^2"); None for one that is not listed.

    power: an exponent that stood behind the words.
    """
    text = re.sub(r"[{}\\]|\btext\b", " ", words.replace(".", " "))
    text = _PHRASES.sub(lambda match: "".join(part or "" for part in match.groups()), text)
    text = SPEEDS.get(text.strip().lower(), text)
    parts = re.split(r"/|\b(?i:per)\b|\ban?\b", text)
    if len(parts) > 2:
        return None
    dimensions: dict[str, int] = {}
    size = Fraction(1)
    for sign, part in zip((1, -1), parts):
        match = _PART.fullmatch(" ".join(part.split()))
        found = known(match[2]) if match else None
        if not match or found is None:
            return None
        written = match[4] or (power if part is parts[-1] else None)
        exponent = sign * int(written or _POWERS.get((match[1] or match[3] or "").lower(), 1))
        dimensions[found[0]] = dimensions.get(found[0], 0) + exponent
        size *= found[1] ** exponent
    if dimensions.get("volume") == 1 and len(dimensions) == 1:  # a litre is (10 cm)^3
        dimensions, size = {"length": 3}, size / 1000
    if dimensions.get("area") == 1 and len(dimensions) == 1:
        dimensions = {"length": 2}
    return Unit(tuple(sorted(dimensions.items())), size)


DEGREE, RADIAN = unit_of("degree"), unit_of("radian")
