"""Roles, as in knights and knaves: does the conclusion give everybody the right role, once and without conditions?"""

import re

from spo_rlhf.graders.extract import MAX_OUTPUT_CHARS, after_thought, extract
from spo_rlhf.graders.verdict import Question, Verdict

MAX_CONCLUSION_CHARS = 2000
CONCLUSION = re.compile(r"\**\s*conclusion\s*\**\s*:?\s*\**", re.IGNORECASE)
STATEMENT = re.compile(
    r"\b([A-Z][a-z]+)\s*(?:\**\s*)(?:is|:|=|->)\s*(?:\**\s*)(?:an?\s+)?\**(knight|knave)\b", re.IGNORECASE
)
ROLE = re.compile(r"kn(?:ight|ave)", re.IGNORECASE)
HEDGE = re.compile(
    r"\b(?:if|not|either|or|unless|suppose|assume|assuming|maybe|perhaps|possibly|otherwise|isn't|cannot|can't)\b",
    re.IGNORECASE,
)


def stated_roles(text: str) -> dict[str, str] | None:
    """Name -> "knight" or "knave" for every "NAME is a ROLE" in `text`; None where somebody gets both."""
    roles: dict[str, str] = {}
    for name, role in STATEMENT.findall(text):
        if roles.setdefault(name.capitalize(), role.lower()) != role.lower():
            return None
    return roles


def names_roles(gold: str) -> bool:
    """Whether a gold text says who is a knight and who a knave."""
    return bool(stated_roles(gold))


def grade(question: Question, output: str) -> Verdict:
    """Compare the roles given after the last "CONCLUSION:" (or in a final box) with those of the gold text.

    The conclusion must be marked, free of conditions and negations, and about nobody else.
    """
    wanted = stated_roles(question.gold)
    if refused := _refused(wanted, output):
        return refused
    assert wanted is not None
    text = after_thought(output, question.in_thought)
    if text is None:
        return Verdict(False, None, "the thought is not finished")
    markers = list(CONCLUSION.finditer(text))
    conclusion = text[markers[-1].end() :] if markers else extract(text).answer
    if not conclusion or not conclusion.strip():
        return Verdict(False, None, "no conclusion")
    if len(conclusion) > MAX_CONCLUSION_CHARS:
        return Verdict(False, None, f"conclusion longer than {MAX_CONCLUSION_CHARS} characters")
    if HEDGE.search(conclusion):
        return Verdict(False, conclusion.strip()[:200], "the conclusion has a condition or a negation")
    if len(ROLE.findall(conclusion)) > len(STATEMENT.findall(conclusion)):  # "Zoey is a knight, a knave"
        return Verdict(False, conclusion.strip()[:200], "the conclusion names a role that it gives to nobody")
    said = stated_roles(conclusion)
    if said is None:
        return Verdict(False, conclusion.strip()[:200], "the conclusion contradicts itself")
    if set(said) - set(wanted):
        return Verdict(False, _show(said), "the conclusion is about somebody else")
    if set(wanted) - set(said):
        return Verdict(False, _show(said), "the conclusion leaves somebody out")
    return _compared(said, wanted)


def grade_leniently(question: Question, output: str) -> Verdict:
    """The last role said of each person anywhere in the text counts, whoever else it speaks of."""
    wanted = stated_roles(question.gold)
    if refused := _refused(wanted, output):
        return refused
    assert wanted is not None
    said = {name.capitalize(): role.lower() for name, role in STATEMENT.findall(output)}
    return _compared({name: role for name, role in said.items() if name in wanted}, wanted)


def _refused(wanted: dict[str, str] | None, output: str) -> Verdict | None:
    if not wanted:
        return Verdict(False, None, "the gold answer names no roles")
    if len(output) > MAX_OUTPUT_CHARS:
        return Verdict(False, None, f"output longer than {MAX_OUTPUT_CHARS} characters")
    return None


def _compared(said: dict[str, str], wanted: dict[str, str]) -> Verdict:
    return Verdict(said == wanted, _show(said), "equal" if said == wanted else "different")


def _show(roles: dict[str, str]) -> str:
    return ", ".join(f"{name} is a {role}" for name, role in roles.items())
