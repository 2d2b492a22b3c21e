"""Numerals in Chinese characters, as Chinese and Japanese have them: "二十一", "一百零五", "五分之二", "负五"."""

import re

_DIGITS = {
    char: value
    for value, chars in enumerate(["零〇", "一壹", "二两贰兩", "三叁", "四肆", "五伍", "六陆", "七柒", "八捌", "九玖"])
    for char in chars
}
_TENS = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_GROUPS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_NUMERAL = f"[{''.join([*_DIGITS, *_TENS, *_GROUPS])}]{{1,20}}"
_CHARACTER = "[〇\u3400-\u9fff]"


def in_digits(text: str, counters: str) -> str:
    """The text with each numeral that stands by itself, or before a counter, in digits.

    counters: a pattern of the words that may follow a numeral; before any other character it is part of a word ("五月").
    """
    pattern = rf"(?<!{_CHARACTER})([负負第]|零下)?(?:({_NUMERAL})分之)?({_NUMERAL})(?=(?:{counters})?(?!{_CHARACTER}))"
    return re.sub(pattern, _replaced, text) if re.search(_CHARACTER, text) else text


def _replaced(match: re.Match) -> str:
    sign = "" if match[1] == "第" or not match[1] else "-"
    below, value = (None if part is None else _value(part) for part in match.group(2, 3))
    if value is None or match[2] and not below:
        return match[0]
    return f"{sign}{value}/{below}" if below else f"{sign}{value}"


def _value(numeral: str) -> int | None:
    """The number that the characters say; None where they say none ("十十")."""
    if all(char in _DIGITS for char in numeral):
        return int("".join(str(_DIGITS[char]) for char in numeral))  # "二〇二四"
    total = group = 0
    digit: int | None = None
    largest, scale = 10**12, 10**4
    for char in numeral:
        if char in _DIGITS:
            if digit:
                return None
            digit = _DIGITS[char]
        elif char in _TENS:
            if _TENS[char] >= scale or digit == 0 and group:
                return None
            scale = _TENS[char]
            group += (1 if digit is None else digit) * scale
            digit = None
        else:
            if _GROUPS[char] >= largest or not group + (digit or 0):
                return None
            largest = _GROUPS[char]
            total, group, digit, scale = total + (group + (digit or 0)) * largest, 0, None, 10**4
    return total + group + (digit or 0)
