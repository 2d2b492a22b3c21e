"""Grade a model's output against the right answer, in this process; `parallel.Grader` does it in worker processes.

Modes:
    strict: the training reward and the headline score. Only a `\\boxed{}` or "####" answer outside an unfinished
        thought counts.
    lenient: the extraction of the harness behind published tables (lighteval's extractive match): a box if there is
        one, else the last expression anywhere in the text, truncated or not.
"""

from spo_rlhf.graders import compare, lenient, roles
from spo_rlhf.graders.extract import extract
from spo_rlhf.graders.verdict import MODES, Kind, Mode, Verdict


def grade_here(
    gold: str,
    output: str,
    problem: str | None = None,
    mode: Mode = "strict",
    in_thought: bool = False,
    kind: Kind = "math",
) -> Verdict:
    """Grade in this process, without limits on time: for trusted text, or inside a worker.

    Args:
        gold: the right answer; a `\\boxed{}` or "####" in it is looked into.
        output: everything the model wrote.
        problem: the problem, to refuse answers copied from it (strict).
        in_thought: the prompt ended with an open thought, so nothing counts before its end (strict).
        kind: "math", or "roles" for knights and knaves, where the gold lists "NAME is a knight" and so on.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    if kind == "roles":
        return roles.grade(gold, output, mode == "strict", in_thought)
    if mode == "lenient":
        return lenient.grade(gold, output)
    found = extract(output, in_thought)
    if found.answer is None:
        return Verdict(False, None, found.reason)
    gold = gold_answer(gold)
    correct, reason = compare.equal_answers(gold, found.answer, problem)
    if (
        not correct
        and len(found.parts) > 1
        and all(compare.equal_answers(gold, part, problem)[0] for part in found.parts)
    ):
        correct, reason = True, "equal"  # the same value boxed in two forms
    return Verdict(correct, found.answer[: compare.MAX_SHOWN_CHARS], reason)


def gold_answer(gold: str) -> str:
    """The answer inside a gold text: what is boxed or after "####", else the whole."""
    if "boxed" in gold or "####" in gold:
        return extract(gold).answer or gold
    return gold
