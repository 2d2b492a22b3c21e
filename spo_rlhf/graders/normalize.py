"""One spelling for what LaTeX, Unicode and models write in many ways, for gold and prediction alike.

`normalize` keeps the mathematics and the spaces; `squash` removes the spaces for comparisons letter by letter.
"""

import re
import unicodedata

from spo_rlhf.graders.cjk import in_digits
from spo_rlhf.graders.words import symbols_for_words

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
SUBSCRIPT_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
VULGAR_FRACTION = re.compile("[¼-¾⅐-⅞]")
# Greek letters with the names TeX gives them: "α" -> \alpha.
GREEK = {
    chr(code): " \\" + name + " "
    for code in range(0x3B1, 0x3CA)
    if (name := unicodedata.name(chr(code)).rpartition(" ")[2].lower()) and "FINAL" not in unicodedata.name(chr(code))
}
SYMBOLS = {
    "−": "-",
    "–": "-",
    "—": "-",
    "‐": "-",
    "‑": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∙": r"\cdot ",
    "÷": "/",
    "⁄": "/",
    "∕": "/",
    "∞": r"\infty ",
    "≤": r"\leq ",
    "≥": r"\geq ",
    "⩽": r"\leq ",
    "⩾": r"\geq ",
    "≠": r"\neq ",
    "≈": r"\approx ",
    "±": r"\pm ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "ℝ": r"\mathbb{R}",
    "∠": r"\angle ",
    "“": '"',
    "”": '"',
    "’": "'",
    "‘": "'",
    "′": "'",
    "∑": r"\sum ",
    "∏": r"\prod ",
    "∫": r"\int ",
    "…": r"\ldots ",
    "。": ".",
    "，": ",",
    "：": ":",
    "（": "(",
    "）": ")",
    "、": ",",
    "；": ";",
    "Ω": r"\Omega ",
    **GREEK,
    "λ": r" \lambda ",
}
MICRO = re.compile(r"(?<=[\d ])[µμ](?=(?:Pa|Hz|mol|[mgslLWJNVAFHCTS])(?![A-Za-z]))")
SYMBOL = re.compile("|".join(map(re.escape, SYMBOLS)))

MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
# Counters say nothing of the value; units have a name.
CHINESE_UNITS = dict.fromkeys("个 只 人 种 次 件 本 张 名 位 条 支 棵 辆 块 袋 箱 题 颗 枚".split(), "") | {
    "平方厘米": r"\text{ cm}^2",
    "平方米": r"\text{ m}^2",
    "立方厘米": r"\text{ cm}^3",
    "立方米": r"\text{ m}^3",
    "厘米": r"\text{ cm}",
    "毫米": r"\text{ mm}",
    "千米": r"\text{ km}",
    "公里": r"\text{ km}",
    "米": r"\text{ m}",
    "千克": r"\text{ kg}",
    "公斤": r"\text{ kg}",
    "克": r"\text{ g}",
    "秒": r"\text{ s}",
    "分钟": r"\text{ min}",
    "小时": r"\text{ hours}",
    "天": r"\text{ days}",
    "岁": r"\text{ years}",
    "元": r"\text{ yuan}",
    "度": r"^\circ ",
}
COUNTERS = "|".join(CHINESE_UNITS)
_BRACED = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
TEXT_LIKE = re.compile(
    r"\\(?:mathrm|mathbf|mathit|mathsf|mathtt|boldsymbol|bm|operatorname\*?|textbf|textit|textrm|textsf|texttt|"
    r"emph|mbox|hbox|textnormal|underline|bold)\s*" + _BRACED
)
_INFIX = r"\{{([^{{}}]*)\\{0}(?![A-Za-z])([^{{}}]*)\}}|^([^{{}}]*)\\{0}(?![A-Za-z])([^{{}}]*)$"
# Ohms, and what is measured in millionths: "2\\text{ k}\\Omega", "5\\ \\mu\\text{m}". Only behind a number: both are letters as well.
_OHM = r"^([-+]?\d[\d.]*)\s*(?:\\text\s*\{\s*([kMGm]?)\s*\}\s*)?(?:\\text\s*\{\s*)?([kMGm]|\\mu)?\s*\\Omega\s*\}?$"
_MICRO = r"^([-+]?\d[\d.]*)\s*(?:\\text\s*\{\s*)?\\mu\s*\}?\s*\\text\s*\{\s*([A-Za-z]{1,3})\s*\}$"
PREAMBLE = re.compile(
    r"^(?:\\text\s*\{\s*)?(?:the\s+)?(?:final\s+)?answer\s*(?:is\b\s*:?|:|(?=[\d\\$(]))\s*\}?\s*(?=[^\s}])",
    re.IGNORECASE,
)


