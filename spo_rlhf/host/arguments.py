"""Types of command-line options; what they refuse is told in one line."""

import argparse
import math
import sys
from collections.abc import Callable

from spo_rlhf.core.options import LONGEST_WAIT, TEMPERATURE


def whole(smallest: int, largest: int = sys.maxsize) -> Callable[[str], int]:
    """Type of an option that is an integer from `smallest` to `largest`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not smallest <= int(text) <= largest:
            to = "" if largest == sys.maxsize else f" to {largest}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {smallest}{to}")
        return int(text)

    return parse


def add_number(add: Callable[..., object], flag: str, smallest: int, default: int, help: str) -> None:
    """An option that is a whole number, its default told. add: `add_argument` of a parser or of a group."""
    add(flag, type=whole(smallest), default=default, metavar="N", help=f"{help}; default: %(default)s")


def whole_numbers(text: str) -> tuple[int, ...]:
    """Type of an option that is a list such as 2048,4096: whole numbers from 1, each once, in rising order."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers from 1, such as 2048,4096")
    numbers = [int(part) for part in parts]
    if twice := next((number for number in numbers if numbers.count(number) > 1), None):
        raise argparse.ArgumentTypeError(f"{text!r} has {twice} twice; give each number once")
    if max(numbers) > sys.maxsize:
        raise argparse.ArgumentTypeError(f"{max(numbers)} is larger than any limit can be")
    return tuple(sorted(numbers))


def names(text: str) -> tuple[str, ...]:
    """Type of an option that is a list such as math500,aime24."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list with commas between its parts")
    return parts


def share(text: str) -> float:
    """Type of an option that is above 0 and at most 1."""
    value = _float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0, at most 1")
    return value


def seconds(text: str) -> float:
    """Type of an option that is a time above 0 that a clock can count."""
    value = _float(text)
    if not 0 < value <= LONGEST_WAIT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, at most {LONGEST_WAIT}")
    return value


def temperature(text: str) -> float:
    """Type of an option that is a temperature to sample with, or 0."""
    value = _float(text)
    if not TEMPERATURE.holds(value):
        raise argparse.ArgumentTypeError(f"{text!r} must be {TEMPERATURE}")
    return value


def finite(text: str) -> float:
    """Type of an option that is a finite number."""
    value = _float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def rows(text: str) -> slice:
    """Type of an option that is a range such as 0:7000, :100 or 7000:."""
    start, colon, end = text.partition(":")
    if not colon or any(part and not part.isdecimal() for part in (start, end)):
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B, such as 0:7000, :100 or 7000:")
    return slice(int(start) if start else None, int(end) if end else None)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
