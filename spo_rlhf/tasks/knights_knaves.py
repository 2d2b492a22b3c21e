"""Knights and knaves: who lies? Problems for n people with exactly one solution, generated from a seed.

Problems and answers have the form of the knights-and-knaves benchmark (arXiv 2410.23123), so that its own files work
with the same prompt and reward:

    A very special island is inhabited only by knights and knaves. Knights always tell the truth, and knaves always
    lie. You meet 2 inhabitants: Mia, and Liam. Mia said that Liam is a knave. "Mia is not a knight," Liam claimed. So
    who is a knight and who is a knave?

The solution supposes one role after the other, checks every claim as soon as all whom it is about have a role, and
goes back at a contradiction (`reasoning`); then comes what the reward looks at:

    CONCLUSION:
    (1) Mia is a knight
    (2) Liam is a knave

Standard library only.
"""

from collections.abc import Iterator, Sequence, Set
from itertools import product
from pathlib import Path
from random import Random

from spo_rlhf.tasks.splits import write_splits
from spo_rlhf.tasks.task import HubData, Prompt, SelfMade, Setting, Task

#: The prompt of this task, for `--data.input_template`; the response starts on the next line.
PROMPT_TEMPLATE = (
    "{}\nThink step by step. End with a line CONCLUSION: and under it one numbered line per person, such as "
    "(1) Zoey is a knight.\n"
)
#: More people make problems longer than a context of 2048 tokens has room for.
MAX_PEOPLE = 8

#: What somebody says, as nested tuples in the benchmark's notation. Number p is a person's place in the list of names:
#: (KNIGHT, p), (KNAVE, p), ("not", claim), or ("and" | "or" | "->" | "<=>", claim, claim).
Claim = tuple
KNIGHT, KNAVE = "telling-truth", "lying"

_OPENING = (
    "A very special island is inhabited only by knights and knaves. Knights always tell the truth, and knaves always "
    "lie. You meet {count} inhabitants: {names}."
)
_QUESTION = "So who is a knight and who is a knave?"
_NAMES = tuple(
    "Abigail Aiden Alexander Amelia Aria Aurora Ava Avery Benjamin Charlotte Chloe Daniel David Elizabeth Ella Emily "
    "Emma Ethan Evelyn Grace Harper Henry Isabella Jack Jackson Jacob James Joseph Liam Lily Logan Lucas Luke Mason "
    "Matthew Mia Michael Noah Oliver Olivia Owen Penelope Riley Samuel Scarlett Sebastian Sofia Sophia Victoria "
    "William Zoey".split()
)
_WORDINGS = (
    '"{claim}" - {name}.',
    '"{claim}," {name} claimed.',
    '"{claim}," {name} declared.',
    '"{claim}," {name} mentioned.',
    '{name} said, "{claim}."',
    '{name} asserted: "{claim}".',
    '{name} commented, "{claim}".',
    '{name} noted, "{claim}".',
    '{name} remarked, "{claim}".',
    '{name} stated, "{claim}".',
    '{name} was heard saying, "{claim}".',
    "{name} said that {claim}.",
    "{name} expressed that {claim}.",
    "{name} told you that {claim}.",
    'According to {name}, "{claim}".',
    'As {name} put it, "{claim}".',
    'In a statement by {name}: "{claim}".',
    'In {name}\'s words: "{claim}".',
)
_JOINED = {"and": "{} and {}", "or": "{} or {}", "->": "if {} then {}", "<=>": "{} if and only if {}"}


def check_people(people: int) -> None:
    """Raises ValueError unless 2 <= people <= MAX_PEOPLE."""
    if not 2 <= people <= MAX_PEOPLE:
        raise ValueError(f"a problem has 2 to {MAX_PEOPLE} people, not {people}")


