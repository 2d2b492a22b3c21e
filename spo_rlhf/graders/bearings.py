"""Directions by an angle between two of the four winds: "N30E", "N 30^\\circ E", "30^\\circ east of north"."""

import re
from fractions import Fraction
from typing import Literal

_WIND = r"north|south|east|west|[NSEW]"
_ANGLE = r"(?P<angle>\d{1,2}(?:\.\d+)?)\s*(?:\^\s*\\circ|degrees?)?"
_HEAD = r"(?:(?P<head>.*\S)[\s,]+(?:at |on |towards? )?)?"  # the distance: "5 km N30E"
_FROM_TO = re.compile(rf"{_HEAD}(?:due )?(?P<start>{_WIND})\s*{_ANGLE}\s*(?P<end>{_WIND})(?:ward)?", re.IGNORECASE)
_TO_OF = re.compile(rf"{_HEAD}{_ANGLE}\s*(?P<end>{_WIND}) of (?:due )?(?P<start>{_WIND})", re.IGNORECASE)


def same_bearing(gold: str, answer: str) -> tuple[str, str] | Literal[False] | None:
    """What stands before two normalised directions that are the same, mostly nothing; False where they are two.

    "N30E" is "30^\\circ east of north", not "E30N", nor the number 30. Directions are not turned into each other ("E60N").
    None where neither is one, or only one and in words, some of which the other may leave out.
    """
    sides = [_bearing(side) for side in (gold, answer)]
    if sides[0] and sides[1]:
        return (sides[0][0], sides[1][0]) if sides[0][1:] == sides[1][1:] else False
    return False if any(_FROM_TO.fullmatch(_plain(side)) for side in (gold, answer)) else None


def _bearing(text: str) -> tuple[str, str, Fraction, str] | None:
    """What stands before it, from which wind, by how many degrees, to which; None for what is no bearing."""
    plain = _plain(text)
    match = _FROM_TO.fullmatch(plain) or _TO_OF.fullmatch(plain)
    if not match:
        return None
    return match["head"] or "", match["start"][0].lower(), Fraction(match["angle"]), match["end"][0].lower()


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).split())
