"""The grader against labelled answers, rule-made variants, copies from the problem, and hostile input."""

import asyncio
import importlib.metadata
import re
import threading
import time

import agreement
import pytest

from spo_rlhf.graders import algebra, compare
from spo_rlhf.graders.extract import MAX_BOXES, MAX_OUTPUT_CHARS, extract
from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.normalize import normalize
from spo_rlhf.graders.parallel import Grader
from spo_rlhf.graders.strict import gold_answer
from spo_rlhf.graders.verdict import Question


@pytest.fixture(scope="module", autouse=True)
def warm():
    algebra.warm_up()


def check(table: agreement.Table) -> None:
    """No pair is graded against its label, and the table in the documentation is the measured one."""
    assert not {key: row.wrong for key, row in table.items() if row.wrong}
    rows = agreement.markdown(table).removeprefix(agreement.HEADER)
    assert rows in agreement.DOCUMENT.read_text(encoding="utf-8"), "run: python tests/graders/agreement.py --write"


def test_labelled_answers():
    check(agreement.measure_labelled())


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("She has 3 apples", 'no boxed or "####" answer'),
        ("", 'no boxed or "####" answer'),
        (r"\boxed{3", "the last box is not closed"),
        (r"So \boxed{3} or \boxed{4", "the last box is not closed"),
        (r"\boxed{3}\boxed{4", "the last box is not closed"),
    ],
)
def test_an_output_without_an_answer_says_why(output, reason):
    assert extract(output).reason == reason


def test_answers_that_were_once_judged_wrong():
    """Each kind of false credit and false refusal that was found from outside, with the right verdict."""
    wrong = []
    for case in agreement.read_rows(agreement.HERE / "cases.jsonl"):
        verdict = grade_here(Question(case["gold"], case.get("problem")), case["pred"])
        if verdict.correct != case["correct"]:
            wrong.append((case["category"], case["gold"], case["pred"], verdict.reason))
    assert not wrong


def test_variants_of_real_answers(data_rows):
    check(agreement.measure_variants([row["answer"] for name in agreement.VARIANT_FILES for row in data_rows(name)]))


@pytest.mark.parametrize("name", ["math500.jsonl", "aime24.jsonl", "amc23.jsonl", "gsm8k_test.jsonl"])
def test_reference_solutions_are_right_and_other_solutions_wrong(data_rows, name):
    rows = data_rows(name)
    for row, other in zip(rows, rows[1:] + rows[:1]):
        solution = row.get("solution", rf"\boxed{{{row['answer']}}}")
        assert grade_here(Question(row["answer"], row["problem"]), solution).correct
        if normalize(row["answer"]) not in normalize(other["answer"]):
            assert not grade_here(Question(other["answer"]), solution).correct
        cut = solution[: max(solution.rfind("\\boxed"), solution.rfind("####"))]
        assert not grade_here(Question(row["answer"]), cut).correct or "\\boxed" in cut


def test_copying_from_the_problem_earns_nothing(data_rows):
    """A formula of the problem, whole or in pieces, is right only as the gold answer's own text (or a plain number)."""
    earned = []
    for row in data_rows("math500.jsonl"):
        pieces = set()
        for formula in re.findall(r"\$([^$]+)\$", row["problem"]):
            pieces.update([formula, *re.split(r"=|,|<|>|\\le|\\ge|:", formula), *re.findall(r"[^\s,]+", formula)])
        for piece in pieces:
            grade = grade_here(Question(row["answer"], row["problem"]), rf"\boxed{{{piece.strip().rstrip('.,')}}}")
            if (
                grade.correct
                and grade.reason != "same text"
                and not re.fullmatch(r"\d+\^\{\\mathrm\{th\}\}|[a-z],?", piece.strip())
            ):
                earned.append((row["answer"], piece))
    assert not earned


def test_the_last_answer_counts_wherever_it_stands():
    assert extract("\\boxed{1} then \\boxed{2}").answer == "2"
    assert extract("\\boxed{1}\n#### 2").answer == "2"
    assert extract("#### 2\n\\boxed{1}").answer == "1"
    assert extract("\\boxed{7}\n#### 1. Why this is right").answer == "7"
    assert extract("\\boxed{\\boxed{3}}").answer == "\\boxed{3}"
    assert extract("\\boxed{\\frac{1}{2}}").answer == "\\frac{1}{2}"
    assert extract("\\boxed{\\{1, 2\\}}").answer == "\\{1, 2\\}"
    assert gold_answer("so 3 + 4 = 7\n#### 7") == "7" and gold_answer("7") == "7"


def test_a_thought_that_the_prompt_opened_must_be_closed():
    assert not grade_here(Question("5", in_thought=True), "So \\boxed{5}.").correct
    assert grade_here(Question("5", in_thought=True), "Hm, \\boxed{4}?</think> So \\boxed{5}.").correct
    assert grade_here(Question("5"), "So \\boxed{5}.").correct


def test_grading_is_symmetric_for_identical_text(data_rows):
    for row in data_rows("math500.jsonl"):
        assert compare.equal_answers(row["answer"], row["answer"], row["problem"])[0]


def test_a_label_may_be_a_number():
    for label in (21, 21.0):
        assert gold_answer(label) == str(label)
        assert grade_here(Question(gold_answer(label)), r"\boxed{21}").correct


def test_half_a_character_costs_no_other_row():
    """A lone surrogate has no UTF-8, so that a verdict that shows it could not be written to a file."""
    with Grader(workers=1) as grader:
        for mode in ("strict", "lenient"):
            verdict = grader.grade(Question("5"), "\\boxed{5\ud83d}", mode)
            assert not verdict.correct and verdict.extracted is not None
            assert verdict.extracted.encode("utf-8").startswith(b"5")
            assert grader.grade(Question("5"), "\ud83d \\boxed{5}", mode).correct


