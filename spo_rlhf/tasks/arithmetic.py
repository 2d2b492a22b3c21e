"""Arithmetic word problems in GSM8K's shape, generated from a seed. Standard library only.

A problem follows one running quantity through a number of operations:

    Mia has 13 apples. She buys 7 more. 3 of them are red. She keeps half of them. How many apples does Mia have now?

Its solution is one operation a line and the answer after `####`:

    13+7=20
    20/2=10
    #### 10

What makes it hard for a small model: operands are scattered over the text, some sentences carry a number that plays no
part, factors are words ("three times as many"), and every line needs the result of the line before.
"""

from collections.abc import Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from spo_rlhf.tasks.splits import write_splits
from spo_rlhf.tasks.task import SelfMade, Setting, Task

#: The prompt of this task; the response is the solution, starting right after. The trainer passes it as
#: `--data.input_template`, together with `--data.input_key problem` and `--data.label_key answer`.
PROMPT_TEMPLATE = "Question: {}\nAnswer:\n"

#: Problems stay short enough for a context of 2048 tokens.
MAX_STEPS = 60

_SMALLEST, _LARGEST_START, _LARGEST_TERM, _LARGEST_QUANTITY = 2, 20, 12, 99
_DISTRACTOR_RATE = 0.25
_OPERATION_WEIGHTS = {"+": 0.35, "-": 0.35, "*": 0.15, "/": 0.15}
_TIMES = {2: "twice", 3: "three times"}
_PARTS = {2: "half", 3: "one third"}
_PEOPLE = (
    *((name, "She") for name in ("Mia", "Anna", "Emma", "Lily", "Nora")),
    *((name, "He") for name in ("Tom", "Ben", "Max", "Leo", "Sam")),
)
_THINGS = ("apples", "books", "cards", "coins", "pens", "shells", "stamps", "toys")


@dataclass(frozen=True)
class _Story:
    """Sentences of a kind of story. Fields: {name}, {pronoun}, {things}, {n} a number, {times} and {part} a factor."""

    opening: str
    sentences: dict[str, tuple[str, ...]]  # operation -> wordings
    distractor: str
    question: str


_STORIES = (
    _Story(
        opening="{name} has {n} {things}.",
        sentences={
            "+": ("{pronoun} buys {n} more.", "{pronoun} finds {n} more."),
            "-": ("{pronoun} loses {n}.", "{pronoun} sells {n}."),
            "*": ("Now {name} has {times} as many.",),
            "/": ("{pronoun} keeps {part} of them.",),
        },
        distractor="{n} of them are red.",
        question="How many {things} does {name} have?",
    ),
    _Story(
        opening="There are {n} {things} in a box.",
        sentences={
            "+": ("{name} adds {n}.", "{n} more are added."),
            "-": ("{name} takes {n}.", "{n} are taken."),
            "*": ("{name} makes it {times} as many.",),
            "/": ("{name} leaves {part} of them.",),
        },
        distractor="{n} of them are new.",
        question="How many {things} are in the box?",
    ),
    _Story(
        opening="A bus has {n} people.",
        sentences={
            "+": ("{n} get on.", "{n} more get on."),
            "-": ("{n} get off.", "{n} people get off."),
            "*": ("Now it has {times} as many.",),
            "/": ("Now it has {part} as many.",),
        },
        distractor="{n} of them are children.",
        question="How many people does it have?",
    ),
    _Story(
        opening="A shop sells {n} {things} on day one.",
        sentences={
            "+": ("Next day it sells {n} more.",),
            "-": ("Next day it sells {n} fewer.",),
            "*": ("Next day it sells {times} as many.",),
            "/": ("Next day it sells {part} as many.",),
        },
        distractor="{n} of them are sold to {name}.",
        question="How many {things} does it sell on the last day?",
    ),
)


def check_steps(min_steps: int, max_steps: int) -> None:
    """Raises ValueError unless 2 <= min_steps <= max_steps <= MAX_STEPS."""
    if not 2 <= min_steps <= max_steps <= MAX_STEPS:
        raise ValueError(f"a problem has 2 to {MAX_STEPS} steps, the fewest first: not {min_steps} to {max_steps}")


