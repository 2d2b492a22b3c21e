"""Clock times and ratios: "4:30 p.m.", "16:30", "12 o'clock", "3:2", "1:2:3". Both are written with colons."""

import re
from dataclasses import dataclass
from fractions import Fraction

from spo_rlhf.graders.numbers import number
from spo_rlhf.graders.vocabulary import Label, read_label
from spo_rlhf.graders.words import ONES

_TIME = re.compile(
    r"(\d{1,2})(?:\s*:\s*(\d{2}))?(?:\s*:\s*(\d{2}))?\s*"
    r"(?P<mark>a\.?\s?m\b\.?|p\.?\s?m\b\.?|o'?\s?clock|noon|midnight|hours\b|(?=\s|$|[a-z]))\s*(?P<rest>[a-z., ]*)",
    re.IGNORECASE,
)
_SPOKEN = re.compile(
    r"(?:an? )?(half past|quarter past|quarter after|quarter to) (\d{1,2}|[a-z]+)\b(.*)", re.IGNORECASE
)
_MINUTES = {"half past": 30, "quarter past": 15, "quarter after": 15, "quarter to": -15}
# A date, a score, the number of a telephone, of a version or of a decade: no arithmetic, and "v1.10" is not "v1.1".
NO_NUMBER = re.compile(
    r"\d+(?:-\d+)+|\d+(?:/\d+){2,}|\d+(?:\.\d+){2,}|[12]\d\d0s|"
    r"(?!(?:rs|usd|eur|gbp|inr|jpy|cny|rmb)\b)(?:v|[a-z]{2,})\.?\s*\d+(?:\.\d+)+",
    re.IGNORECASE,
)
_RATIO = re.compile(r"[^:]+(?::[^:]+)+")
NOON = {"noon": (12, "pm"), "midnight": (12, "am")}
HOURS = 24


@dataclass(frozen=True)
class ClockTime:
    """`half` is "am", "pm" or None where it is not said; `hour` is of 12 with a half, else of 24.

    second: None where it is not written; `of_24`: written with an hour above 12 or 0, so that it is another time than
    the one with the hour of 12 alone ("22:30" is "10:30 p.m.", not "10:30").
    marked: said to be a time of day, not only written like one ("4:30" may be a ratio or a duration).
    """

    hour: int
    minute: int
    second: int | None
    half: str | None
    marked: bool
    rest: Label
    of_24: bool = False

    def same(self, other: "ClockTime") -> bool:
        """The same time; a half of the day, or a word such as "Monday", may be left out by one of them."""
        if (self.minute, self.second or 0) != (other.minute, other.second or 0):
            return False
        if not self.rest.agrees_with(other.rest):
            return False
        if (self.second is None) != (other.second is None) and not (self.half and other.half):
            return False  # "2:30:00" may be hours and "2:30" minutes
        if self.of_24 != other.of_24 and not (self.half and other.half):
            return False
        if self.half and other.half:
            return (self.hour, self.half) == (other.hour, other.half)
        return self.hour == other.hour


def clock_time(text: str) -> ClockTime | None:
    """The time of day that a normalised answer says, or is written like; None where it does not look like one."""
    plain = " ".join(re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).replace("\\", "").split())
    if plain.lower() in NOON:
        hour, half = NOON[plain.lower()]
        return ClockTime(hour, 0, None, half, True, Label())
    spoken = _digits(plain)
    match = _TIME.fullmatch(spoken or plain)
    if not match:
        return None
    mark = re.sub(r"[^a-z]", "", match["mark"].lower())
    hour, minute, seconds = (int(part or 0) for part in match.group(1, 2, 3))
    if not (mark or match[2]) or mark == "hours" and not match[2] or hour > HOURS or max(minute, seconds) >= 60:
        return None
    half = mark if mark in ("am", "pm") else NOON.get(mark, (0, None))[1]
    if half and not 1 <= hour <= 12:
        if hour < 12 or half == "am":
            return None
        half = None  # "16:30 p.m."
    rest = read_label(match["rest"])
    if not mark and (rest.unit or rest.unknown):
        return None  # "2:30 hours" is a duration in other dress
    of_24 = not half and hour < HOURS and not 1 <= hour <= 12
    if of_24:
        hour, half = abs(hour - 12), "pm" if hour else "am"
    second = None if match[3] is None else seconds
    return ClockTime(hour, minute, second, half, bool(mark or spoken) or of_24 or half is not None, rest, of_24)


def _digits(plain: str) -> str | None:
    """ "half past five p.m." -> "5:30 p.m."; None for what is not said so."""
    match = _SPOKEN.fullmatch(plain)
    hour = match and (int(match[2]) if match[2].isdigit() else ONES.get(match[2].lower(), 0))
    if not match or not hour or hour > 12:  # nobody says "half past seventeen"
        return None
    minutes = _MINUTES[match[1].lower()]
    return f"{(hour - (minutes < 0)) or 12}:{minutes % 60}{match[3]}"


def ratio(text: str) -> tuple[Fraction, ...] | None:
    """The terms of a ratio of numbers, with the last term 1; None for anything else."""
    if not _RATIO.fullmatch(text):
        return None
    terms = [number(term) for term in text.split(":")]
    if None in terms or not terms[-1]:
        return None
    return tuple(term / terms[-1] for term in terms if term is not None and terms[-1])
