"""What tests of generated changes share: a changed answer is another answer, from either side."""

from hypothesis import settings

from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.verdict import Question

few = settings(max_examples=60, deadline=None)


def right(gold: str, answer: str, problem: str | None = None) -> bool:
    return grade_here(Question(gold, problem), rf"\boxed{{{answer}}}").correct


def turns(gold: str, changed: str, problem: str | None = None) -> None:
    """Both are right for themselves, and neither for the other."""
    assert right(gold, gold, problem) and right(changed, changed, problem)
    assert not right(gold, changed, problem), (gold, changed)
    assert not right(changed, gold, problem), (changed, gold)


def same(gold: str, answer: str, problem: str | None = None) -> None:
    """Each is right for the other."""
    assert right(gold, answer, problem), (gold, answer)
    assert right(answer, gold, problem), (answer, gold)