def test_lenient_gives_what_strict_refuses():
    text = "So the final answer is $5$. I hope it is correct."
    assert grade_here(Question("5"), text, mode="lenient").correct and not grade_here(Question("5"), text).correct
    assert grade_here(Question(r"We get $x=\boxed{\frac{1}{2}}$."), "the result is 1/2", mode="lenient").correct
    assert not grade_here(Question("5"), "no number here", mode="lenient").correct
    with pytest.raises(ValueError, match="mode must be one of"):
        grade_here(Question("5"), "5", mode="generous")


def test_installed_parsers_are_the_ones_scores_depend_on():
    versions = {
        name: importlib.metadata.version(name)
        for name in ("math-verify", "latex2sympy2_extended", "antlr4-python3-runtime")
    }
    assert versions == {"math-verify": "0.9.0", "latex2sympy2_extended": "1.11.0", "antlr4-python3-runtime": "4.13.2"}


HOSTILE = {
    "tower": r"\boxed{9^{9^{9^9}}}",
    "power": r"\boxed{37452^{18374514}}",
    "rational power": r"\boxed{(123456789/987654321)^{123456789}}",
    "factorial": r"\boxed{100000000!}",
    "factorials": r"\boxed{((10!)!)!}",
    "double factorials": r"\boxed{9!!!!!!!!!!!!}",
    "binomial": r"\boxed{\binom{10^9}{5*10^8}}",
    "sum": r"\boxed{\sum_{k=1}^{1000000000} 1/k}",
    "product": r"\boxed{\prod_{k=1}^{10000000} k}",
    "long integer": r"\boxed{" + "7" * 150_000 + "}",
    "long decimal": r"\boxed{0." + "3" * 100_000 + "}",
    "exponent": r"\boxed{1e999999999}",
    "nested parentheses": r"\boxed{" + "(" * 500 + "1" + ")" * 500 + "}",
    "a million characters": "x" * 10**6 + r"\boxed{5}",
    "dollars": "$" * 190_000,
    "brackets": "[ " * 90_000,
    "formulas": r"\(" * 90_000,
    "unclosed boxes": r"\boxed{" * 28_000,
    "hundreds of boxes": r"\boxed{5}" * 300,
    "null bytes": "\x00" * 1000 + r"\boxed{5}",
    "backslashes": "\\" * 199_000 + r"\boxed{6}",
    "open braces": "{" * 199_000,
    "nested roots": r"\boxed{" + r"\sqrt{" * 200 + "5" + "}" * 201,
    "nested fractions": r"\boxed{" + r"\frac{1}{1+" * 40 + "1" + "}" * 41,
    "system": r"\boxed{__import__('os').system('touch pwned')}",
    "exec": "\\boxed{exec(\"open('pwned','w')\")}",
    "eval": r"\boxed{eval('5')}",
    "many items": r"\boxed{" + ",".join(map(str, range(100))) + "}",
    "minus signs": r"\boxed{" + "-" * 399 + "5}",
    "only commands": r"\boxed{" + r"\frac" * 90 + "}",
    "carets": r"\boxed{" + "^" * 300 + "}",
    "division by zero": r"\boxed{\frac{0}{0}}",
    "not a number": r"\boxed{NaN}",
    "bidi": "\\boxed{5\u202e6}",
}


def test_hostile_input_is_wrong_with_a_reason_and_quick(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Grader(workers=1) as grader:
        grader.grade(Question("1"), r"\boxed{2}")
        for name, output in HOSTILE.items():
            for gold in ("5", "x^2+1"):
                start = time.monotonic()
                grade = grader.grade(Question(gold), output)
                assert not grade.correct and grade.reason, (name, gold)
                assert time.monotonic() - start < 3, (name, gold)
    assert not list(tmp_path.iterdir())


def test_what_passes_the_guards_is_stopped_by_the_limit():
    with Grader(workers=1, timeout_s=1) as grader:
        grader.grade(Question("1"), r"\boxed{2}")
        start = time.monotonic()
        grade = grader.grade(Question("x^2+1"), r"\boxed{(a+b+c+d+e+f+g+h)^{200}}")
        assert not grade.correct and "timeout" in grade.reason and time.monotonic() - start < 30
        assert not grader.grade(Question("5"), r"\boxed{9^{9^{9^9}}}", mode="lenient").correct
        assert grader.grade(Question(r"\frac12"), r"\boxed{0.5}").correct


def test_grader_works_from_threads_and_asyncio():
    with Grader(workers=1) as grader:
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(grader.grade(Question(r"\frac12"), r"\boxed{0.5}").correct))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        async def together() -> list:
            return await asyncio.gather(
                *(asyncio.wrap_future(grader.submit(Question("4"), rf"\boxed{{{n}}}")) for n in range(6))
            )

        assert results == [True] * 4
        assert [grade.correct for grade in asyncio.run(together())] == [n == 4 for n in range(6)]


def test_limits_of_extraction_are_where_they_are_said_to_be():
    assert extract("\\boxed{5} " * MAX_BOXES).answer == "5"
    assert extract("\\boxed{5} " * (MAX_BOXES + 1)).answer is None
    assert extract(" " * (MAX_OUTPUT_CHARS - 9) + "\\boxed{5}").answer == "5"
    assert extract(" " * (MAX_OUTPUT_CHARS - 8) + "\\boxed{5}").answer is None
