"""What a problem asks for besides the values: an order of the parts, names in an order, a sense; which letters it says are real."""

import functools
import re

from spo_rlhf.graders.vocabulary import TURNING, senses_of

_END = r"(?:most|least|low|high|small|large|first|last|left|right|top|bottom|start|beginning|end|new|old|\w{2,}est|best|worst)"
_MORE = "(?:smaller|larger|bigger|greater|lower|higher|lesser|earlier|later|older|younger|shorter|longer)"
_BY = "size age height weight date year score length value speed mass area population price cost time rank magnitude distance"
# "in increasing order", "from least to greatest", "starting with the smallest"; not "in order to", "ordered pairs". Only a
# sentence that asks for something asks for an order: in others it describes what is given.
_ORDER = re.compile(
    "|".join(
        (
            r"\bin (?!(?:any|no|some|either)\b)(?:[a-z-]+ ){1,3}(?:order|sequence)\b",
            r"\bin order\b(?! to\b| that\b| for\b)|\bin sequence\b",
            rf"\b{_END}(?: \w+)?[ -]to[ -](?:the )?(?:\w+ )?{_END}\b|\bA to Z\b|\bfrom\b[^.?!]{{0,200}} to (?:the )?{_END}\b",
            r"\bfrom\b[^.?!]{0,200} (?:out|in|up|down|on)wards?\b",
            rf"\b(?:{_END}|{_MORE})(?: \w+){{0,2}} first\b|\bfirst, second\b|\b{_END} \w+ at the (?:front|top|start)\b",
            r"\b(?:first|next|last|following) \w+ terms\b|\bnext \w+ (?:numbers|terms|letters)\b|\bsequence of (?!numbers\b)",
            r"\b(?:start|begin|end|finish)(?:s|n?ing)? (?:with|from|at) (?:\w+ ){0,3}?(?:\w{2,}est|most|least|first|last)\b",
            r"(?:^|[,:;]\s*|\b(?:please|then|and|now|to|you|must|should|correctly)\s+)(?:sort|rank|order|arrange)\b(?! of\b)",
            r"\b(?:sorted|ranked|ranking|rankings|arranged|ordered)\b(?! (?:pair|triple|quadruple|\w*tuple|set|list of)s?\b)",
            r"\b(?:ascending|descending|respectively|(?:alphabetic|numeric|chronologic|lexicographic)al(?:ly)?)\b",
            rf"\b(?:list|name|give|write)\b.{{0,200}}\bby (?:\w+ )?(?:{'|'.join(_BY.split())})\b",
        )
    ),
    re.IGNORECASE,
)
_REQUEST = re.compile(
    r"^\s*(?:order|rank|sort|place)\b|"
    r"\b(?:list|write|arrange|give|express|enter|state|name|put|answers?|separated?|submit|what|which|how|find|determine|"
    r"compute|provide|report|identify|please|tell|show|rank|sort)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?:[^.?!\n]|[.?!](?=\S))+[.?!]?")
_LETTER = r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_\w)?"
_TUPLE = re.compile(rf"\(\s*{_LETTER}(?:\s*,\s*{_LETTER})+\s*\)")

_USUALLY_COMPLEX = frozenset(("z", "w", "zeta", "omega"))
_COMPLEX = re.compile(
    r"\bcomplex\b|\bimaginary\b|\bconjugates?\b|\broots? of unity\b|\\mathbb\s*\{?\s*C\b", re.IGNORECASE
)
_NAME = r"(?<![A-Za-z\\|])(?!a\s+(?:complex|purely|imaginary|unit)\b)(?:[A-Za-z]|\\(?![cl]?dots)[a-z]+)(?![A-Za-z])(?:_\w|_\{\w+\})?"
# No text is read in two ways: of many spaces in a row there would be too many.
_NAMES = rf"{_NAME}(?:(?:[\s$,]|\\(?:,|[cl]?dots|(?!,|[cl]?dots))|\band\b)+{_NAME})*"
_REAL = r"(?:real|rational|positive|negative|non-?negative|integers?|whole|natural)\b"
# "real numbers x and y", "where x and y are real", "x \in \mathbb{R}"; not "z\bar z is real".
_SAID_REAL = re.compile(
    rf"\b{_REAL}(?:[- ](?:numbers?|values?|valued|constants?|variables?|parameters?|coefficients?|integers?))*[\s$]+({_NAMES})[\s$]*(?=[,.;:?=]|\w|\\|$)"
    rf"|(?:^|[.;:,(]|\b(?:let|where|that|if|for|and|with|all|any|suppose|assume|given|when)\b)[\s$]*"
    rf"({_NAMES})[\s$]*(?:\b(?:is|are|be|denote|represent)\s+(?:(?:all|both|any|an?|two|three|distinct|nonzero|non-zero)\s+)*{_REAL}"
    r"|\\in\s*\\mathbb\s*\{?\s*[RQZN]\b)",
    re.IGNORECASE,
)


def _requests(text: str) -> list[str]:
    """The sentences that ask for something."""
    sentences = (match[0].strip() for match in _SENTENCE.finditer(text))
    return [sentence for sentence in sentences if sentence.endswith("?") or _REQUEST.search(sentence)]


@functools.lru_cache(maxsize=64)
def asks_for_order(text: str) -> bool:
    """The text says in which order the parts of the answer are to be given."""
    return any(_ORDER.search(sentence) for sentence in _requests(text))


@functools.lru_cache(maxsize=64)
def senses_asked(text: str) -> frozenset[str]:
    """The senses that turn a sign and that are asked for: "How much did she lose?", not "a profit or a loss?"."""
    senses = senses_of(" ".join(_requests(text)))
    return frozenset(sense for sense in senses if sense in TURNING and TURNING[sense] not in senses)


def asks_for_version(text: str) -> bool:
    """The answer is the number of a version, in which "1.10" is not "1.1"."""
    return any(re.search(r"\b(?:version|release)\b", sentence, re.IGNORECASE) for sentence in _requests(text))


def order_of(letters: tuple[str, ...], text: str) -> tuple[str, ...] | None:
    """The letters in the order in which the text has them as a tuple, "(b, a)", else as they are if that is the alphabet's, Greek
    ones last.

    None where neither is so, or the text has them in several orders.
    """
    found = {tuple(re.sub(r"[\s()]", "", match[0]).split(",")) for match in _TUPLE.finditer(text)}
    found = {names for names in found if sorted(names) == sorted(letters)}
    if len(found) == 1:
        return found.pop()
    in_alphabet = letters == tuple(sorted(letters, key=lambda name: (name.startswith("\\"), name)))
    return letters if in_alphabet and not found else None


def may_be_complex(letter: str, text: str) -> bool:
    """A letter, with its index, may stand for a complex number: one that usually does, or any where the text speaks of such; not
    one that it says is real.
    """
    base = _base(letter)
    return base not in _said_real(text) and (base in _USUALLY_COMPLEX or bool(_COMPLEX.search(text)))


@functools.lru_cache(maxsize=64)
def _said_real(text: str) -> frozenset[str]:
    """The letters, without an index, that the text says are real."""
    lists = (match[1] or match[2] for match in _SAID_REAL.finditer(text))
    return frozenset(_base(name) for one in lists for name in re.findall(_NAME, one))


def _base(letter: str) -> str:
    return letter.partition("_")[0].strip("\\ ")
