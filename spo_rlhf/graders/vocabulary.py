"""What the words beside a number say. A closed table: a word is a unit, a sense, an empty word, or unknown.

Units are those of `units`. A sense turns a value into another one ("increase" and "decrease", "p.m." and "a.m."), and some of them
turn its sign ("5 below zero", "a loss of 5"). Empty words say nothing of the value. Every other word is unknown, and equals itself
only.
"""

import re
from dataclasses import dataclass, field, replace

from spo_rlhf.graders.units import CURRENCIES, Unit, known, unit_of

_SENSES = {
    "increase": "increase increased increases increasing more rise rises rose rising higher up upward upwards growth grew warmer hotter dearer",
    "decrease": "decrease decreased decreases decreasing less fewer drop drops dropped dropping fall falls fell reduction "
    "reduced reduce lower down downward downwards decline declined declines shrank dip colder cooler cheaper",
    "profit": "profit gain gains gained surplus",
    "loss": "loss losses lost lose loses losing deficit shortfall",
    "debt": "debt debit withdrawal withdrawn owe owes owed owing overdrawn overdraft",
    "short": "short shortage shy lacking deficient",
    "ahead": "ahead",
    "behind": "behind",
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
    "above": "above over",
    "below": "below under beneath underground underwater",
    "before": "before earlier ago early",
    "after": "after later late",
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
    "celsius": "celsius centigrade",
    "fahrenheit": "fahrenheit",
    "kelvin": "kelvin",
    "even": "even",
    "odd": "odd",
    "positive": "positive",
    "negative": "negative",
}
SENSE_OF = {word: sense for sense, words in _SENSES.items() for word in words.split()}
_SCALE_OF = {"C": "celsius", "F": "fahrenheit", "K": "kelvin"}
# Senses that turn the sign of the value, and their opposites.
TURNING = {
    "decrease": "increase",
    "loss": "profit",
    "debt": "profit",
    "short": "profit",
    "below": "above",
    "behind": "ahead",
    "negative": "positive",
    "bc": "ad",
    "younger": "older",
    "shorter": "longer",
    "slower": "faster",
    "lighter": "heavier",
}
# Of these the value may as well be said with a minus sign: "5 below zero" is -5, and "44 BC" is no year -44.
NEGATIVE = frozenset("decrease loss debt short below behind negative".split())
EMPTY = frozenset(
    "a an the of in on at for to per each every and unit units total altogether overall in-all only exactly us "
    "square squared sq cubic cubed cu".split()
)
_PHRASE = {"in the red": "overdrawn", "in the hole": "overdrawn", "in arrears": "owed", "too few": "short"}
_PHRASES = re.compile("|".join(_PHRASE), re.IGNORECASE)
_PRICE = re.compile(r"\s*([A-Za-z]+)\s*(?:\b(?:per|a|an|each|every)\b|/)\s*")
_UNIT_GRAMMAR = frozenset("a an per square squared sq cubic cubed cu".split())  # words that `unit_of` reads itself
_IRREGULAR = {"people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "mice": "mouse"}


@dataclass(frozen=True)
class Label:
    """The words beside a number: a unit, the senses, and the unknown words in the singular."""

    unit: Unit | None = None
    senses: frozenset[str] = field(default_factory=frozenset)
    unknown: frozenset[str] = field(default_factory=frozenset)

    @property
    def turning(self) -> frozenset[str]:
        """The senses that turn the sign."""
        return self.senses & TURNING.keys()

    @property
    def said(self) -> frozenset[str]:
        """All that the words say; that there is a unit, for which one it is `numbers` compares by dimension and size."""
        return self.senses | self.unknown | ({"unit"} if self.unit else set())

    def agrees_with(self, other: "Label") -> bool:
        """One says all that the other says: it may say more, but the other then says nothing else in its place.

        A sense that turns the sign is left out by none.
        """
        return nested(self.said, other.said) and self.turning == other.turning

    def without(self, senses: frozenset[str]) -> "Label":
        """The label without some senses."""
        return replace(self, senses=self.senses - senses)


def read_label(words: str, power: str | None = None) -> Label:
    """Sort the words beside a number ("miles north", "years older", "m/s", "red apples").

    power: an exponent that stood behind the words.
    """
    if (price := _PRICE.match(words)) and (money := unit_of(price[1])) and money.dimensions[0][0] in CURRENCIES:
        per = re.findall(r"[a-z]+", words[price.end() :].lower())  # "dollars per pound" and "$ per pound" are the same
        return Label(money, unknown=frozenset(map(singular, per)) - EMPTY)
    text = re.sub(r"\\text|[{}()\\,;]", " ", words)
    text = re.sub(r"(?i)\b([ap])\.m\b", r"\1m", text)
    text = _PHRASES.sub(lambda match: _PHRASE[match[0].lower()], text)
    tokens = re.sub(r"(?<=[A-Za-z])\.", "", text).split()
    senses = frozenset(filter(None, map(_sense, tokens)))
    rest = [token for token in tokens if _sense(token) is None]
    if whole := unit_of(" ".join(rest), power):  # "in" is an inch, "in total" is not
        return Label(whole, senses)
    start = next((at for at, token in enumerate(rest) if not _is_empty(token) or token in _UNIT_GRAMMAR), len(rest))
    rest = rest[start:]
    unit = None
    for end in range(len(rest), 0, -1):
        if unit := unit_of(" ".join(rest[:end]), power if end == len(rest) else None):
            rest = rest[end:]
            break
    empty = rest[:-1] if rest[-1:] and rest[-1] in _UNIT_GRAMMAR else rest  # "5 a", "5 square" are not "5"
    names = (
        name for token in rest if token not in empty or not _is_empty(token) for name in re.findall(r"[^\W\d_]+", token)
    )
    return Label(unit, senses, frozenset(singular(name) for name in names if name not in empty or not _is_empty(name)))


def _sense(token: str) -> str | None:
    return _SCALE_OF.get(token) or (SENSE_OF.get(token.lower()) if len(token) > 1 else None)


def _is_empty(token: str) -> bool:
    return (token.lower() if len(token) > 1 else token) in EMPTY


def senses_of(sentence: str) -> frozenset[str]:
    """The senses in a sentence."""
    return frozenset(SENSE_OF[word] for word in re.findall(r"[a-z]{2,}", sentence.lower()) if word in SENSE_OF)


def singular(word: str) -> str:
    """An unknown word in the singular and in lower case; a unit, which may stand among such ("eggs per hour"), as its size.

    The case of a symbol counts: of what has two letters, no vowel, or capitals behind its first letter.
    """
    if unit := known(word):
        return f"{unit[1]} {unit[0]}"
    capitals = word.isupper() and len(word) > 3
    if len(word) <= 2 or not re.search("[aeiouy]", word.lower()) or word[1:] != word[1:].lower() and not capitals:
        return word.removesuffix("s") if len(word) > 2 else word
    word = word.lower()
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.search(r"(?:x|ch|sh|ss|z)es$", word):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word


def nested(one: frozenset[str], other: frozenset[str]) -> bool:
    """One of two sets holds the other."""
    return one <= other or other <= one