def _prefixed(command: str, match: re.Match) -> str:
    """ "{a \\over b}" as \\frac{a}{b}, "a \\choose b" as \\binom{a}{b}."""
    above, below = match.group(1, 2) if match[1] is not None else match.group(3, 4)
    return rf"\{command}{{{above.strip()}}}{{{below.strip()}}}"


REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg|middle)(?![A-Za-z])\s*\.?", ""),
        (r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![A-Za-z])", " "),
        (r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|hfill|centering|rm|bf|it|strut)(?![A-Za-z])", " "),
        (r"\\(?:hspace|vspace|phantom|hphantom|vphantom|label|tag)\*?\{[^{}]*\}", " "),
        (r"\\(?:text)?color\s*\{[^{}]*\}\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r"\1"),
        (r"\\color\s*\{[^{}]*\}", " "),
        (r"\\text\s*\{([\s.,;:!]*)\}", r"\1"),
        (r"^\\text\s*\{([^{}]*(?:,|\s(?:and|or)\s)[^{}]*)\}$", r"\1"),
        (r"\\text\s*\{\s*([ie])\s*\}", r" \1 "),
        (r"\\(?:boxed|fbox)\s*" + _BRACED, r"\1"),
        (_INFIX.format("over"), lambda match: _prefixed("frac", match)),
        (_INFIX.format("choose"), lambda match: _prefixed("binom", match)),
        (r"\\not\s*=", r"\\neq "),
        (r"\\(?:begin|end)\{(?:aligned|align\*?|equation\*?|gathered|gather\*?|split)\}", " "),
        (r"\\checkmark(?![A-Za-z])", " "),
        (r"^(\d+)\s*(?:\\text\s*\{\s*to\s*\}|to)\s*(\d+)$", r"\1:\2"),
        (r"^\\text\s*\{\s*(\d+)\s*to\s*(\d+)\s*\}$", r"\1:\2"),
        (rf"((?:{MONTHS})\s+\d{{1,2}})(?:st|nd|rd|th)\b", r"\1"),
        (rf"((?:{MONTHS})\s+\d{{1,2}})\s*,\s*(\d{{4}})\b", r"\1 \2"),
        (r"\bper cent\b", "percent"),
        (rf"(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({MONTHS})\b", r"\2 \1"),
        (
            _OHM,
            lambda match: rf"{match[1]}\text{{ {(match[2] or match[3] or '').replace(chr(92) + 'mu', 'micro')}ohm}}",
        ),
        (_MICRO, r"\1\\text{ micro\2}"),
        (rf"(?<=[\d}}])\s*({'|'.join(CHINESE_UNITS)})$", lambda m: CHINESE_UNITS[m.group(1)]),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\cr(?![A-Za-z])", r"\\\\"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (r"\\le(?![A-Za-z])|\\leqslant|<=|=<", r"\\leq "),
        (r"\\ge(?![A-Za-z])|\\geqslant|>=", r"\\geq "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\ne(?![A-Za-z])|!=", r"\\neq "),
        (r"\\(?:bigcup|cups)(?![A-Za-z])", r"\\cup "),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\(?:lbrace|lcurly)(?![A-Za-z])", r"\\{"),
        (r"\\(?:rbrace|rcurly)(?![A-Za-z])", r"\\}"),
        (r"\\(?:lbrack)(?![A-Za-z])", "["),
        (r"\\(?:rbrack)(?![A-Za-z])", "]"),
        (
            r"\^\s*(?:\{\s*(?:\\circ|\\degree)\s*\}|\\circ(?![A-Za-z])|\\degree(?![A-Za-z]))|\\degree(?![A-Za-z])|\\textdegree(?![A-Za-z])",
            r"^\\circ ",
        ),
        (
            r"\\begin\{(?:[bBvV]?matrix|smallmatrix|array)\}(?:\{[lcr|]+\})?",
            lambda m: m.group() if "vmatrix" in m.group().lower() else r"\begin{pmatrix}",
        ),
        (r"\\end\{(?:[bB]?matrix|smallmatrix|array)\}", r"\\end{pmatrix}"),
        (r"\\(?:mathbb|Bbb)\s*(?:\{\s*R\s*\}|R)", r"\\mathbb{R}"),
        (r"(?<![A-Za-z\\])(?:infinity|infty|oo)(?![A-Za-z])", r"\\infty "),
        (r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (
            r"(?<![A-Za-z\\])(ln|log|sin|cos|tan|cot|csc|arcsin|arccos|arctan)(?=\s*[(\\\d^_{]|\s+[a-z](?![A-Za-z]))",
            r"\\\1",
        ),
        (r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[a-z]))", lambda m: rf"\sqrt{{{m.group(1) or m.group(2)}}}"),
        (
            (
                r"\\text\s*\{\s*(?:and|or)\s*\}|(?<=[\w)}\]$ ])\s+(?:and|or)\s+(?=[-+\w(\\$\[{])|"
                r"[,;]\s*(?:and|or)\s+(?=[-+\w(\\$\[{])|"
                r"(?<=[)\]}\d])\s*(?:and|or)\s*(?=[-+(\[\d\\]|[A-Za-z](?:\([A-Za-z]\))?\s*=)"
            ),
            lambda m: r" ,\lor " if "or" in m.group() else r" ,\land ",  # `structure` reads these
        ),
        (r"\\(?:tfrac|frac)\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{(?:[^{}]|\{[^{}]*\})*\})\s*([\dA-Za-z])", r"\\frac\1{\2}"),
        (r"\\frac\s*\{", r"\\frac{"),
        (r"\\sqrt\s*(\d|[a-zA-Z])", r"\\sqrt{\1}"),
        (r"\\sqrt\s*\[\s*2\s*\]", r"\\sqrt"),
        (r"([\^_])\s*\{\s*([A-Za-z0-9])\s*\}", r"\1\2 "),
    )
]
# "1,234" "1{,}234" "1\,234" "1,\!234" "1 234": a separator between groups of three digits.
THOUSANDS = re.compile(
    r"(?<![\d.,])(\d{1,3})((?:(?:,|(?:\{,\}|,\s*\\!|\\!,\\!|\{,\}\\!|\\,|\\!|\\ |~|\\;|\\:)\s?|[ '])\d{3})+)(?!\d)"
)
PLAIN_GROUPS = re.compile(r"(?:,\d{3})+")
SPACING = re.compile(r"(?<!\\)\\[,!;:> ]|\\q?quad|\\(?:enspace|thinspace|negthinspace)(?![A-Za-z])|~")
TRAILING = " \t\n.,;:?"  # not "!", the factorial


def to_ascii(text: str) -> str:
    """Replace Unicode mathematics by LaTeX: "x² ≤ ½" -> "x^{2} \\leq \\frac{1}{2}"."""
    text = SUPERSCRIPT_RUN.sub(lambda m: "^{" + m.group().translate(SUPERSCRIPTS) + "}", text)
    text = SUBSCRIPT_RUN.sub(lambda m: "_{" + m.group().translate(SUBSCRIPTS) + "}", text)
    text = VULGAR_FRACTION.sub(
        lambda m: "\\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", m.group()).split("⁄")), text
    )
    text = MICRO.sub("micro", text)
    text = SYMBOL.sub(lambda m: SYMBOLS[m.group()], text)
    text = unicodedata.normalize("NFKC", text)
    return "".join(
        " " if unicodedata.category(char) in ("Zs", "Cc") else char
        for char in text
        if unicodedata.category(char) != "Cf"
    )


