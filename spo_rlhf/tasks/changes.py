"""Problems about a number that changes many times: what the tasks with one decision and a long derivation share.

    Mia has 40 coins. Her book says: a+3 b-5 c+4. [a question]

The derivation has a line a change. Its second word is any of `FILLERS`: a free choice that decides nothing, so that
score energy lies all along a response, while the outcome hangs on one decision, which the demonstrations of the warm-up
take wrongly at a rate that the question's wording sets (`Wording.right_rate`). Standard library only.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from random import Random
from string import ascii_lowercase, ascii_uppercase
from typing import Protocol

from spo_rlhf.tasks.splits import write_splits
from spo_rlhf.tasks.task import SelfMade, Setting, Task

#: The prompt of these tasks; the response starts on the next line.
PROMPT_TEMPLATE = "Question: {}\nAnswer:\n"
FILLERS = ("then", "now", "so", "next")
#: 11 tokens a line of the small tokenizer: 13 lines are about 150 tokens, 26 about 300.
DEFAULT_CHANGES, MAX_CHANGES = 14, 26
SMALLEST, LARGEST = 11, 98  # of every number on the way: two digits each

_LABELS = (ascii_lowercase, ascii_uppercase)
_STARTS, _LARGEST_CHANGE = range(35, 75), 9
_PEOPLE = ("Mia", "Anna", "Emma", "Lily", "Nora", "Tom", "Ben", "Max", "Leo", "Sam")
_THINGS = ("apples", "books", "cards", "coins", "pens", "shells", "stamps", "toys")


@dataclass(frozen=True)
class Wording:
    """A question, with the fields {name} and {things}.

    decision: the right one. right_rate: share of the demonstrations that take it; what the model starts from.
    """

    question: str
    decision: str
    right_rate: float


@dataclass(frozen=True)
class Story:
    """The numbers and names of one problem: `start`, then the changes in each book, from -9 to 9 and not 0.

    The lines of the first book are called a, b, c, of the second A, B, C: whoever has begun with one finds the next.
    """

    name: str
    things: str
    start: int
    books: tuple[tuple[int, ...], ...]

    def problem(self, wording: Wording) -> str:
        said = [" ".join(f"{label}{change:+d}" for label, change in zip(*one)) for one in zip(_LABELS, self.books)]
        names = ("The book",) if len(said) == 1 else ("The old book", "The new book")
        books = " ".join(f"{name} says: {book}." for name, book in zip(names, said))
        question = wording.question.format(name=self.name, things=self.things)
        return f"{self.name} has {self.start} {self.things}. {books} {question}"

    def derivation(self, rng: Random, book: int = 0) -> tuple[list[str], int]:
        """A line for each change of a book, and the number at the end."""
        lines, number = [], self.start
        for label, change in zip(_LABELS[book], self.books[book]):
            lines.append(f"{label} {pick(rng, FILLERS)} {number}{change:+d}={number + change}")
            number += change
        return lines, number


class Solve(Protocol):
    """(story, decision, source of the free choices) -> a solution that takes the decision, and its answer."""

    def __call__(self, story: Story, decision: str, rng: Random) -> tuple[str, str]: ...


@dataclass(frozen=True)
class Decided:
    """A task of this kind: its name, its questions, and how it is solved."""

    name: str
    wordings: Sequence[Wording]
    solve: Solve
    books: int = 1

    def generate(
        self,
        seed: int,
        count: int,
        *,
        changes: Sequence[int] = (DEFAULT_CHANGES,),
        exclude: Set[str] = frozenset(),
        demonstrated: bool = False,
    ) -> list[dict]:
        """Return `count` different problems, wordings and numbers of changes in turn; no problem text is in `exclude`.

        Each is a dict of `id`, `problem`, `solution`, `answer`, `decision` (the right one) and `right` (whether the
        solution takes it): always, unless the solutions are `demonstrated`. Each decision has an answer of its own. The
        same arguments give the same problems in every process and on every Python version. Raises ValueError for a
        number of changes out of range.
        """
        for number in changes:
            check_changes(number)
        rng, decisions = Random(seed), sorted({wording.decision for wording in self.wordings})
        problems: list[dict] = []
        seen = set(exclude)
        while len(problems) < count:
            place = len(problems)
            wording = self.wordings[place % len(self.wordings)]
            story = _story(rng, changes[place // len(self.wordings) % len(changes)], self.books)
            right = rng.random() < wording.right_rate or not demonstrated
            wrong = pick(rng, [decision for decision in decisions if decision != wording.decision])
            solved = {decision: self.solve(story, decision, rng) for decision in decisions}
            text = story.problem(wording)
            if text in seen or len({answer for _, answer in solved.values()}) < len(decisions):
                continue
            seen.add(text)
            taken, answer = solved[wording.decision if right else wrong][0], solved[wording.decision][1]
            row = {"id": f"{self.name}/{seed}/{place}", "problem": text, "solution": taken, "answer": answer}
            problems.append({**row, "decision": wording.decision, "right": right})
        return problems

    def write_task(
        self,
        directory: Path,
        seed: int,
        train_count: int,
        test_count: int,
        sft_count: int,
        *,
        changes: int = DEFAULT_CHANGES,
        supervised_from: int | None = None,
    ) -> dict[str, list[dict]]:
        """Write test.jsonl, sft.jsonl and train.jsonl, see `write_splits`; return their rows.

        The supervised problems are demonstrations, right or wrong; with `supervised_from` they have from that many
        changes on. Raises ValueError for numbers of changes out of range.
        """

        def of(seed: int, count: int, exclude: Set[str]) -> list[dict]:
            return self.generate(seed, count, changes=[changes], exclude=exclude)

        def demonstrations(seed: int, count: int, exclude: Set[str]) -> list[dict]:
            numbers = range(supervised_from or changes, changes + 1)
            return self.generate(seed, count, changes=numbers, exclude=exclude, demonstrated=True)

        return write_splits(directory, self.name, of, seed, train_count, test_count, sft_count, demonstrations)

    def task(self, description: str) -> Task:
        """Its record."""
        return Task(
            description=description,
            files=("test.jsonl", f"{self.name}.jsonl"),
            template=PROMPT_TEMPLATE,
            self_made=SelfMade(
                self.write_task,
                settings={"changes": Setting(DEFAULT_CHANGES, "lines of the derivation", smallest=2)},
                check=check_changes,
            ),
        )


def check_changes(changes: int) -> None:
    """Raises ValueError unless 2 <= changes <= MAX_CHANGES."""
    if not 2 <= changes <= MAX_CHANGES:
        raise ValueError(f"a problem has 2 to {MAX_CHANGES} changes, not {changes}")


def _story(rng: Random, count: int, books: int) -> Story:
    """No number on the way, in any book, leaves its range."""
    start = pick(rng, _STARTS)
    name, things = pick(rng, _PEOPLE), pick(rng, _THINGS)
    return Story(name, things, start, tuple(_book(rng, start, count) for _ in range(books)))


def _book(rng: Random, number: int, count: int) -> tuple[int, ...]:
    changes = list[int]()
    while len(changes) < count:
        near = range(-_LARGEST_CHANGE, _LARGEST_CHANGE + 1)
        change = pick(rng, [c for c in near if c and SMALLEST <= number + c <= LARGEST])
        number += change
        changes.append(change)
    return tuple(changes)


# Only Random.random() is promised to give the same sequence on every Python version; choice is not.
def pick(rng: Random, options: Sequence):
    """One of the options."""
    return options[int(rng.random() * len(options))]
