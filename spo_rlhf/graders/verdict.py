"""What a grader is asked, and what it says."""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["strict", "lenient"]
MODES: tuple[Mode, ...] = ("strict", "lenient")


@dataclass(frozen=True)
class Question:
    """What decides whether an output is right.

    gold: the right answer. For "math", what is boxed in it or stands after "####" is looked into; for "roles", it says
        "NAME is a knight" or "NAME is a knave" of everybody.
    problem: the problem, to refuse answers copied from it (strict).
    kind: of the answer, a name in `kinds.KINDS`.
    in_thought: the prompt ended with an open thought, so that nothing counts before its end (strict).
    """

    gold: str
    problem: str | None = None
    kind: str = "math"
    in_thought: bool = False


@dataclass(frozen=True)
class Verdict:
    """The answer found in the output (None where there is none), and in a few words why it is, or is not, correct."""

    correct: bool
    extracted: str | None
    reason: str

    def __post_init__(self) -> None:
        """A lone surrogate, half of a character that was cut in two, has no UTF-8: what is printed shows "?" for it."""
        if self.extracted is not None and not self.extracted.isascii():
            object.__setattr__(self, "extracted", self.extracted.encode("utf-8", "replace").decode("utf-8"))