def join_thousands(text: str) -> str:
    """Remove thousands separators. A plain comma counts as one only outside brackets: "(1,234)" stays a pair."""

    def join(match: re.Match) -> str:
        in_brackets = sum(text.count(c, 0, match.start()) for c in "([") > sum(
            text.count(c, 0, match.start()) for c in ")]"
        )
        if (in_brackets or r"\{" in text[: match.start()]) and PLAIN_GROUPS.fullmatch(match.group(2)):
            return match.group()
        return match.group(1) + re.sub(r"\D", "", match.group(2))

    return THOUSANDS.sub(join, text)


def strip_wrapping(text: str) -> str:
    """Remove math delimiters, Markdown marks, boxes and a full stop around the whole of `text`."""
    before = None
    while before != text:
        before = text
        text = text.strip().rstrip(TRAILING).strip()
        text = re.sub(r"\\[;:,!]?$", "", text) if re.search(r"(?<!\\)\\[;:,!]?$", text) else text
        text = text.removesuffix(r"\\")
        for opening, closing in (
            (r"\(", r"\)"),
            (r"\[", r"\]"),
            ("$$", "$$"),
            ("$", "$"),
            ("**", "**"),
            ("__", "__"),
            ("`", "`"),
            ('"', '"'),
            ("``", "''"),
            ("'", "'"),
        ):
            if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing):
                inner = text[len(opening) : len(text) - len(closing)]
                if closing not in inner and not (closing == "$" and text.endswith(r"\$")):
                    text = inner
        if match := re.fullmatch(r"\\(?:boxed|fbox|ensuremath)\s*" + _BRACED, text):
            text = match.group(1)
        if match := re.fullmatch(r"\{(?:[^{}\\]|\\[^{}])*\}", text):
            text = text[1:-1]
    return text


