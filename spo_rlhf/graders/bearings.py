"""Directions by an angle between two of the four winds: "N30E", "N 30^\\circ E", "30^\\circ east of north"."""

import re
from fractions import Fraction

_WIND = r"north|south|east|west|[NSEW]"
_ANGLE = r"(\d{1,2}(?:\.\d+)?)\s*(?:\^\s*\\circ|degrees?)?"
_FROM_TO = re.compile(rf"(?:due )?({_WIND})\s*{_ANGLE}\s*({_WIND})(?:ward)?", re.IGNORECASE)
_TO_OF = re.compile(rf"{_ANGLE}\s*({_WIND}) of (?:due )?({_WIND})", re.IGNORECASE)


def same_bearing(gold: str, answer: str) -> bool | None:
    """Whether two normalised answers are the same direction; None where neither is one, or a few words may be left out.

    "N30E" is "30^\\circ east of north", not "E30N", nor the number 30. Directions are not turned into each other ("E60N").
    """
    sides = [_bearing(side) for side in (gold, answer)]
    if None not in sides:
        return sides[0] == sides[1]
    return False if any(_FROM_TO.fullmatch(_plain(side)) for side in (gold, answer)) else None


def _bearing(text: str) -> tuple[str, Fraction, str] | None:
    """From which wind, by how many degrees, to which; None for what is no bearing."""
    plain = _plain(text)
    if match := _FROM_TO.fullmatch(plain):
        start, angle, end = match.groups()
    elif match := _TO_OF.fullmatch(plain):
        angle, end, start = match.groups()
    else:
        return None
    return start[0].lower(), Fraction(angle), end[0].lower()


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).split())
