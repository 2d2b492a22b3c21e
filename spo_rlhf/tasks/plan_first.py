"""Plan first: an early choice decides, a long execution follows. Generated from a seed; standard library only.

    Mia has 40 coins. The old book says: a+3 b-5 c+4. The new book says: A-2 B+7 C+1. How many coins were there in the end?

The response chooses in its first line which book to go by, and executes the choice:

    Plan: old book
    a then 40+3=43
    b so 43-5=38
    c now 38+4=42
    #### 42

The execution is easy and the plan is not: half of the warm-up's demonstrations execute the wrong plan (`changes`). So a
warmed-up model's outcome is settled by its first words, and its hesitations, one a line, are not there.
"""

from random import Random

from spo_rlhf.tasks.changes import Decided, Story, Wording

OLD, NEW = "old book", "new book"

WORDINGS = (
    Wording("How many {things} were there in the end?", OLD, 0.8),
    Wording("How many {things} will there be in the end?", NEW, 0.8),
    Wording("What did all those changes leave of them?", OLD, 0.6),
    Wording("What will all those changes leave of them?", NEW, 0.6),
    Wording("{name} counted last year. How many {things}?", OLD, 0.4),
    Wording("{name} counts next year. How many {things}?", NEW, 0.4),
    Wording("It is long over. How many {things} came of it?", OLD, 0.2),
    Wording("It is yet to come. How many {things} come of it?", NEW, 0.2),
)


def solve(story: Story, decision: str, rng: Random) -> tuple[str, str]:
    """The solution with that plan, and its answer."""
    lines, number = story.derivation(rng, (OLD, NEW).index(decision))
    return "\n".join([f"Plan: {decision}", *lines, f"#### {number}"]), str(number)


PLAN_FIRST = Decided("plan_first", WORDINGS, solve, books=2)
TASK = PLAN_FIRST.task("an early choice decides, a long execution follows; made from a seed")
