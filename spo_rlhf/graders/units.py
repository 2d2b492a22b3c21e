"""Units of measure by name: which are the same, and which convert exactly into each other.

What is not listed is no unit: `vocabulary` compares such words by their letters.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_INCH = Fraction(254, 10_000)  # metres
# Dimension -> spellings -> size in the dimension's first unit. A plural "s" is taken off before the look-up.
_UNITS: dict[str, dict[str, Fraction | int]] = {
    "length": {
        "m meter metre": 1,
        "mm millimeter millimetre": Fraction(1, 1000),
        "cm centimeter centimetre": Fraction(1, 100),
        "km kilometer kilometre": 1000,
        "in inch inche": _INCH,
        "ft foot feet": 12 * _INCH,
        "yd yard": 36 * _INCH,
        "mi mile": 63_360 * _INCH,
    },
    "area": {"hectare ha": 10_000, "acre": 4840 * (36 * _INCH) ** 2},
    "time": {
        "s second sec": 1,
        "min minute": 60,
        "h hour hr": 3600,
        "d day": 86_400,
        "week wk": 604_800,
    },
    "year": {"year yr": 1, "month": Fraction(1, 12), "decade": 10, "century centurie": 100},
    "mass": {
        "g gram": 1,
        "kg kilogram": 1000,
        "mg milligram": Fraction(1, 1000),
        "lb pound": Fraction(45_359_237, 100_000),
        "oz ounce": Fraction(45_359_237, 1_600_000),
    },
    "volume": {"l liter litre": 1, "ml milliliter millilitre": Fraction(1, 1000)},
    "ton": {"ton tonne": 1},  # long, short or metric: not comparable with kilograms
    "gallon": {"gal gallon": 1, "quart": Fraction(1, 4), "pint": Fraction(1, 8)},
    "dollar": {"$ dollar usd us$ buck": 1, "cent ¢": Fraction(1, 100)},
    "euro": {"€ euro eur": 1},
    "sterling": {"£ gbp": 1},
    "rupee": {"₹ rupee rs inr": 1},
    "yen": {"¥ yen jpy": 1},
    "yuan": {"yuan rmb cny": 1},
    "degree": {"deg degree": 1},
    "radian": {"rad radian": 1},
    "force": {"n newton": 1},
    "energy": {"j joule": 1},
    "power": {"w watt": 1},
}
# Symbols in which the case of a letter is the size; other spellings may be written in either case.
_CASED = {
    "mW": ("power", Fraction(1, 1000)),
    "kW": ("power", Fraction(1000)),
    "MW": ("power", Fraction(10**6)),
    "GW": ("power", Fraction(10**9)),
    "Mm": ("length", Fraction(10**6)),
    "Hz": ("frequency", Fraction(1)),
    "kHz": ("frequency", Fraction(1000)),
    "MHz": ("frequency", Fraction(10**6)),
    "GHz": ("frequency", Fraction(10**9)),
}
UNIT_OF = {
    name: (dimension, Fraction(size))
    for dimension, units in _UNITS.items()
    for names, size in units.items()
    for name in names.split()
}
FIRST_SPELLING = {name: names.split()[0] for units in _UNITS.values() for names in units for name in names.split()}
CURRENCIES = frozenset("dollar euro sterling rupee yen yuan".split())
SPEEDS = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "mpg": "mi/gal"}
MAX_WORDS = 6
_PART = re.compile(r"(?:(square|sq|cubic|cu)\s+)?([a-z$€£¢₹¥]+)(?:\s+(squared|cubed))?\s*(?:\^\s*\{?(-?\d)\}?)?")
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}


@dataclass(frozen=True)
class Unit:
    """`dimensions` holds (dimension, exponent) pairs in order, `size` is in the product of their first units."""

    dimensions: tuple[tuple[str, int], ...]
    size: Fraction


def unit_of(words: str, power: str | None = None) -> Unit | None:
    """The unit that words name ("square inches", "km/h", "miles per hour", "m/s^2"); None for one that is not listed.

    power: an exponent that stood behind the words.
    """
    if (cased := _CASED.get(words.strip())) and power is None:
        return Unit(((cased[0], 1),), cased[1])
    text = re.sub(r"[{}\\]|\btext\b", " ", words.lower().replace(".", " "))
    text = SPEEDS.get(text.strip(), text)
    parts = re.split(r"/|\bper\b|\ban?\b", text)
    if len(parts) > 2:
        return None
    dimensions: dict[str, int] = {}
    size = Fraction(1)
    for sign, part in zip((1, -1), parts):
        match = _PART.fullmatch(" ".join(part.split()))
        if not match:
            return None
        known = UNIT_OF.get(match[2]) or UNIT_OF.get(match[2].removesuffix("s"))
        if known is None:
            return None
        written = match[4] or (power if part is parts[-1] else None)
        exponent = sign * int(written or _POWERS.get(match[1] or match[3], 1))
        dimensions[known[0]] = dimensions.get(known[0], 0) + exponent
        size *= known[1] ** exponent
    if dimensions.get("volume") == 1 and len(dimensions) == 1:  # a litre is (10 cm)^3
        dimensions, size = {"length": 3}, size / 1000
    if dimensions.get("area") == 1 and len(dimensions) == 1:
        dimensions = {"length": 2}
    return Unit(tuple(sorted(dimensions.items())), size)


DEGREE, RADIAN = unit_of("degree"), unit_of("radian")
