"""The shape of an answer: list, tuple or interval, set, union, matrix, text, equation or expression."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from spo_rlhf.graders.numbers import compound, number
from spo_rlhf.graders.words import symbols_for_words

MAX_DEPTH = 12
MAX_NAME_CHARS = 60
OPEN, CLOSE = "([{", ")]}"
WORDS_AS_TEXT = frozenset("yes no odd even none true false east west north south".split())
_LETTERS = re.compile(r"[A-Za-z]'*(?:-[A-Za-z]'*)*")  # no word, however long: f'-f, x-y-z
_TEXT_BLOCK = re.compile(r"\\text\s*\{([^{}]*)\}")
_CONNECTIVE = re.compile(r"^\s*\\l(?:and|or)(?![A-Za-z])")
_OR = re.compile(r",\\lor(?![A-Za-z])")
_CONNECTIVES = re.compile(r",\\l(and|or)(?![A-Za-z])")
_BOTH = re.compile(r"(either|both)\s+", re.IGNORECASE)
_MATRIX = re.compile(r"[(\[]?\s*\\begin\{pmatrix\}((?:(?!\\begin).)*)\\end\{pmatrix\}\s*[)\]]?", re.DOTALL)
# A name that an answer may be given to: "x", "f(x)", "S_{10}", "P(A \cap B)", "\angle ABC", "\text{Area}",
# "\frac{dy}{dx}", "|AB|".
_NAME = re.compile(
    r"(?:\\text\s*\{[^{}]*\}|\\angle\s*|\\triangle\s*|\\overline\s*|\\overrightarrow\s*|\\vec\s*|\\mathbf\s*|"
    r"\\frac\{d[a-z]?\}\{d[a-z]\}|"
    r"\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|sigma|rho|ell|max|min|det)(?![A-Za-z])\s*|"
    r"[A-Za-z][A-Za-z ]*+'*+|"
    r"_\s*(?:\w|\{[^{}]*\})|\^\s*(?:\\circ|\{-1\}|')|"
    r"\((?:[\w, ]|\\land|\\lor|\\cap|\\cup|\\mid|\||\\text\{[^{}]*\})*\)|\||\{[A-Za-z ]*\}|\s)++"
)
_RELATION = re.compile(r"\\leq(?![A-Za-z])|\\geq(?![A-Za-z])|<|>")
_VARIABLE = re.compile(r"(?:[a-zA-Z]|\\(?:theta|alpha|beta|lambda|mu|phi))(?:_\w|\(\w\))?")
# What a tuple or a set of solutions may be given to: "(x, y) = ", "x \\in ".
_OWNER = re.compile(
    r"(?:\((?:\s*(?:[A-Za-z](?:_\w)?|\\[a-z]+)\s*,?)++\)\s*=|(?:[A-Za-z]|\\[a-z]+)(?:\s*,\s*[A-Za-z])*\s*\\in(?![A-Za-z])|"
    r"(?:[A-Za-z]|\\(?:text|vec)\s*\{[A-Za-z]+\})(?:_\w|\^\{-1\}|\^\{?T\}?)?\s*=\s*(?=\\begin\{pmatrix\}))\s*(.+)",
    re.DOTALL,
)
_OWNER_LETTERS = re.compile(r"(\([^()]*\))\s*=")
_LETTER = r"(?:[A-Za-z](?:_\w|_\{\w+\})?'?|\\(?:vec|overrightarrow|mathbf|mathcal)\s*\{[A-Za-z]+\})"
_OBJECT = re.compile(
    rf"(?:(?P<letters>{_LETTER}(?:\s*\\c[au]p\s*{_LETTER})*)\s*=|"
    r"(?:\\text\s*\{\s*)?(?P<words>[A-Za-z][A-Za-z ]*)(?:\s*\}\s*[:=]|[:=]\s*\}?|\s+is\s*\}?))"
    r"\s*(?P<object>(?:[\[\](]|\\\{|\\begin\{pmatrix\}|\\emptyset).*)",
    re.DOTALL,
)
OBJECT_WORDS = frozenset(
    "the a an of domain range image vertex vertices center centre centroid focus foci point points interval set solution "
    "solutions coordinates coordinate midpoint intersection vector answer pair triple ordered origin".split()
)
_SET_BUILDER = re.compile(r"\\\{\s*([A-Za-z])\s*(?:\\in\s*\\mathbb\{R\})?\s*(?:\\mid(?![A-Za-z])|:|\|)\s*(.+?)\s*\\\}")
_WITHOUT = re.compile(r"(?:\\mathbb\{R\}|\(-\\infty\s*,\s*\\infty\s*\))\s*(?:\\setminus|\\backslash|-)\s*\\\{(.+)\\\}")
_UNEQUAL = re.compile(r"([a-zA-Z])\s*\\neq(?![A-Za-z])\s*(.+)")


@dataclass(frozen=True)
class Node:
    """kind: "list" (any order; `text` is "and", "or", "and or" or "", as its parts are joined), "set", "bracket" (tuple, interval; `text` holds both brackets), "union", "matrix"
    (`items` are its rows, each a "row"), "text" (`text` in lower case), "expr" (`text` is LaTeX, `name` what it was
    said to equal)."""

    kind: str
    text: str = ""
    items: tuple["Node", ...] = ()
    name: str | None = None


def split_top(text: str, separators: str) -> list[str]:
    """Split at separators outside every bracket and environment; "\\{" counts as a bracket, mixed pairs match.

    The "and" or "or" that `normalize` leaves behind a comma is taken off.
    """
    parts, depth, start, i = [], 0, 0, 0
    while i < len(text):
        if text.startswith((r"\begin", r"\end"), i):
            depth += 1 if text.startswith(r"\begin", i) else -1
        if text[i] == "\\" and i + 1 < len(text):
            i += 1
            if text[i] in "{}":
                depth += 1 if text[i] == "{" else -1
        elif text[i] in OPEN:
            depth += 1
        elif text[i] in CLOSE:
            depth -= 1
        elif text[i] in separators and depth == 0:
            parts.append(text[start:i])
            start = i + 1
        i += 1
    parts.append(text[start:])
    return [_CONNECTIVE.sub("", part).strip() for part in parts]


def _connective(text: str, parts: list[str]) -> str:
    """Whether the parts are joined by "and", "or", both, or neither. Intervals and points may be joined by either."""
    if all(part.startswith(("(", "[")) for part in parts):
        return ""
    inside = sum(len(_CONNECTIVES.findall(part)) for part in parts)
    found = _CONNECTIVES.findall(text)
    return " ".join(sorted(set(found))) if len(found) > inside else ""


def closes_at_end(text: str, opening: int, closing: int) -> bool:
    """The bracket of `opening` characters at the start is closed by the `closing` characters at the end, not before."""
    depth = 0
    for char in text[opening : len(text) - closing]:
        depth += (char in OPEN) - (char in CLOSE)
        if depth < 0:
            return False
    return depth == 0


@lru_cache(maxsize=2048)
def parse(text: str, depth: int = 0) -> Node:  # noqa: C901  a branch for each form of answer, in the order of precedence
    """The structure of a normalised answer.

    Raises:
        ValueError: nested deeper than MAX_DEPTH.
    """
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    text = text.strip()
    if match := _OWNER.fullmatch(text):
        letters = _OWNER_LETTERS.match(text)
        return _owned(parse(match[1], depth + 1), letters[1]) if letters else parse(match[1], depth + 1)
    if named := _named_object(text, depth):
        return named
    if match := _MATRIX.fullmatch(text):
        rows = [row for row in re.split(r"\\\\", match[1]) if row.strip()]
        return Node(
            "matrix",
            items=tuple(
                Node("row", items=tuple(parse(cell, depth + 1) for cell in split_top(row, "&"))) for row in rows
            ),
        )
    if match := _SET_BUILDER.fullmatch(text):
        text = match[2]
    if match := _WITHOUT.fullmatch(text):
        return _all_but(split_top(match[1], ",;"), depth)
    if len(text) > 2 and (text[0] == "]" or text[-1] == "[") and text[0] in "][(" and text[-1] in "][)":  # ]1,2[
        text = ("(" if text[0] == "]" else text[0]) + text[1:-1] + (")" if text[-1] == "[" else text[-1])
    parts = [part for part in split_top(text, ",;") if part]
    if len(parts) > 1:
        if compound(" ".join(parts)):  # "1 hour and 30 minutes"
            return Node("expr", " ".join(parts))
        return _list(text, parts, depth)
    unions = re.split(r"\\cup(?![A-Za-z])", text)
    if len(unions) > 1 and all(part.strip() for part in unions):
        return Node("union", items=tuple(parse(part, depth + 1) for part in unions))
    if text.startswith(r"\{") and text.endswith(r"\}") and closes_at_end(text, 2, 2):
        inner = text[2:-2].strip()
        if not inner:
            return _leaf(r"\emptyset")
        return Node("set", items=_flatten(parse(part, depth + 1) for part in split_top(inner, ",;") if part))
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and closes_at_end(text, 1, 1):
        parts = split_top(text[1:-1], ",;")
        if len(parts) > 1 and all(parts):
            return _bracket(text[0] + text[-1], tuple(parse(part, depth + 1) for part in parts))
        if text[0] + text[-1] == "()":
            return parse(text[1:-1], depth + 1)
    if text == r"\mathbb{R}":
        return parse(r"(-\infty,\infty)", depth + 1)
    if (match := _UNEQUAL.fullmatch(text)) and "=" not in match[2]:
        return _all_but([match[2]], depth)
    return _inequality(text, depth) or _plus_minus(text, depth) or _leaf(text)


def _list(text: str, parts: list[str], depth: int) -> Node:
    """Parts joined by commas, "and" or "or". "A and B or C" are two: what "and" joins is one part of what "or" joins."""
    joined = _connective(text, parts)
    if match := _BOTH.match(parts[0]):
        if (match[1].lower() == "either") == ("or" in joined) and joined:  # "either A or B", "both A and B"
            parts[0] = parts[0][match.end() :]
    items = _grouped(_flatten(parse(part, depth + 1) for part in parts))
    if joined == "and or" and len(items) < len(parts):  # points: what "and" joins has become one
        joined = "or"
    elif joined == "and or":
        groups = split_top(_OR.sub("\x1f", text), "\x1f")
        if len(groups) > 1 and all(groups):
            return Node("list", "or", tuple(parse(group.replace("\x1f", r",\lor"), depth + 1) for group in groups))
    return Node("list", joined, items)


def _owned(node: Node, letters: str) -> Node:
    """A tuple, or each of a list of them, with the letters it is given to as its name: "(x,y)"."""
    if node.kind == "list":
        return replace(node, items=tuple(_owned(item, letters) for item in node.items))
    return replace(node, name=re.sub(r"\s", "", letters)) if node.kind == "bracket" and node.text == "()" else node


def letters_of(node: Node) -> tuple[str, ...]:
    """The letters that a tuple is given to, one for each coordinate; () where it has none: "(b, a) = (4, 3)"."""
    letters = tuple((node.name or "")[1:-1].split(","))
    return letters if (node.name or "").startswith("(") and len(letters) == len(node.items) else ()


def by_letters(node: Node, order: Sequence[str] | None = None) -> Node:
    """ "(b, a) = (4, 3)" with its coordinates in an order of the letters, by default the alphabet's."""
    letters = letters_of(node)
    if not letters or len(set(letters)) < len(letters):
        return node
    named = dict(zip(letters, node.items))
    order = sorted(letters) if order is None else order
    return replace(node, name=f"({','.join(order)})", items=tuple(named[letter] for letter in order))


