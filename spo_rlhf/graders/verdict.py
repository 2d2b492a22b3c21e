"""What a grader says of an answer, and how it may be asked."""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["strict", "lenient"]
MODES: tuple[Mode, ...] = ("strict", "lenient")
Kind = Literal["math", "roles"]


@dataclass(frozen=True)
class Verdict:
    """`extracted` is the answer found in the output, None where there is none; `reason` says in a few words why it is
    (not) correct.
    """

    correct: bool
    extracted: str | None
    reason: str
