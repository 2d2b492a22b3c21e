"""What the words beside a number say. A closed table: a word is a unit, a sense, an empty word, or unknown.

Units are those of `units`. A sense turns a value into another one ("increase" and "decrease", "p.m." and "a.m.").
Empty words say nothing of the value. Every other word is unknown, and equals itself only.
"""

import re
from dataclasses import dataclass, field

from spo_rlhf.graders.units import CURRENCIES, FIRST_SPELLING, Unit, unit_of

_SENSES = {
    "increase": "increase increased increases increasing more rise higher up",
    "decrease": "decrease decreased decreases decreasing less fewer drop fall reduction lower down",
    "profit": "profit gain",
    "loss": "loss lost deficit",
    "discount": "discount off",
    "markup": "markup surcharge",
    "older": "older",
    "younger": "younger",
    "taller": "taller",
    "shorter": "shorter",
    "longer": "longer",
    "faster": "faster",
    "slower": "slower",
    "heavier": "heavier",
    "lighter": "lighter",
    "north": "north northward northwards",
    "south": "south southward southwards",
    "east": "east eastward eastwards",
    "west": "west westward westwards",
    "northeast": "northeast",
    "northwest": "northwest",
    "southeast": "southeast",
    "southwest": "southwest",
    "left": "left leftward leftwards",
    "right": "right rightward rightwards",
    "above": "above",
    "below": "below",
    "before": "before earlier ago",
    "after": "after later",
    "forward": "forward forwards",
    "backward": "backward backwards",
    "inward": "inward inwards",
    "outward": "outward outwards",
    "clockwise": "clockwise",
    "counterclockwise": "counterclockwise anticlockwise",
    "am": "am",
    "pm": "pm",
    "bc": "bc bce",
    "ad": "ad ce",
    "celsius": "celsius centigrade c",
    "fahrenheit": "fahrenheit f",
    "kelvin": "kelvin k",
    "even": "even",
    "odd": "odd",
    "positive": "positive",
    "negative": "negative",
}
SENSE_OF = {word: sense for sense, words in _SENSES.items() for word in words.split()}
EMPTY = frozenset(
    "a an the of in on at for to per each every and unit units total altogether overall in-all only exactly us "
    "square squared sq cubic cubed cu".split()
)
_PRICE = re.compile(r"\s*([a-z]+)\s*(?:\b(?:per|a|an|each|every)\b|/)\s*")
_UNIT_GRAMMAR = frozenset("a an per square squared sq cubic cubed cu".split())  # words that `unit_of` reads itself
_IRREGULAR = {"people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "mice": "mouse"}


@dataclass(frozen=True)
class Label:
    """The words beside a number: a unit, the senses, and the unknown words in the singular."""

    unit: Unit | None = None
    senses: frozenset[str] = field(default_factory=frozenset)
    unknown: frozenset[str] = field(default_factory=frozenset)

    def agrees_with(self, other: "Label") -> bool:
        """Neither says what the other denies: what only one of them says may be left out, what both say is the same.

        A unit and an unknown word are not the same. Units are compared by dimension elsewhere.
        """
        if (self.unit is None) != (other.unit is None):
            without = self if self.unit is None else other
            if without.unknown:
                return False
        return _nested(self.senses, other.senses) and _nested(self.unknown, other.unknown)


def read_label(words: str, power: str | None = None) -> Label:
    """Sort the words beside a number ("miles north", "years older", "m/s", "red apples").

    power: an exponent that stood behind the words.
    """
    if (price := _PRICE.match(words.lower())) and (money := unit_of(price[1])) and money.dimensions[0][0] in CURRENCIES:
        per = re.findall(r"[a-z]+", words[price.end() :].lower())  # "dollars per pound" and "$ per pound" are the same
        return Label(money, unknown=frozenset(map(singular, per)) - EMPTY)
    text = re.sub(r"\\text|[{}()\\,;]", " ", words)
    text = re.sub(r"(?i)\b([ap])\.m\b", r"\1m", text)
    tokens = [_folded(token) for token in re.sub(r"(?<=[A-Za-z])\.", "", text).split()]
    senses = frozenset(SENSE_OF[token] for token in tokens if token in SENSE_OF)
    rest = [token for token in tokens if token not in SENSE_OF]
    if whole := unit_of(" ".join(rest), power):  # "in" is an inch, "in total" is not
        return Label(whole, senses)
    start = next((at for at, token in enumerate(rest) if token not in EMPTY or token in _UNIT_GRAMMAR), len(rest))
    rest = rest[start:]
    unit = None
    for end in range(len(rest), 0, -1):
        if unit := unit_of(" ".join(rest[:end]), power if end == len(rest) else None):
            rest = rest[end:]
            break
    unknown = (singular(name) for token in rest if token not in EMPTY for name in re.findall(r"[^\W\d_]+", token))
    return Label(unit, senses, frozenset(word for word in unknown if word not in EMPTY))


def _folded(word: str) -> str:
    """A word in lower case; a symbol of a few letters as it is, unless its case says nothing: "Pa" is not "pA"."""
    plain = word.lower()
    is_symbol = len(word) <= 3 and word[1:] != plain[1:] or word[:1] in "MB" and len(word) <= 3
    return word if is_symbol and plain not in SENSE_OF and plain not in EMPTY and not _same_unit(word, plain) else plain


def _same_unit(word: str, plain: str) -> bool:
    unit = unit_of(plain)
    return unit is not None and unit_of(word) == unit


def senses_of(sentence: str) -> frozenset[str]:
    """The senses in a sentence."""
    return frozenset(SENSE_OF[word] for word in re.findall(r"[a-z]{2,}", sentence.lower()) if word in SENSE_OF)


def singular(word: str) -> str:
    """The singular of a word; of a unit, which may stand among unknown words ("eggs per hour"), its first spelling."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.search(r"(?:x|ch|sh|ss|z)es$", word):
        return word[:-2]
    word = word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word
    return FIRST_SPELLING.get(word, word)


def _nested(one: frozenset[str], other: frozenset[str]) -> bool:
    return one <= other or other <= one
