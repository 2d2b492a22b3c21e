"""Knights and knaves: the right roles pass, guesses and conditions do not."""

import pytest

from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.verdict import Question

GOLD = "(1) Penelope is a knave\n(2) David is a knave\n(3) Zoey is a knight"

RIGHT = [
    "Reasoning.\nCONCLUSION:\n" + GOLD,
    (
        "<think>If David is a knight then ...</think>\n**CONCLUSION:**\n(1) **Penelope** is a **knave**\n"
        "(2) David is a knave\n(3) Zoey is a knight."
    ),
    "If Zoey lies ...\nConclusion: Zoey is a knight, Penelope is a knave and David is a knave.",
    r"So \boxed{\text{Penelope is a knave, David is a knave, Zoey is a knight}}",
]
WRONG = [
    ("CONCLUSION:\n" + GOLD.replace("Zoey is a knight", "Zoey is a knave"), "different"),
    ("CONCLUSION:\n(1) Penelope is a knave\n(2) David is a knave", "leaves somebody out"),
    ("CONCLUSION:\n" + GOLD + "\n(4) Anna is a knight", "somebody else"),
    ("CONCLUSION:\n" + GOLD + "\nZoey is a knave", "contradicts"),
    ("CONCLUSION:\nIf Penelope is a knave, David is a knave and Zoey is a knight", "condition"),
    ("CONCLUSION: Penelope is a knave, David is a knave or Zoey is a knight", "condition"),
    ("CONCLUSION:\n" + GOLD + " and a knave", "gives to nobody"),
    ("CONCLUSION:\n" + GOLD + "/knave", "gives to nobody"),
    (GOLD, "no conclusion"),
    ("<think>CONCLUSION:\n" + GOLD, "not finished"),
    ("CONCLUSION:\n", "no conclusion"),
]


@pytest.mark.parametrize("output", RIGHT)
def test_right_roles(output):
    assert grade_here(Question(GOLD, kind="roles"), output).correct


@pytest.mark.parametrize(("output", "reason"), WRONG)
def test_wrong_or_unclear_roles(output, reason):
    grade = grade_here(Question(GOLD, kind="roles"), output)
    assert not grade.correct and reason in grade.reason


def test_lenient_needs_no_marker():
    output = "So Penelope is a knight? No, Penelope is a knave.\n" + GOLD
    assert grade_here(Question(GOLD, kind="roles"), output, mode="lenient").correct


def test_every_answer_of_the_data_set_is_its_own_solution(data_rows):
    for row in data_rows("kk_3ppl_test.jsonl"):
        question = Question(row["answer"], kind="roles")
        assert grade_here(question, "CONCLUSION:\n" + row["answer"]).correct
        flipped = row["answer"].replace("knight", "k").replace("knave", "knight").replace(" k\n", " knave\n")
        assert not grade_here(question, "CONCLUSION:\n" + flipped).correct
