"""Check last: a long derivation, then a decision that decides. Generated from a seed; standard library only.

    Mia has 40 coins. The book says: a+3 b-5 c+4. Ten coins fill a box. How many boxes are full?

The response derives the number of things, and decides in its last but one line what follows from it:

    a then 40+3=43
    b so 43-5=38
    c now 38+4=42
    42 round down
    #### 4

The derivation is easy, and it does not tell whether boxes are needed or filled: half of the warm-up's demonstrations round
the wrong way (`changes`). So a warmed-up model's outcome is settled by its last words, behind a hesitation in each line.
"""

from random import Random

from spo_rlhf.tasks.changes import Decided, Story, Wording

UP, DOWN = "round up", "round down"

WORDINGS = (
    Wording("Ten fill a box. How many boxes are needed for all {things}?", UP, 0.8),
    Wording("Ten fill a box. How many boxes are full?", DOWN, 0.8),
    Wording("Ten fit in a box. In how many boxes do the {things} lie?", UP, 0.6),
    Wording("Ten fit in a box. How many have no room left?", DOWN, 0.6),
    Wording("{name} carries ten at a time. How often must {name} go?", UP, 0.4),
    Wording("{name} carries ten at a time. How often are it ten?", DOWN, 0.4),
    Wording("Ten make a page. On which page is the last one?", UP, 0.2),
    Wording("Ten make a page. How many pages are behind {name}?", DOWN, 0.2),
)


def solve(story: Story, decision: str, rng: Random) -> tuple[str, str]:
    """The solution with that decision, and its answer. Of a number of whole tens, both decisions have one answer."""
    lines, number = story.derivation(rng)
    answer = -(-number // 10) if decision == UP else number // 10
    return "\n".join([*lines, f"{number} {decision}", f"#### {answer}"]), str(answer)


CHECK_LAST = Decided("check_last", WORDINGS, solve)
TASK = CHECK_LAST.task("a long derivation, then a decision that decides; made from a seed")
