"""Plan first: an early choice of method decides, a long execution follows. Generated from a seed; standard library only.

    Mia has 40 coins. The book says: a+3 b-5 c+4. How many coins did Mia have before?

The response chooses between following the changes and taking them back, in its first line, and executes the choice:

    Plan: take back
    a then 40-3=37
    b so 37+5=42
    c now 42-4=38
    #### 38

The execution is easy and the plan is not: half of the warm-up's demonstrations execute the wrong plan (`changes`). So a
warmed-up model's outcome is settled by its first words, and its hesitations, one a line, are not there.
"""

from random import Random

from spo_rlhf.tasks.changes import Decided, Story, Wording

FOLLOW, TAKE_BACK = "follow", "take back"

WORDINGS = (
    Wording("How many {things} does {name} have in the end?", FOLLOW, 0.8),
    Wording("How many {things} did {name} have before?", TAKE_BACK, 0.8),
    Wording("What will {name} have after all that?", FOLLOW, 0.6),
    Wording("What was it that {name} started with?", TAKE_BACK, 0.6),
    Wording("{name} makes these changes. How many {things} are left?", FOLLOW, 0.4),
    Wording("{name} has made these changes. How many {things} were there?", TAKE_BACK, 0.4),
    Wording("All of it lies ahead. How many {things} come of it?", FOLLOW, 0.2),
    Wording("All of it is over. How many {things} led to it?", TAKE_BACK, 0.2),
)


def solve(story: Story, decision: str, rng: Random) -> tuple[str, str]:
    """The solution with that plan, and its answer."""
    lines, number = story.derivation(rng, 1 if decision == FOLLOW else -1)
    return "\n".join([f"Plan: {decision}", *lines, f"#### {number}"]), str(number)


PLAN_FIRST = Decided("plan_first", WORDINGS, solve)
TASK = PLAN_FIRST.task("an early choice of method decides, a long execution follows; made from a seed")
