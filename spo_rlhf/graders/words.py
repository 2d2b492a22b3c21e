"""Numbers and sets that an answer gives in words: "twenty-one", "two thirds", "no solution", "all real numbers"."""

import re

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
ONES = {word: value for value, word in enumerate(_SMALL)}
TENS = {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
PARTS = {
    "half": 2,
    "halves": 2,
    "quarter": 4,
    **{
        word: value for value, word in enumerate("third fourth fifth sixth seventh eighth ninth tenth".split(), start=3)
    },
}
_RANKS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
RANKS = {word: value for value, word in enumerate(_RANKS, start=1)}
_AND_A_PART = re.compile(
    r"\s+and (?:a|an|one)[\s-](half|quarter|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)\b", re.IGNORECASE
)
_A_LARGE = re.compile(r"^an? (?=(?:hundred|thousand|million|billion|dozen)\b)", re.IGNORECASE)
_HALF_A = re.compile(r"^half an? (?=[a-z]{3,}$)", re.IGNORECASE)
NUMBER_WORDS = frozenset([*ONES, *TENS, *LARGE, "hundred"])
MAX_CHARS = 120
_WORD = re.compile(r"\s*(-)?\s*([A-Za-z]+)")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_PHRASES = {
    r"\emptyset": r"none|(?:there (?:is|are) )?no (?:real )?solutions?(?: exists?)?|(?:the )?(?:empty|null) set",
    r"\mathbb{Z}": r"(?:the set of )?all (?:the )?integers|the (?:set of )?integers",
    r"\mathbb{R}": r"(?:the set of )?all (?:real numbers|reals)|(?:the )?(?:set of )?real numbers",
    r"\infty": r"(?:positive )?infinity",
    r"-\infty": r"(?:negative|minus) infinity",
}
PHRASES = {symbol: re.compile(pattern, re.IGNORECASE) for symbol, pattern in _PHRASES.items()}
# A sentence around one number says that number, unless a word in it takes that back, makes it a limit or a heading, or
# computes with it. A sentence has a verb ("is", "makes") or a colon.
_LONE_NUMBER = re.compile(
    r"((?:[A-Za-z'][\w'-]*[,:]?\s+)+)([^\sA-Za-z]*\d[^\sA-Za-z]*)((?:\s+[A-Za-z][\w'.,-]*)*)[.!]?"
)
_VERB = re.compile(r":|\b(?:is|are|was|were|has|have|had|be|[a-z]{3,}s)\b", re.IGNORECASE)
_NO_SENTENCE = frozenset(
    "or not no nor never without except unless if either neither than least most between from to about around "
    "roughly approximately nearly almost over under above below within up maybe perhaps possibly wrong incorrect "
    "and minus plus less negative times squared cubed cube square root sqrt log ln sin cos tan factorial power "
    "double mod modulo reciprocal inverse opposite half twice hundred thousand million billion dozen percent step "
    "false fail fails exceed exceeds divisible multiple multiples divided divides besides excluding negation logarithm "
    "bounded hardly barely best cannot "
    "part question problem section chapter case example method exercise option choice page line".split()
)


def lone_number(text: str) -> str | None:
    """The one number in a short sentence, and the words after it; None for other text.

    "Janet makes \\$18 every day" -> "\\$18 every day".
    """
    plain = " ".join(_TEXT.sub(r" \1 ", text).split())
    match = _LONE_NUMBER.fullmatch(plain) if len(plain) <= MAX_CHARS else None
    if not match or not _VERB.search(match[1]):
        return None
    if "n't" in plain or _NO_SENTENCE & set(re.findall(r"[a-z]+", (match[1] + match[3]).lower())):
        return None
    return match[2].rstrip(".,:;") + match[3].rstrip(".,")


def symbols_for_words(text: str) -> str:
    """A normalised answer with the number at its start, or a set, in symbols; any other text as it is.

    "twenty-one" -> "21", "three apples" -> "3 apples", "two-thirds" -> "2/3", "no solutions" -> "\\emptyset".
    """
    if len(text) > MAX_CHARS or not text[:1].isalpha() and not text.startswith(r"\text"):
        return text
    plain = " ".join(_TEXT.sub(r" \1 ", text).split()).rstrip(".")
    for symbol, pattern in PHRASES.items():
        if pattern.fullmatch(plain):
            return symbol
    if match := re.fullmatch(r"(?:negative|minus) (.+)", plain, re.IGNORECASE):
        number = symbols_for_words(match[1])
        return f"-{number}" if number[:1].isdigit() else text
    if part := _part(plain.lower()):
        return part
    plain = _A_LARGE.sub("one ", _HALF_A.sub("1/2 ", plain))
    if plain.startswith("1/2 "):
        return plain
    words, end = _leading_words(plain)
    value, used = _whole_number(words)
    if not used:
        return text
    if used < len(words) and (part := PARTS.get(words[used].removesuffix("s"), PARTS.get(words[used]))):
        number, used = f"{value}/{part}", used + 1
    else:
        number = str(value)
    rest = plain[end[used - 1] :]
    if match := _AND_A_PART.match(rest):
        number, rest = rf"{value}\frac{{1}}{{{PARTS[match[1].lower()]}}}", rest[match.end() :]
    return text if rest.startswith("-") or used < len(words) and words[used] in NUMBER_WORDS else number + rest


def _part(plain: str) -> str | None:
    """ "half" and "a third" as fractions."""
    article, _, part = plain.rpartition(" ")
    return f"1/{PARTS[part]}" if article in ("a", "an", "one") and part in PARTS or plain == "half" else None


def rank(plain: str) -> str | None:
    """ "fifth" and "twenty-first", or "5th" and "21st", as one spelling; None for other words."""
    if match := re.fullmatch(r"(\d+)(?:st|nd|rd|th)", plain):
        return f"{match[1]}th"
    tens, _, last = plain.replace("-", " ").rpartition(" ")
    if last not in RANKS or tens and (tens not in TENS or RANKS[last] >= 10):
        return None
    return f"{TENS.get(tens, 0) + RANKS[last]}th"


def _leading_words(text: str) -> tuple[list[str], list[int]]:
    """The words at the start of a text in lower case, and where each ends."""
    words, ends, at = [], [], 0
    while match := _WORD.match(text, at):
        words.append(match[2].lower())
        ends.append(at := match.end())
    return words, ends


def _whole_number(words: list[str]) -> tuple[int, int]:
    """The number that the first words say, and how many words say it; (0, 0) where they say none."""
    total = group = used = 0
    can_take = "tens"  # what may follow: tens or ones, ones only, or a scale
    for index, word in enumerate(words):
        if word == "and" and used == index and index and words[index - 1] in ("hundred", *LARGE):
            continue  # "two hundred and fifty"
        if word in TENS and can_take == "tens":
            group, can_take = group + TENS[word], "ones"
        elif word in ONES and (can_take == "tens" or can_take == "ones" and 0 < ONES[word] < 10):
            group, can_take = group + ONES[word], "scale"
        elif word == "hundred" and 0 < group < 10:
            group, can_take = 100 * group, "tens"
        elif word in LARGE and group:
            total, group, can_take = total + group * LARGE[word], 0, "tens"
        else:
            break
        used = index + 1
    return total + group, used
