"""Grade a model's output against the right answer, in this process; `parallel.Grader` does it in worker processes."""

from spo_rlhf.graders.kinds import KINDS
from spo_rlhf.graders.verdict import Mode, Question, Verdict


def grade_here(question: Question, output: str, mode: Mode = "strict") -> Verdict:
    """Grade everything that a model wrote, without limits on time: for trusted text, or inside a worker.

    "strict" is the training reward and the headline score. "lenient" is the extraction of the harness behind published
    tables (lighteval's extractive match): a box if there is one, else the last expression anywhere, truncated or not.

    Raises ValueError for an unknown mode or kind of answer.
    """
    return KINDS.choose(question.kind).in_mode(mode)(question, output)