def generate(
    seed: int, count: int, *, min_steps: int = 2, max_steps: int = 6, exclude: Set[str] = frozenset()
) -> list[dict]:
    """Return `count` different problems, with step counts from `min_steps` to `max_steps` in turn.

    Each is a dict of `id`, `problem` and `solution` (text), `answer` (the number as text) and `steps` (int). The same
    arguments give the same problems in every process and on every Python version. No problem text is in `exclude`.
    Raises ValueError for step counts out of range.
    """
    check_steps(min_steps, max_steps)
    rng = Random(seed)
    problems: list[dict] = []
    seen = set(exclude)
    while len(problems) < count:
        steps = min_steps + len(problems) % (max_steps - min_steps + 1)
        candidate = _problem(rng, steps)
        if candidate["problem"] not in seen:
            seen.add(candidate["problem"])
            problems.append({"id": f"arithmetic/{seed}/{len(problems)}", **candidate})
    return problems


def write_task(
    directory: Path,
    seed: int,
    train_count: int,
    test_count: int,
    sft_count: int,
    *,
    min_steps: int = 2,
    max_steps: int = 6,
    supervised_from: int | None = None,
) -> dict[str, list[dict]]:
    """Write test.jsonl, sft.jsonl and train.jsonl, see `write_splits`; return their rows.

    With `supervised_from` the supervised problems have from that many steps on, instead of `min_steps`. Raises
    ValueError for step counts out of range.
    """

    def of(seed: int, count: int, exclude: Set[str], smallest: int = min_steps) -> list[dict]:
        return generate(seed, count, min_steps=smallest, max_steps=max_steps, exclude=exclude)

    supervised = None if supervised_from is None else partial(of, smallest=supervised_from)
    return write_splits(directory, "arithmetic", of, seed, train_count, test_count, sft_count, supervised)


def _problem(rng: Random, steps: int) -> dict:
    story = _pick(rng, _STORIES)
    name, pronoun = _pick(rng, _PEOPLE)
    words = {"name": name, "pronoun": pronoun, "things": _pick(rng, _THINGS)}
    quantity = _number(rng, _SMALLEST, _LARGEST_START)
    sentences = [story.opening.format(n=quantity, **words)]
    lines = []
    distracted = int(rng.random() / _DISTRACTOR_RATE * steps)  # the step to distract at; mostly beyond the last
    for step in range(steps):
        if step == distracted:
            sentences.append(story.distractor.format(n=_number(rng, _SMALLEST, min(9, quantity)), **words))
        operation, operand, result = _operation(rng, quantity)
        wording = _pick(rng, story.sentences[operation])
        factor = {"times": _TIMES.get(operand), "part": _PARTS.get(operand)}
        sentences.append(wording.format(n=operand, **factor, **words))
        lines.append(f"{quantity}{operation}{operand}={result}")
        quantity = result
    sentences.append(story.question.format(**words))
    solution = "\n".join([*lines, f"#### {quantity}"])
    return {"problem": " ".join(sentences), "solution": solution, "answer": str(quantity), "steps": steps}


def _operation(rng: Random, quantity: int) -> tuple[str, int, int]:
    """Return an operation, its operand and its result, which stays between the smallest and the largest quantity."""
    choices = {
        "+": range(_SMALLEST, min(_LARGEST_TERM, _LARGEST_QUANTITY - quantity) + 1),
        "-": range(_SMALLEST, min(_LARGEST_TERM, quantity - _SMALLEST) + 1),
        "*": [k for k in _TIMES if quantity * k <= _LARGEST_QUANTITY],
        "/": [k for k in _PARTS if quantity % k == 0 and quantity // k >= _SMALLEST],
    }
    weights = {sign: _OPERATION_WEIGHTS[sign] for sign, operands in choices.items() if operands}
    point = rng.random() * sum(weights.values())
    for operation, weight in weights.items():  # noqa: B007 (the one that was drawn is used below)
        point -= weight
        if point < 0:
            break
    operand = _pick(rng, choices[operation])
    results = {"+": quantity + operand, "-": quantity - operand, "*": quantity * operand, "/": quantity // operand}
    return operation, operand, results[operation]


# Only Random.random() is promised to give the same sequence on every Python version; choice and randint are not.
def _number(rng: Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _pick(rng: Random, options):
    return options[int(rng.random() * len(options))]


TASK = Task(
    description="word problems in GSM8K's shape, made from a seed",
    files=("test.jsonl", "arithmetic.jsonl"),
    template=PROMPT_TEMPLATE,
    self_made=SelfMade(
        write_task,
        settings={
            "min_steps": Setting(2, "operations in the shortest problems", smallest=2),
            "max_steps": Setting(6, "operations in the longest problems", smallest=2),
        },
        check=check_steps,
    ),
)
