"""Computer algebra: are two short expressions equal?

math-verify on latex2sympy2_extended, called without its alarm-based time limits: those work in a main thread only, and
`host.pool.WorkerPool` limits time and memory for good.
"""

import functools
import logging
import re
from typing import Any


def mathematical(text: str) -> bool:
    """Free of plain words: computer algebra would read "seven" as a product of five symbols."""
    bare = re.sub(r"\\(?:begin|end|text|operatorname)\{[^{}]*\}|\\[A-Za-z]+", "@", text)
    words = re.findall(r"[A-Za-z]{4,}|(?<![_^\d])\d+\s+\d", bare)
    return not words and r"\text" not in text and "__" not in text and '"' not in text


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig
    from math_verify import parse as read

    found = read(
        rf"\boxed{{{text}}}",
        [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,  # pyright: ignore[reportArgumentType]  no limit
    )
    return tuple(_same_symbols(item) for item in found)


def _same_symbols(expression: Any) -> Any:
    """One symbol per name, as the parser gives some of them other assumptions, and i as the imaginary unit."""
    from sympy import Basic, I, MatrixBase, Symbol

    if not isinstance(expression, (Basic, MatrixBase)):
        return expression
    symbols = [symbol for symbol in expression.free_symbols if type(symbol) is Symbol]
    return expression.xreplace(
        {symbol: I if symbol.name == "i" else Symbol(symbol.name, real=True) for symbol in symbols}
    )


def algebraically_equal(gold: str, answer: str) -> bool:
    """math-verify's judgement on two short expressions; False for what it cannot read."""
    from math_verify import verify

    gold_parsed, answer_parsed = _parsed(gold), _parsed(answer)
    return bool(gold_parsed and answer_parsed) and verify(list(gold_parsed), list(answer_parsed), timeout_seconds=None)


def warm_up() -> None:
    """Load the computer algebra and run it once, so that the first answer does not pay for it."""
    for logger in ("math_verify.parser", "math_verify.grader", "latex2sympy2_extended"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    algebraically_equal(r"\frac{x}{2}", r"0.5x")