def _named_object(text: str, depth: int) -> Node | None:
    """A tuple, interval, set, union or matrix with its name: "S = (0, 1)", "A \\cup B = \\{1\\}", "Domain: [0, 3)"."""
    match = _OBJECT.fullmatch(text)
    if not match or match["words"] and not set(match["words"].lower().split()) <= OBJECT_WORDS:
        return None
    node = parse(match["object"], depth + 1)
    if node.kind not in ("bracket", "set", "union", "matrix") and node.text != r"\emptyset":
        return None
    return replace(node, name=re.sub(r"\s+", "", match["letters"])) if match["letters"] else node


def _flatten(nodes) -> tuple[Node, ...]:
    """The parts of a list, with "2 \\pm 3" standing for two of them."""
    flat: list[Node] = []
    for node in nodes:
        flat.extend(node.items if node.kind == "list" else (node,))
    return tuple(flat)


def _grouped(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """ "p = 5, q = 2, p = 7, q = 2" as the two points (5, 2) and (7, 2)."""
    names = [item.name for item in items]
    width = names.index(names[0], 1) if names[0] in names[1:] else 0
    if width < 2 or None in names or names != names[:width] * (len(names) // width):
        return items
    points = (items[start : start + width] for start in range(0, len(items), width))
    return tuple(Node("bracket", "()", in_order_of_names(point)) for point in points)


def in_order_of_names(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """Coordinates given by distinct letters, in alphabetical order and without names; other items as they are."""
    names = [item.name or "" for item in items]
    if len(set(names)) < len(names) or not all(re.fullmatch("[a-z]", name) for name in names):
        return items
    return tuple(replace(item, name=None) for item in sorted(items, key=lambda item: item.name or ""))


def _bracket(brackets: str, items: tuple[Node, ...]) -> Node:
    """A tuple or an interval; rows in square brackets, "[[1, 2], [3, 4]]", are a matrix."""
    if brackets == "[]" and all(item.kind == "bracket" and item.text == "[]" for item in items):
        return Node("matrix", items=tuple(Node("row", items=item.items) for item in items))
    return Node("bracket", brackets, items)


def _all_but(points: list[str], depth: int) -> Node:
    """The real line without some points, as a union of open intervals; points that are numbers in rising order."""
    values = [number(point) for point in points]
    if None not in values:
        points = [point for _, point in sorted(zip(values, points))]
    ends = [r"-\infty", *points, r"\infty"]
    nodes = [parse(end, depth + 1) for end in ends]
    return Node("union", items=tuple(Node("bracket", "()", pair) for pair in zip(nodes, nodes[1:])))


def _inequality(text: str, depth: int) -> Node | None:
    """ "1 < x \\leq 2" and "x \\geq 3" as intervals; None for anything else."""
    relations = _RELATION.findall(text)
    parts = [part.strip() for part in _RELATION.split(text)]
    if not 1 <= len(relations) <= 2 or not all(parts):
        return None
    if len(relations) == 2 and _VARIABLE.fullmatch(parts[1]):
        left, right = relations
        if (left in ("<", r"\leq")) != (right in ("<", r"\leq")):
            return None
        if left in (">", r"\geq"):
            parts, left, right = parts[::-1], right, left
        low, high = parts[0], parts[2]
    elif len(relations) == 1 and any(_VARIABLE.fullmatch(part) for part in parts):
        below = relations[0] in ("<", r"\leq")
        if not _VARIABLE.fullmatch(parts[0]):
            parts, below = parts[::-1], not below
        left = right = relations[0]
        low, high = (r"-\infty", parts[1]) if below else (parts[1], r"\infty")
    else:
        return None
    opening = "[" if left in (r"\leq", r"\geq") and low != r"-\infty" else "("
    closing = "]" if right in (r"\leq", r"\geq") and high != r"\infty" else ")"
    return Node("bracket", opening + closing, (parse(low, depth + 1), parse(high, depth + 1)))


def _plus_minus(text: str, depth: int) -> Node | None:
    if text.count(r"\pm") != 1:
        return None
    before, after = (part.strip() for part in text.split(r"\pm"))
    name, equals, before = before.rpartition("=")
    if name and not _NAME.fullmatch(name):
        return None
    plus = f"{before}+{after}" if before and before[-1] not in "{(" else before + after
    return Node("list", items=(parse(plus, depth + 1), parse(f"{before}-{after}", depth + 1)))


def _leaf(text: str) -> Node:
    name = None
    text = symbols_for_words(text)
    sides = split_top(text, "=")
    if len(sides) == 2 and all(sides) and _VARIABLE.fullmatch(sides[1]) and not _NAME.fullmatch(sides[0]):
        sides.reverse()  # "5 = x"
    if len(sides) == 2 and all(sides) and len(sides[0]) <= MAX_NAME_CHARS and _NAME.fullmatch(sides[0]):
        name, text = re.sub(r"\s+", "", sides[0]), sides[1]
        return Node("text", as_text(text), name=name) if is_text(text) else Node("expr", text, name=name)
    return Node("text", as_text(text)) if is_text(text) else Node("expr", text)


def is_text(text: str) -> bool:
    """Words, not mathematics: nothing outside \\text{}, or one plain word that is no product of variables."""
    outside = _TEXT_BLOCK.sub("", text)
    if outside != text:
        return not re.search(r"[A-Za-z\d]", outside)
    words = text.strip("()\"' ").split()
    return (
        bool(words)
        and not re.search(r"[\\^_={}+*/<>]", text)
        and all(re.fullmatch(r"[A-Za-z][A-Za-z'.,-]*", word) for word in words)
        and (any(len(word) > 3 and not _LETTERS.fullmatch(word) for word in words) or words[0].lower() in WORDS_AS_TEXT)
    )


def as_text(text: str) -> str:
    """Words in lower case, without \\text{}, punctuation, brackets around the whole and a leading article."""
    text = _TEXT_BLOCK.sub(lambda m: f" {m.group(1)} ", text).replace("\\", " ")
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[\"',;!?(){}\[\]]|:(?!\d)", "", text.lower())
    return re.sub(r"^(?:the|an|a) (?=\w\w)", "", " ".join(re.sub(r"-(?!\d)", " ", text).split()))
