"""The kinds of answers, and how each is graded. Another kind is one module and one line in KINDS."""

from collections.abc import Callable
from dataclasses import dataclass

from spo_rlhf.core.registry import Registry
from spo_rlhf.graders import lenient, roles, strict
from spo_rlhf.graders.verdict import MODES, Mode, Question, Verdict

Grade = Callable[[Question, str], Verdict]


@dataclass(frozen=True)
class AnswerKind:
    """How a kind of answers is graded: functions of the question and of the model's output.

    strict: the training reward and the headline score.
    lenient: the score to stand beside published tables.
    claims: whether a gold text can only be of this kind; False where it does not show.

    `parallel.Grader` pickles the functions, so they must be importable by name.
    """

    strict: Grade
    lenient: Grade
    claims: Callable[[str], bool] = lambda gold: False

    def in_mode(self, mode: Mode) -> Grade:
        """The function of that mode. Raises ValueError for an unknown one."""
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
        return self.strict if mode == "strict" else self.lenient


KINDS: Registry[AnswerKind] = Registry(
    "answer kind",
    {
        "math": AnswerKind(strict.grade, lenient.grade),
        "roles": AnswerKind(roles.grade, roles.grade_leniently, claims=roles.names_roles),
    },
)
DEFAULT = "math"


def kind_of(gold: str) -> str:
    """The kind that claims a gold text, or mathematics where none does."""
    return next((name for name, kind in KINDS.items() if kind.claims(gold)), DEFAULT)