def generate(seed: int, count: int, *, people: int = 3, exclude: Set[str] = frozenset()) -> list[dict]:
    """Return `count` different problems, each with exactly one solution. No problem text is in `exclude`.

    Each is a dict of `id`, `problem`, `solution` and `answer` (text), and, as in the benchmark's files, `names`,
    `solution_bool` (who is a knight) and `statements` (the claims, written as Python tuples). The same arguments give
    the same problems in every process and on every Python version. Raises ValueError for a number of people out of
    range.
    """
    check_people(people)
    rng = Random(seed)
    problems: list[dict] = []
    seen = set(exclude)
    while len(problems) < count:
        claims = tuple(_claim(rng, speaker, people) for speaker in range(people))
        found = solutions(claims)
        if len(found) != 1:
            continue
        names = _sample(rng, _NAMES, people)
        text = problem_text(names, claims, [_pick(rng, _WORDINGS) for _ in names])
        if text not in seen:
            seen.add(text)
            problems.append({"id": f"knights_knaves/{seed}/{len(problems)}", **_row(names, claims, found[0], text)})
    return problems


def write_task(
    directory: Path,
    seed: int,
    train_count: int,
    test_count: int,
    sft_count: int,
    *,
    people: int = 3,
    supervised_from: int | None = None,
) -> dict[str, list[dict]]:
    """Write test.jsonl, sft.jsonl and train.jsonl, see `write_splits`; return their rows.

    With `supervised_from` the supervised problems are about that many people and more, up to `people`, equally many of
    each number. Raises ValueError for numbers of people out of range.
    """

    def of(seed: int, count: int, exclude: Set[str]) -> list[dict]:
        return generate(seed, count, people=people, exclude=exclude)

    def from_few(seed: int, count: int, exclude: Set[str]) -> list[dict]:
        numbers = range(supervised_from or people, people + 1)
        shares = [(count + place) // len(numbers) for place in range(len(numbers))]
        rows = (generate(seed, share, people=n, exclude=exclude) for n, share in zip(numbers, shares, strict=True))
        return [row for part in rows for row in part]

    if supervised_from is not None and not 2 <= supervised_from <= people:
        raise ValueError(f"supervised problems have from 2 to {people} people on, not from {supervised_from}")
    supervised = None if supervised_from is None else from_few
    return write_splits(directory, "knights_knaves", of, seed, train_count, test_count, sft_count, supervised)


def is_true(claim: Claim, is_knight: Sequence[bool]) -> bool:
    """Tell whether a claim holds where person p is a knight if `is_knight[p]`."""
    kind, *parts = claim
    if kind in (KNIGHT, KNAVE):
        return is_knight[parts[0]] == (kind == KNIGHT)
    values = [is_true(part, is_knight) for part in parts]
    if kind == "not":
        return not values[0]
    return {
        "and": all(values),
        "or": any(values),
        "->": not values[0] or values[-1],
        "<=>": values[0] == values[-1],
    }[kind]


def solutions(claims: Sequence[Claim]) -> list[tuple[bool, ...]]:
    """Return every assignment of roles in which knights, and only they, make true claims; by trying all of them."""
    return [
        roles
        for roles in product((True, False), repeat=len(claims))
        if all(is_true(claim, roles) == role for claim, role in zip(claims, roles, strict=True))
    ]


def problem_text(names: Sequence[str], claims: Sequence[Claim], wordings: Sequence[str]) -> str:
    """Return the problem; `wordings` says how each person speaks, with the fields {name} and {claim}."""
    everybody = f"{', '.join(names[:-1])}, and {names[-1]}"
    said = [
        wording.format(name=name, claim=_capitalized(_words(claim, names)))
        for name, claim, wording in zip(names, claims, wordings, strict=True)
    ]
    return " ".join([_OPENING.format(count=len(names), names=everybody), *said, _QUESTION])


def answer_text(names: Sequence[str], is_knight: Sequence[bool]) -> str:
    """Return the answer, a numbered line per person."""
    return "\n".join(f"({i}) {line}" for i, line in enumerate(_roles(names, is_knight), start=1))


def reasoning(names: Sequence[str], claims: Sequence[Claim]) -> list[str]:
    """Return the lines of a search through the roles, person after person and knight first, up to the solution.

    A line supposes the roles of the first k people, the next ones check the claims that this decides. Where one does
    not fit its speaker, the last role is replaced, and with both roles tried, the one before it.
    """
    lines: list[str] = []

    def search(is_knight: tuple[bool, ...]) -> bool:
        if is_knight:
            lines.append(f"Suppose {', '.join(_roles(names, is_knight))}.")
        for speaker, claim in enumerate(claims):
            if max(speaker, *_people(claim)) == len(is_knight) - 1:
                fits = is_true(claim, is_knight) == is_knight[speaker]
                said, value = _evaluated(claim, names, is_knight), _truth(is_true(claim, is_knight))
                verdict = "This fits." if fits else "Contradiction."
                lines.append(f"{names[speaker]}: {_capitalized(said)}, so {value}. {verdict}")
                if not fits:
                    return False
        return len(is_knight) == len(claims) or any(search((*is_knight, role)) for role in (True, False))

    search(())
    return lines


def _row(names: Sequence[str], claims: Sequence[Claim], is_knight: tuple[bool, ...], text: str) -> dict:
    answer = answer_text(names, is_knight)
    return {
        "problem": text,
        "solution": "\n".join([*reasoning(names, claims), "CONCLUSION:", answer]),
        "answer": answer,
        "names": list(names),
        "solution_bool": list(is_knight),
        "statements": repr(claims),
    }


def _roles(names: Sequence[str], is_knight: Sequence[bool]) -> list[str]:
    return [f"{name} is a {'knight' if knight else 'knave'}" for name, knight in zip(names, is_knight)]


def _people(claim: Claim) -> Iterator[int]:
    for part in claim[1:]:
        if isinstance(part, int):
            yield part
        else:
            yield from _people(part)


def _words(claim: Claim, names: Sequence[str]) -> str:
    kind, *parts = claim
    if kind == "not":
        return _words(parts[0], names).replace(" is a ", " is not a ")
    if kind in _JOINED:
        return _JOINED[kind].format(*(_words(part, names) for part in parts))
    return f"{names[parts[0]]} is a {'knight' if kind == KNIGHT else 'knave'}"


def _evaluated(claim: Claim, names: Sequence[str], is_knight: Sequence[bool]) -> str:
    """A claim in words, with the truth of each part: "Mia is a knave (true) and Zoey is a knight (false)"."""
    kind, *parts = claim
    if kind in _JOINED:
        return _JOINED[kind].format(*(_evaluated(part, names, is_knight) for part in parts))
    return f"{_words(claim, names)} ({_truth(is_true(claim, is_knight))})"


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def _claim(rng: Random, speaker: int, people: int) -> Claim:
    """A claim as the benchmark has them: of one person other than the speaker, or two different ones joined."""
    kind = _pick(rng, ("role", "not", *_JOINED))
    if kind in ("role", "not"):
        other = _pick(rng, [person for person in range(people) if person != speaker])
        role = (_pick(rng, (KNIGHT, KNAVE)), other)
        return role if kind == "role" else (kind, role)
    return (kind, *_sample(rng, list(product((KNIGHT, KNAVE), range(people))), 2))


# Only Random.random() is promised to give the same sequence on every Python version; choice and sample are not.
def _pick(rng: Random, options: Sequence):
    return options[int(rng.random() * len(options))]


def _sample(rng: Random, options: Sequence, count: int) -> list:
    rest = list(options)
    return [rest.pop(int(rng.random() * len(rest))) for _ in range(count)]


TASK = Task(
    description="who is a knight and who is a knave, the benchmark's problems and those made from a seed",
    files=("kk_3ppl_test.jsonl", "knights_knaves.jsonl"),
    test=HubData("K-and-K/knights-and-knaves", ("test",), "3ppl", problem="quiz", answer="solution_text_format"),
    template=PROMPT_TEMPLATE,
    prompt=Prompt(PROMPT_TEMPLATE.format("{problem}")),
    kind="roles",
    reward=Path(__file__).with_name("knights_knaves_reward.py"),
    self_made=SelfMade(
        write_task,
        settings={"people": Setting(3, "people in a problem", smallest=2)},
        check=check_people,
        vocabulary_size=768,  # for fifty names; with 512 a sequence is a fifth longer
        evaluate_every=50,
    ),
)
