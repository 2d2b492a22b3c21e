"""Are two single values the same: numbers, quantities, angles, numerals with a base, expressions?"""

import re
from dataclasses import replace
from fractions import Fraction

from spo_rlhf.graders.algebra import algebraically_equal, mathematical
from spo_rlhf.graders.bearings import same_bearing
from spo_rlhf.graders.clock import NO_NUMBER, clock_time, ratio
from spo_rlhf.graders.guards import Problem, is_literal, too_large, unevaluated
from spo_rlhf.graders.normalize import squash
from spo_rlhf.graders.notation import misread
from spo_rlhf.graders.numbers import PLAIN_LETTER_UNITS, Quantity, compatible_units, is_out_of, quantity, same_quantity
from spo_rlhf.graders.structure import as_text, split_top
from spo_rlhf.graders.units import DEGREE, RADIAN, known
from spo_rlhf.graders.vocabulary import TURNING, Label, senses_of
from spo_rlhf.graders.words import ONES, lone_number

MAX_SIDES = 4
_NUMERIC_COMMAND = re.compile(r"\\(?:sqrt|frac|cdot|times|div|pi|binom|log|ln)(?![A-Za-z])")
_SYMBOL = re.compile(r"[A-Za-z]")
# "52_8", "(52)_{8}", "4210_{\\text{five}}", "321 \\text{ (base 5)}", "321 base five".
_BASE = re.compile(
    r"\(?\s*([0-9A-F]+|(?=\d)[0-9a-f]+|[a-f]{2,})\s*\)?\s*"
    r"(?:_\s*\{?\s*(?:\\text\s*\{)?\s*(?:base\s*)?(\w+)|(?:\\text\s*\{)?[\s(]*(?:in\s+)?base[\s-]*(\w+)\s*\)?)\s*\}?\s*\}?"
)
_PLAIN_WORDS = re.compile(r"(?=.*[A-Za-z]{2}|.*[a-z]\.[a-z])[\w:. ]+")  # "4:30 p.m."
_HOUR = re.compile(r"\d{1,2}")
_THOUSANDS = re.compile(r"((?:\\?\$\s*)?(\d+(?:\.\d+)?))\s*[kK]")
_ATTACHED = re.compile(rf"(\d+(?:\.\d+)?)([{''.join(sorted(PLAIN_LETTER_UNITS))}])")
_DECIMAL = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")
_MEASURE = re.compile(r"(?:\\frac|[A-Z]|_\d|_\{\d+\}|[{}:/\s])+")  # "\frac{AB}{CD} = 2" may be answered by "2"
_NUMBER_AND_SYMBOL = re.compile(r"(\d[\d.]*) +([A-Za-z]{1,3})")
_COMPASS = re.compile(r"[NESW]{2,3}")
_ROMAN = re.compile(r"(?=[IVXLCDM]{2})M*(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_EMPTY = ("\\emptyset", "\\{\\}")


class Scalars:
    """Compares single values of answers to one problem. `reason` says why a guard refused one."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.reason = "different"

    def same(self, gold: str, answer: str, name: str | None = None) -> bool:
        """Equality of two pieces without commas. `name`: what the gold answer is said to be."""
        if squash(gold) == squash(answer):
            return True
        if {squash(gold), squash(answer)} <= set(_EMPTY):
            return True
        if _PLAIN_WORDS.fullmatch(gold) and _PLAIN_WORDS.fullmatch(answer) and _letters(gold) == _letters(answer):
            return True
        if (verdict := self._by_form(gold, answer)) is not None:
            return verdict
        gold_q = quantity(gold)
        answer_q = self._answered(answer, gold_q)
        if (
            not is_literal(answer_q.core)
            and squash(gold_q.core) != squash(answer_q.core)
            and self.problem.contains(answer_q.core)
        ):
            return self._refuse("copied from the problem")
        gold_q, answer_q = self._with_letter_units(gold_q, answer_q)
        if self._says_the_opposite(gold_q, answer_q) or self._says_the_opposite(answer_q, gold_q):
            return False
        if gold_q.value is not None and answer_q.value is not None:
            return same_quantity(gold_q, answer_q) or same_quantity(*self._as_asked(gold_q, answer_q))
        gold_q, answer_q = self._as_asked(gold_q, answer_q)
        if self._is_angle(gold_q, answer_q):
            return self._same_angle(gold_q, answer_q)
        if squash(gold_q.core) == squash(answer_q.core):
            return gold_q.percent == answer_q.percent and compatible_units(gold_q, answer_q)
        return (
            compatible_units(gold_q, answer_q)
            and gold_q.percent == answer_q.percent
            and self._same_algebra(gold_q, answer_q, name)
        )

    def _by_form(self, gold: str, answer: str) -> bool | None:
        """What has a form of its own: dates, versions, directions, Roman numerals, times, ratios, numerals with a base. None for
        other texts."""
        if NO_NUMBER.fullmatch(_plain(gold)) or NO_NUMBER.fullmatch(_plain(answer)) or self._is_version(gold, answer):
            return False  # "2024-01-02" is no 2021, nor another day
        if (heads := same_bearing(gold, answer)) is not None:
            return heads and (heads == ("", "") or self.same(*heads))
        if any(form.fullmatch(gold) and form.fullmatch(answer) for form in (_ROMAN, _COMPASS)):
            return False  # and no products of letters: "IV" is not "VI", nor "SW" "WS"
        if (verdict := self._with_colons(gold, answer)) is not None:
            return verdict
        gold_base, answer_base = _numeral(gold), _numeral(answer)
        return _same_base(gold, answer, gold_base, answer_base) if gold_base or answer_base else None

    def _answered(self, answer: str, gold: Quantity) -> Quantity:
        """The answer's quantity, with the forms that only a number as the gold answer allows: "2.5k", "5m", a sentence."""
        if gold.value is not None:
            if quantity(answer).value is None and (said := lone_number(answer)):
                return self._in_sentence(said, answer, gold)
            if match := _THOUSANDS.fullmatch(answer):
                return replace(quantity(match[1]), value=1000 * Fraction(match[2]))
            if (match := _ATTACHED.fullmatch(answer)) and not self.problem.contains(answer):
                return quantity(f"{match[1]} {match[2]}")
        return quantity(answer)

    def _is_version(self, *sides: str) -> bool:
        """Both are numbers with a point, of a version: "1.10" is not "1.1"."""
        return self.problem.asks_for_version and all("." in side and _DECIMAL.fullmatch(side) for side in sides)

    @staticmethod
    def _with_letter_units(*sides: Quantity) -> tuple[Quantity, ...]:
        """ "1000 W" in watts beside "1 kW": a capital behind a number is a unit where the other side has one."""
        cores = [_NUMBER_AND_SYMBOL.fullmatch(side.core) for side in sides]
        return tuple(
            quantity(rf"{match[1]}\text{{ {match[2]}}}") if match and known(match[2]) and other.unit else side
            for side, other, match in zip(sides, sides[::-1], cores)
        )

    def _says_the_opposite(self, side: Quantity, other: Quantity) -> bool:
        """ "20% increase" beside "20%" where the problem asks for a decrease."""
        opposites = {TURNING[sense] for sense in self.problem.senses_asked}
        return bool(opposites & side.label.senses) and not other.label.senses

    def _as_asked(self, *sides: Quantity) -> tuple[Quantity, ...]:
        """Without a sense that turns the sign where the problem asks for it ("How much did she lose?") and the other side
        says none."""
        return tuple(
            side if other.label.senses else replace(side, label=side.label.without(self.problem.senses_asked))
            for side, other in zip(sides, sides[::-1])
        )

    @staticmethod
    def same_time(gold: str, answer: str) -> bool:
        """Both are times of day, in words or in figures, and the same."""
        gold_time, answer_time = clock_time(gold), clock_time(answer)
        return gold_time is not None and answer_time is not None and gold_time.same(answer_time)

    def _with_colons(self, gold: str, answer: str) -> bool | None:
        """Times of day and ratios; None where neither is one."""
        gold_time, answer_time = clock_time(gold), clock_time(answer)
        marked = [time for time in (gold_time, answer_time) if time and time.marked]
        if gold_time and answer_time and (marked or not self.problem.asks_for_a_ratio):
            return gold_time.same(answer_time)
        if marked:
            hour = _HOUR.fullmatch(answer if gold_time else gold)  # "5" for "5 p.m."
            return bool(hour) and (marked[0].hour, marked[0].minute) == (int(hour[0]), 0)
        gold_ratio, answer_ratio = ratio(gold), ratio(answer)
        one_has_none = not (":" in gold and ":" in answer)
        if one_has_none and (gold_ratio or answer_ratio) and is_out_of(answer if gold_ratio else gold):
            return False
        if not self.problem.asks_for_a_ratio and one_has_none and (gold_time or answer_time):
            return False  # nor is "10:30" the number 1/3
        if (gold_time and answer_ratio or answer_time and gold_ratio) and not self.problem.asks_for_a_ratio:
            return False  # "1:30" is no ratio, as far as one can see
        if gold_ratio is None or answer_ratio is None or self.problem.contains(answer):
            return None
        return gold_ratio == answer_ratio

    def _in_sentence(self, said: str, sentence: str, gold: Quantity) -> Quantity:
        """The quantity that a sentence says, with the senses of all its words: "He has a loss of 5" is not 5 of profit.

        No value where a word turns the sign that neither the gold answer nor the problem has: "the lower bound is 5".
        """
        found = quantity(said)
        if found.value is None and gold.label == Label():
            found = quantity(said.split(" ")[0])
        senses = senses_of(sentence)
        if (senses - gold.label.senses - self.problem.senses_asked) & TURNING.keys():
            return Quantity(sentence, None)
        return replace(found, label=replace(found.label, senses=found.label.senses | senses))

    def _is_angle(self, gold: Quantity, answer: Quantity) -> bool:
        """One is in degrees and the other in radians, a multiple of pi; and the gold or the problem is in degrees."""
        in_degrees = [part.unit == DEGREE for part in (gold, answer)]
        if not any(in_degrees) and self.problem.in_degrees:
            in_degrees[0] = gold.value is not None and gold.unit is None
        elif in_degrees == [False, True] and not self.problem.in_degrees:
            return False
        in_radians = [part.unit in (None, RADIAN) and r"\pi" in part.core for part in (gold, answer)]
        return in_degrees[0] and in_radians[1] or in_degrees[1] and in_radians[0]

    def _same_angle(self, gold: Quantity, answer: Quantity) -> bool:
        degrees, radians = (answer, gold) if r"\pi" in gold.core else (gold, answer)
        if degrees.value is None or not mathematical(radians.core) or too_large(radians.core):
            return False
        turn = degrees.value / Fraction(180)
        return algebraically_equal(rf"\frac{{{turn.numerator}\pi}}{{{turn.denominator}}}", radians.core)

    def _same_algebra(self, gold: Quantity, answer: Quantity, name: str | None) -> bool:
        symbols = [_NUMBER_AND_SYMBOL.fullmatch(side.core) for side in (gold, answer)]
        if symbols[0] and symbols[1] and symbols[0][2] != symbols[1][2]:
            return False  # "5 b" is not "5 B", nor "5 Pa" "5 pA"
        sides = split_top(answer.core, "=")
        if len(sides) > 1 and "=" not in gold.core:
            return self._same_chain(gold, sides, name)
        if len(split := split_top(gold.core, "=")) == 2 and len(sides) == 1 and _MEASURE.fullmatch(split[0]):
            return self.same(split[1], answer.core)
        if r"\text" in answer.core or not mathematical(gold.core) or not mathematical(answer.core):
            return _words(gold.core) == _words(answer.core) != ""
        if what := misread(gold.core) or misread(answer.core):
            return self._refuse(f"not understood: {what}")
        if self.problem.speaks_of_matrices and _factors(gold.core) != _factors(answer.core):
            return self._refuse("not understood: the order of a product of matrices")
        if reason := unevaluated(gold.core, answer.core, gold.value is not None):
            return self._refuse(reason)
        if too_large(gold.core):
            return self._refuse("gold answer too large to compute with")
        return algebraically_equal(_exactly(gold), _exactly(answer), self.problem.may_be_complex)

    def _same_chain(self, gold: Quantity, sides: list[str], name: str | None) -> bool:
        """The last side has the gold's value, and so has every other that is a number: "2+3=5", "m+n=5", not "4=5"."""
        *steps, last = sides
        if not all(sides) or len(sides) > MAX_SIDES or not self.same(gold.core, last):
            return False
        return all(
            name in (None, squash(step))
            if _SYMBOL.search(_NUMERIC_COMMAND.sub("", step))
            else too_large(step) is None
            and (
                quantity(step).value == gold.value
                if quantity(step).value is not None and gold.value is not None
                else algebraically_equal(gold.core, step)
            )
            for step in steps
        )

    def _refuse(self, reason: str) -> bool:
        self.reason = reason
        return False


def _factors(text: str) -> list[str]:
    """The products of several capital letters in an expression, of each term in its order: of "2AB + A" it is "AB"."""
    bare = re.sub(r"\\[A-Za-z]+|\^\s*(?:\{[^{}]*\}|.)|_\s*(?:\{[^{}]*\}|.)", "", text)
    terms = (re.sub("[^A-Z]", "", term) for term in re.split(r"[-+=()]", bare))
    return sorted(term for term in terms if len(set(term)) > 1)


def _exactly(part: Quantity) -> str:
    """A quantity for the algebra: its exact value where it has one. A decimal, which may be rounded, stays as it is."""
    if part.value is None or _DECIMAL.fullmatch(part.core) and Fraction(part.core) == part.value:
        return part.core
    return rf"\frac{{{part.value.numerator}}}{{{part.value.denominator}}}"


def _same_base(gold: str, answer: str, gold_base: re.Match | None, answer_base: re.Match | None) -> bool:
    """Numerals with a base: equal digits, and equal bases unless one side leaves the base out."""
    digits = [
        (match[1] if match else re.sub(r"[\s()]", "", text)).upper()
        for match, text in ((gold_base, gold), (answer_base, answer))
    ]
    return digits[0] == digits[1] and len({_base(match) for match in (gold_base, answer_base) if match}) == 1


def _numeral(text: str) -> re.Match | None:
    """Digits with a base that has them; "C_2" and "A_n" are letters with an index."""
    match = _BASE.fullmatch(text)
    base = _base(match) if match else ""
    return match if match and base.isdigit() and all(int(digit, 36) < int(base) for digit in match[1]) else None


def _base(match: re.Match) -> str:
    name = (match[2] or match[3]).lower()
    return str(ONES.get(name, name))


def _plain(text: str) -> str:
    return re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip()


def _letters(text: str) -> str:
    words = re.sub(r"[A-Za-z]{4,}|\b[AP]\.?M\b", lambda match: match.group().lower(), text)
    return re.sub(r"\s|(?<=[A-Za-z])\.", "", words)


def _words(text: str) -> str:
    return as_text(text) if re.search(r"[A-Za-z]{2}", text) else ""
