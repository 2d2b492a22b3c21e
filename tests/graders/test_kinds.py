"""The table of answer kinds: which kind a gold text is of, and a kind of the user's own."""

import pytest

from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.kinds import KINDS, AnswerKind, kind_of
from spo_rlhf.graders.parallel import Grader
from spo_rlhf.graders.verdict import Question, Verdict


@pytest.mark.parametrize(
    "gold, kind",
    [
        ("5", "math"),
        ("", "math"),
        (r"\text{a knight}", "math"),
        ("Zoey is a knave", "roles"),
        ("(1) Mia is a knight\n(2) Tom is a knave", "roles"),
    ],
)
def test_a_gold_text_shows_its_kind(gold, kind):
    assert kind_of(gold) == kind


def test_an_unknown_kind_or_mode_is_refused_at_once_and_not_graded_as_wrong():
    with Grader(workers=1) as grader:
        for grade in (grade_here, grader.grade):
            with pytest.raises(ValueError, match="unknown answer kind 'chess': choose one of math, roles"):
                grade(Question("5", kind="chess"), r"\boxed{5}")
            with pytest.raises(ValueError, match="mode must be one of strict, lenient, not 'generous'"):
                grade(Question("5"), r"\boxed{5}", mode="generous")


def test_both_modes_of_both_kinds_grade_alike_here_and_in_a_worker():
    cases = {
        "math": (Question("5"), r"so \boxed{5}", "I say 5"),
        "roles": (Question("Mia is a knave", kind="roles"), "CONCLUSION: Mia is a knave", "Mia is a knave"),
    }
    assert set(cases) == set(KINDS)
    with Grader(workers=1) as grader:
        for question, marked, unmarked in cases.values():
            for mode in ("strict", "lenient"):
                for output in (marked, unmarked):
                    verdict = grade_here(question, output, mode)
                    assert verdict == grader.grade(question, output, mode)
                    assert verdict.correct == (output == marked or mode == "lenient")


def test_a_registered_kind_is_graded_and_claims_its_gold_texts(monkeypatch):
    def same(question: Question, output: str) -> Verdict:
        return Verdict(question.gold == output, output, "")

    monkeypatch.setitem(KINDS, "colour", AnswerKind(same, same, claims=lambda gold: gold in ("red", "blue")))
    assert kind_of("red") == "colour" and kind_of("5") == "math"
    assert grade_here(Question("red", kind="colour"), "red").correct
    with pytest.raises(ValueError, match="answer kind 'math' already"):
        KINDS.register("math")
