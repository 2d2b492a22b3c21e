"""Rule-made right and wrong variants of reference answers, for measuring a grader. To be imported by its path."""

import re
from collections.abc import Iterator
from fractions import Fraction

INTEGER = re.compile(r"-?\d+")
FRACTION = re.compile(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}")
BRACKET = re.compile(r"(?:\\left)?([(\[])(.*),(.*?)(?:\\right)?([)\]])")


def right_variants(answer: str) -> Iterator[tuple[str, str]]:  # noqa: C901  a branch for each form
    """(category, output) pairs that say `answer` in another form."""
    for category, box in (
        ("wrapper", r"Thus \boxed{%s}."),
        ("wrapper", r"\boxed {%s}"),
        ("wrapper", r"$\boxed{ %s }$"),
        ("wrapper", r"\fbox{%s}"),
        ("wrapper", "<think>Is it \\boxed{-987}?</think>\nSo\n\\[\n\\boxed{%s}\n\\]"),
        ("wrapper", r"**Answer:** $$\boxed{%s.}$$"),
        ("wrapper", r"\boxed{%s}}"),
        ("wrapper", r"\boxed{\displaystyle %s}"),
        ("hash line", "Reasoning.\n#### %s"),
        ("hash line", "#### Step 1\nReasoning.\n#### $%s$"),
        ("self-correction", r"\boxed{-987}, no, that is wrong. It must be \boxed{%s}."),
    ):
        yield category, box.replace("%s", answer)
    boxed = r"The answer is \boxed{%s}"
    if not re.search(r"\\text|\\mbox|=|\\in|\\pm|,|\{matrix|pmatrix", answer):
        yield "equation", boxed.replace("%s", f"x = {answer}" if "x" not in answer else f"f(x) = {answer}")
    if INTEGER.fullmatch(answer):
        value = int(answer)
        yield "number", boxed % f"{answer}.0"
        yield "number", boxed % rf"\frac{{{2 * value}}}{{2}}"
        yield "unit", boxed % rf"{answer}\text{{ cm}}"
        yield "unit", boxed % f"{answer} dollars"
        yield "currency", boxed % rf"\${answer}"
        yield "percent", boxed % rf"{answer}\%"
        if abs(value) >= 1000:
            grouped = f"{value:,}"
            for separator in (",", "{,}", r"\,", r"\!", r",\!", " "):
                yield "thousands", boxed.replace("%s", grouped.replace(",", separator))
    if match := FRACTION.fullmatch(answer):
        sign, a, b = match[1], int(match[2]), int(match[3])
        yield "fraction", boxed % f"{sign}{a}/{b}"
        yield "fraction", boxed % rf"{sign}\dfrac{{{a}}}{{{b}}}"
        yield "fraction", boxed % rf"{sign}\frac{{{3 * a}}}{{{3 * b}}}"
        yield "fraction", boxed % rf"\frac{{{sign}{a}}}{{{b}}}"
        if 10**6 % b == 0:
            yield "decimal", boxed % f"{sign}{a / b:.7f}".rstrip("0")
        if a > b and not sign:
            yield "mixed number", boxed % rf"{a // b}\frac{{{a % b}}}{{{b}}}"
    if r"\sqrt" in answer:
        yield "radical", boxed.replace("%s", re.sub(r"\\sqrt\{?(\d+)\}?", r"{\1}^{1/2}", answer))
    if re.fullmatch(r"[-\d, ]+", answer) and "," in answer and not re.fullmatch(r"\d{1,3}(,\d{3})+", answer):
        yield "list", boxed % ", ".join(reversed(answer.replace(" ", "").split(",")))
        yield "list", boxed % (r"\{" + answer + r"\}")
    if r"\begin{pmatrix}" in answer:
        yield "matrix", boxed % answer.replace("pmatrix", "bmatrix")
    if answer.startswith(r"\text{"):
        yield "text", boxed % answer.removeprefix(r"\text{").removesuffix("}")
        yield "text", boxed % answer.replace(r"\text", r"\textbf")


def wrong_variants(answer: str) -> Iterator[tuple[str, str]]:
    """(category, output) pairs that say something else than `answer`, or do not say it in a way that counts."""
    boxed = r"The answer is \boxed{%s}"
    yield "no box", f"The answer is {answer}."
    yield "no box", f"The final answer is ${answer}$. I hope it is correct."
    yield "unclosed box", rf"The answer is \boxed{{{answer}"
    yield "unfinished thought", rf"<think>It is \boxed{{{answer}}}. Let me check"
    yield "thought only", rf"<think>It is \boxed{{{answer}}}.</think> I am not sure."
    yield "listing", rf"\boxed{{{answer}}} or \boxed{{-987}}"
    yield "listing", boxed % f"-987, {answer}"
    yield "corrected away", rf"\boxed{{{answer}}}. Wait, it is \boxed{{-987}}."
    yield "many boxes", " so ".join(rf"\boxed{{{n}}}" for n in range(2000, 2012)) + rf" so \boxed{{{answer}}}"
    if INTEGER.fullmatch(answer):
        value = int(answer)
        for other in (
            value + 1,
            value * 100 or 7,
            -value or 7,
            Fraction(value, 100) if value else 7,
            value + Fraction(1, 10**4),
        ):
            yield "number", boxed % (other if isinstance(other, int) else f"{float(other):.6f}")
        yield "unevaluated", boxed % rf"{value - 1} + 1"
        yield "unevaluated", boxed % rf"\gcd({value},{value})"
        yield "unevaluated", boxed % rf"\sum_{{k=1}}^{{1}} {value}"
        yield "variable", boxed % (f"{value}x" if value else "x")
        yield "equation", boxed % f"{value + 1} = {value}"
        yield "interval", boxed % f"[{value - 1}, {value + 1}]"
        yield "interval", boxed % f"x > {value}"
    if match := FRACTION.fullmatch(answer):
        yield (
            "fraction",
            boxed % rf"{match[1]}\frac{{{match[3]}}}{{{match[2]}}}" if match[2] != match[3] else boxed % "7",
        )
        yield "fraction", boxed % f"{match[1]}{int(match[2]) / int(match[3]) + 1e-3:.3f}"
    if match := BRACKET.fullmatch(answer):
        flipped = {"(": "[", "[": "(", ")": "]", "]": ")"}
        yield "bracket", boxed % f"{flipped[match[1]]}{match[2]},{match[3]}{match[4]}"
        yield "bracket", boxed % f"{match[1]}{match[2]},{match[3]}{flipped[match[4]]}"
        yield "order", boxed % f"{match[1]}{match[3]},{match[2]}{match[4]}"
    if re.fullmatch(r"[-\d, ]+", answer) and ", " in answer:
        yield "list", boxed % answer.rpartition(",")[0]
        yield "list", boxed % f"{answer}, {answer.rpartition(',')[2]}"
