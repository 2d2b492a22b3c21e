"""What shape an answer has: a list, a tuple or interval, a set, a union, a matrix, a piece of text, an equation or an
expression.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

MAX_DEPTH = 12
MAX_NAME_CHARS = 60
OPEN, CLOSE = "([{", ")]}"
WORDS_AS_TEXT = frozenset("yes no odd even none true false east west north south".split())
_TEXT_BLOCK = re.compile(r"\\text\s*\{([^{}]*)\}")
_MATRIX = re.compile(r"[(\[]?\s*\\begin\{pmatrix\}(.*)\\end\{pmatrix\}\s*[)\]]?", re.DOTALL)
# A name that an answer may be given to: "x", "f(x)", "S_{10}", "P(A \cap B)", "\angle ABC", "\text{Area}",
# "\frac{dy}{dx}", "|AB|".
_NAME = re.compile(
    r"(?:\\text\s*\{[^{}]*\}|\\angle\s*|\\triangle\s*|\\overline\s*|\\overrightarrow\s*|\\vec\s*|\\mathbf\s*|"
    r"\\frac\{d[a-z]?\}\{d[a-z]\}|"
    r"\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|sigma|rho|ell|max|min|det)(?![A-Za-z])\s*|"
    r"[A-Za-z][A-Za-z ]*+'*+|"
    r"_\s*(?:\w|\{[^{}]*\})|\^\s*(?:\\circ|\{-1\}|')|"
    r"\((?:[\w, ]|\\cap|\\cup|\\mid|\||\\text\{[^{}]*\})*\)|\||\{[A-Za-z ]*\}|\s)++"
)
_RELATION = re.compile(r"\\leq(?![A-Za-z])|\\geq(?![A-Za-z])|<|>")
_VARIABLE = re.compile(r"(?:[a-zA-Z]|\\(?:theta|alpha|beta|lambda|mu|phi))(?:_\w|\(\w\))?")
# What a tuple or a set of solutions may be given to: "(x, y) = ", "x \\in ".
_OWNER = re.compile(
    r"(?:\((?:\s*[A-Za-z](?:_\w)?\s*,?)++\)\s*=|(?:[A-Za-z]|\\[a-z]+)(?:\s*,\s*[A-Za-z])*\s*\\in(?![A-Za-z]))\s*(.+)"
)


@dataclass(frozen=True)
class Node:
    """kind: "list" (any order), "set", "bracket" (tuple, interval; `text` holds both brackets), "union", "matrix"
    (`items` are its rows, each a "row"), "text" (`text` in lower case), "expr" (`text` is LaTeX, `name` what it was
    said to equal)."""

    kind: str
    text: str = ""
    items: tuple["Node", ...] = ()
    name: str | None = None


def split_top(text: str, separators: str) -> list[str]:
    """Split at separator characters that stand outside every bracket and environment; "\\{" counts as a bracket, mixed
    pairs match.
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
    return [part.strip() for part in parts]


def closes_at_end(text: str, opening: int, closing: int) -> bool:
    """The bracket of `opening` characters at the start is closed by the `closing` characters at the end and not
    before.
    """
    inner = text[opening : len(text) - closing]
    depth, i = 0, 0
    while i < len(inner):
        if inner[i] == "\\":
            i += 1
        if i < len(inner):
            depth += (inner[i] in OPEN) - (inner[i] in CLOSE)
        if depth < 0:
            return False
        i += 1
    return depth == 0


@lru_cache(maxsize=2048)
def parse(text: str, depth: int = 0) -> Node:
    """The structure of a normalised answer.

    Raises:
        ValueError: nested deeper than MAX_DEPTH.
    """
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    text = text.strip()
    if match := _OWNER.fullmatch(text):
        text = match[1]
    if match := _MATRIX.fullmatch(text):
        rows = [row for row in re.split(r"\\\\", match[1]) if row.strip()]
        return Node(
            "matrix",
            items=tuple(
                Node("row", items=tuple(parse(cell, depth + 1) for cell in split_top(row, "&"))) for row in rows
            ),
        )
    parts = [part for part in split_top(text, ",;") if part]
    if len(parts) > 1:
        return Node("list", items=_flatten(parse(part, depth + 1) for part in parts))
    unions = re.split(r"\\cup(?![A-Za-z])", text)
    if len(unions) > 1 and all(part.strip() for part in unions):
        return Node("union", items=tuple(parse(part, depth + 1) for part in unions))
    if text.startswith(r"\{") and text.endswith(r"\}") and closes_at_end(text, 2, 2):
        inner = text[2:-2].strip()
        return Node("set", items=_flatten(parse(part, depth + 1) for part in split_top(inner, ",;") if part))
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and closes_at_end(text, 1, 1):
        parts = split_top(text[1:-1], ",;")
        if len(parts) > 1 and all(parts):
            return Node("bracket", text[0] + text[-1], tuple(parse(part, depth + 1) for part in parts))
        if text[0] + text[-1] == "()":
            return parse(text[1:-1], depth + 1)
    if text == r"\mathbb{R}":
        return parse(r"(-\infty,\infty)", depth + 1)
    return _inequality(text, depth) or _plus_minus(text, depth) or _leaf(text)


def _flatten(nodes) -> tuple[Node, ...]:
    """The parts of a list, with "2 \\pm 3" standing for two of them."""
    flat: list[Node] = []
    for node in nodes:
        flat.extend(node.items if node.kind == "list" else (node,))
    return tuple(flat)


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
    sides = split_top(text, "=")
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
        and (any(len(word) > 3 for word in words) or words[0].lower() in WORDS_AS_TEXT)
    )


def as_text(text: str) -> str:
    """Words in lower case, without \\text{}, punctuation, brackets around the whole and a leading article."""
    text = _TEXT_BLOCK.sub(lambda m: f" {m.group(1)} ", text).replace("\\", " ")
    text = re.sub(r"(?<=\w)\.(?=\w|\s|$)|[\"',;:!?.(){}\[\]]", "", text.lower())
    return re.sub(r"^(?:the|an|a) (?=\w\w)", "", " ".join(text.replace("-", " ").split()))
