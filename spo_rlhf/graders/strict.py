"""Mathematics, strict mode: only a `\\boxed{}` or "####" answer outside an unfinished thought counts."""

from spo_rlhf.graders import compare
from spo_rlhf.graders.extract import extract
from spo_rlhf.graders.verdict import Question, Verdict


def grade(question: Question, output: str) -> Verdict:
    """Extract the final answer and compare it with the gold one; an answer copied from the problem is refused."""
    found = extract(output, question.in_thought)
    if found.answer is None:
        return Verdict(False, None, found.reason)
    gold = gold_answer(question.gold)
    correct, reason = compare.equal_answers(gold, found.answer, question.problem)
    if not correct and len(found.parts) > 1:
        correct = all(compare.equal_answers(gold, part, question.problem)[0] for part in found.parts)
        reason = "equal" if correct else reason  # the same value boxed in several forms
    return Verdict(correct, found.answer[: compare.MAX_SHOWN_CHARS], reason)


def gold_answer(gold: str | float) -> str:
    """The answer inside a gold text: what is boxed or after "####", else the whole; a number, as JSON has it, as text."""
    gold = str(gold)
    if "boxed" in gold or "####" in gold:
        return extract(gold).answer or gold
    return gold