def normalize(text: str) -> str:
    """The answer in this module's one spelling; spaces that separate words and commands stay."""
    text = re.sub(r"(\.\d+)\s*\.{3}", r"\1\\ldots ", text)  # digits are left out: "0.3..." is not "0.3"
    text = strip_wrapping(in_digits(to_ascii(text), COUNTERS))
    if r"\begin" not in text:
        text = re.sub(r"\\{2,}(?=[A-Za-z{}!,;:()\[\]%$])", r"\\", text)  # escaped twice
    text = text.replace("$$", " ")
    text = re.sub(r"(?<!\\)\$(?=\s*[-+]?\s*[\d.])(?![^$]*\$)", r"\\$", text)  # "$5" is money, "$5$" is mathematics
    text = re.sub(r"(?<!\\)\$|\\\((?!\S*\\\\)|\\\)", " ", text)
    text = join_thousands(text)
    text = SPACING.sub(" ", text)
    for _ in range(3):  # nested wrappers
        text = TEXT_LIKE.sub(lambda m: rf"\text{{{m.group(1)}}}", text)
    text = symbols_for_words(re.sub(r"^\s*=(?!=)", "", PREAMBLE.sub("", text)))
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    text = text.replace(r"\%", "%").replace(r"\_", "_").replace(r"\&", "&")
    text = re.sub(r"^\\text\s*\{\s*([-+]?\d[^{}]*)\}$", r"\1", text)
    text = re.sub(r"\\text\s*\{\s*([-+]?[\d.,/]*\d)\s*\}", r"\1", text)
    text = re.sub(r"\\text\s*\{\s*\}", "", text)
    text = re.sub(r"^\s*(?:\\approx|\\text\s*\{\s*(?:approximately|about)\s*\}|approximately|about)\s*", "", text)
    exact, _, rounded = text.partition(r"\approx")
    if rounded.strip():  # "1/3 \approx 0.33" says 1/3, "x \approx 0.33" says 0.33
        text = exact if re.search(r"\d|\\pi", exact) else rounded
    return strip_wrapping(re.sub(r"\s+", " ", text))


def squash(text: str) -> str:
    """`normalize`d text for comparison letter by letter: no spaces, a/b as a fraction."""
    return re.sub(r"(?<![\w}])(\d+)/(\d+)(?![\w{])", r"\\frac{\1}{\2}", re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text))


def skeleton(text: str) -> str:
    """The symbols alone: no spaces, braces, parentheses or multiplication signs, which leave a copy a copy."""
    return re.sub(r"\\cdot(?![a-z])|\\times(?![a-z])|[\s{}()*]", "", text)
