"""What of LaTeX the computer algebra reads as it is meant, and only that.

Its parser passes over what it does not know ("f'(x)" is "f(x)" for it, "\\begin{cases} 1 \\\\ 2 \\end{cases}" is 2). So a text is
computed with only if every command in it stands in a closed table, and nothing in it is known to be misread.
"""

import re
from collections import Counter

TRIGONOMETRY = re.compile(r"\\?(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?(?![A-Za-z])")
GREEK_LETTERS = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma tau "
    "upsilon phi varphi chi psi omega Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar".split()
)
_COMMANDS = GREEK_LETTERS | frozenset(
    "frac sqrt binom cdot times div pm mp pi infty circ leq geq neq emptyset mathbb cup cap setminus begin end "
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp max min gcd lcm det sum prod int lim to "
    "lfloor rfloor lceil rceil lvert rvert vert overline bar vec hat dot tilde overrightarrow { } \\".split()
)
_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{(?!pmatrix\}|vmatrix\})")
_RELATION = re.compile(r"\\[lgn]eq(?![A-Za-z])|[=<>]")
_SIDES = {">": "<", r"\geq": r"\leq"}  # a relation and its converse
_MISREAD = {
    "a prime": r"'",
    "an exponent of an exponent": r"\^\s*(?:\{[^{}]*\}|\\?\w)\s*\^(?!\s*\\circ)",
    "a sign as an exponent": r"\^\s*\{?\s*[-+*]\s*(?:[},)\]]|$)",
    "0^0": r"(?<![\d.])0\s*\^\s*\{?\s*0(?![\d.])",
    "a composition": r"(?<!\^)(?<!\^\s)\\circ(?![A-Za-z])",
    "an inverse function": r"(?<![A-Za-z\\])[fgh]\s*\^\s*\{\s*-1\s*\}\s*\(",
    "a derivative": r"\\frac\s*\{\s*d\s*(?:\^\s*\d\s*)?[A-Za-z]?\s*\}\s*\{\s*d\s*[A-Za-z]",
    "a transposition": r"^(?!.*\\begin\{pmatrix\}).*\^\s*\{?\s*T(?![A-Za-z])",
    "several signs": r"\\[pm][pm](?![A-Za-z]).*\\[pm][pm](?![A-Za-z])",
    "a relation without a side": r"^\s*(?:\\[lgn]eq(?![A-Za-z])|[=<>])|(?:\\[lgn]eq|[=<>])\s*$",
    "a number with separators": r"\d\.\d+\.\d|\d,\d{3}",
    "an index of a number": r"[\d)]\s*_",
    "an arrow": r"^(?!.*\\lim).*\\to(?![A-Za-z])",
}
_MISREAD_TEXT = {what: re.compile(pattern, re.DOTALL) for what, pattern in _MISREAD.items()}
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|\([^()]*\)|(?<![A-Za-z\\])[A-Za-z])\s*\^\s*\\circ(?![A-Za-z])")
_CAPITAL_I = re.compile(r"\\[A-Za-z]+|I")  # the imaginary unit for the parser
# "2(3)" and "(2)(3)" are products, and no mixed numbers; not "\log_2(3)", "\sin^2(3)".
_FACTOR_BEFORE = re.compile(r"((?<![\w^.\\}])\d+(?:\.\d+)?|\))\s*(?=\()")
_FACTOR_BEHIND = re.compile(r"\)\s*(?=\d)")


def misread(text: str) -> str | None:
    """What in a normalised expression the parser would leave out or take for something else; None where it reads all."""
    for match in _COMMAND.finditer(text):
        if match[1] not in _COMMANDS:
            return match[0]
    if match := _ENVIRONMENT.search(text):
        return match[0]
    if text.count("{") != text.count("}"):
        return "braces"
    if TRIGONOMETRY.search(text) and r"\circ" in _DEGREES.sub("", text):
        return "degrees"
    return next((what for what, pattern in _MISREAD_TEXT.items() if pattern.search(text)), None)


def relations(text: str) -> Counter[str]:
    """How often each relation stands in an expression; "less" and "greater" are one."""
    return Counter(_SIDES.get(match[0], match[0]) for match in _RELATION.finditer(text))


def for_the_parser(text: str) -> str:
    """An expression with its products spelled out, "I" as a letter, and angles in radians below a function."""
    if TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    text = _CAPITAL_I.sub(lambda match: r"\iota " if match[0] == "I" else match[0], text)
    return _FACTOR_BEHIND.sub(r")\\cdot ", _FACTOR_BEFORE.sub(r"\1\\cdot ", text))
