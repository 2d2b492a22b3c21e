"""Knights and knaves: one solution each, the benchmark's own form, reasoning that is right, a reward that is strict."""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spo_rlhf.rollout import reward_worker
from spo_rlhf.tasks import knights_knaves as kk
from spo_rlhf.tasks import knights_knaves_reward
from spo_rlhf.tasks.knights_knaves_reward import is_correct

DATA = Path(os.environ.get("SPO_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))
PROBLEMS = st.tuples(st.integers(0, 2**32), st.integers(2, 5))
WORDS = {"true": True, "false": False}


def holds(claim: str, roles: dict[str, str]) -> bool:
    """A claim in words, judged without the code under test."""
    if claim.lower().startswith("if "):
        condition, consequence = claim[3:].split(" then ")
        return not holds(condition, roles) or holds(consequence, roles)
    for words, joined in ((" if and only if ", bool.__eq__), (" and ", bool.__and__), (" or ", bool.__or__)):
        if words in claim:
            return joined(*(holds(part, roles) for part in claim.split(words)))
    name, negation, role = re.fullmatch(r"(\w+) is( not)? a (\w+)", claim).groups()
    return (roles[name] == role) != bool(negation)


def statements(problem: str, names: list[str]) -> list[str]:
    """What each person says, in the words of the problem; fails unless the problem has the known form throughout."""
    opening = (
        "A very special island is inhabited only by knights and knaves. Knights always tell the truth, and knaves "
        f"always lie. You meet {len(names)} inhabitants: {', '.join(names[:-1])}, and {names[-1]}."
    )
    assert problem.startswith(opening)
    rest, said = problem.removeprefix(opening), []
    for name in names:
        patterns = [re.escape(" " + form.format(name=name, claim="@")).replace("@", "(.+?)") for form in kk._WORDINGS]
        found = [match for match in (re.match(pattern, rest) for pattern in patterns) if match]
        found = [match for match in found if set("\"'.:").isdisjoint(match[1])]
        assert len(found) == 1, rest
        said.append(found[0][1])
        rest = rest[found[0].end() :]
    assert rest == " So who is a knight and who is a knave?"
    return said


def possible_roles(problem: str, names: list[str]) -> list[dict[str, str]]:
    claims = statements(problem, names)
    everything = (dict(zip(names, roles)) for roles in product(("knight", "knave"), repeat=len(names)))
    return [
        roles
        for roles in everything
        if all(holds(claim, roles) == (roles[name] == "knight") for claim, name in zip(claims, names, strict=True))
    ]


def other_answers(row: dict) -> list[str]:
    own = tuple(row["solution_bool"])
    roles = product((True, False), repeat=len(own))
    return [kk.answer_text(row["names"], other) for other in roles if other != own]


def benchmark(split: str) -> list[dict]:
    path = DATA / f"kk_3ppl_{split}.jsonl"
    if not path.exists():
        pytest.skip(f"no {path.name} in {DATA}: put the benchmark's files there, or set SPO_DATA_DIR")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_row(row: dict) -> None:
    claims = ast.literal_eval(row["statements"])
    found = possible_roles(row["problem"], row["names"])
    lines = [f"({i}) {name} is a {role}" for i, (name, role) in enumerate(found[0].items(), start=1)]
    assert len(found) == 1 and "\n".join(lines) == row["answer"]
    assert kk.solutions(claims) == [tuple(row["solution_bool"])]
    assert kk.answer_text(row["names"], row["solution_bool"]) == row["answer"]
    assert is_correct("CONCLUSION:\n" + row["answer"], row["answer"])
    assert not any(is_correct("CONCLUSION:\n" + other, row["answer"]) for other in other_answers(row))


@settings(max_examples=40)
@given(PROBLEMS)
def test_exactly_one_solution_by_enumeration_of_what_the_text_says(problem):
    seed, people = problem
    for row in kk.generate(seed, 5, people=people):
        check_row(row)


@pytest.mark.parametrize("split", ["test", "train"])
def test_the_benchmarks_own_rows_have_this_form_and_their_one_solution(split):
    rows = benchmark(split)
    assert len(rows) >= 100
    for row in rows:
        check_row(row)


def test_fields_are_those_of_the_benchmark_and_the_solution():
    row = kk.generate(0, 1)[0]
    assert list(row) == ["id", "problem", "solution", "answer", "names", "solution_bool", "statements"]
    assert set(benchmark("test")[0]) == set(row) - {"solution"}


@settings(max_examples=40)
@given(PROBLEMS)
def test_the_reasoning_is_a_sound_and_complete_elimination(problem):
    """Every value in it is right, each case but the last fails where it says so, and no case is left out."""
    seed, people = problem
    for row in kk.generate(seed, 3, people=people):
        names, claims = row["names"], dict(zip(row["names"], statements(row["problem"], row["names"])))
        lines, conclusion = row["solution"].split("\nCONCLUSION:\n")
        assert conclusion == row["answer"]
        refuted, roles = [], {}
        for line in lines.splitlines():
            if line.startswith("Suppose "):
                roles = dict(part.split(" is a ") for part in line[len("Suppose ") : -1].split(", "))
                assert list(roles) == names[: len(roles)]
                continue
            name, said, value, verdict = re.fullmatch(r"(\w+): (.*), so (\w+)\. (.*)\.", line).groups()
            assert re.sub(r" \((true|false)\)", "", said) == claims[name]
            assert WORDS[value] == holds(claims[name], roles)
            parts = re.findall(r"(\w+ is (?:not )?a \w+) \((true|false)\)", said)
            assert len(parts) == len(re.findall(" is ", claims[name]))
            assert all(WORDS[word] == holds(part, roles) for part, word in parts)
            fits = WORDS[value] == (roles[name] == "knight")
            assert verdict == ("This fits" if fits else "Contradiction")
            refuted += [] if fits else [tuple(role == "knight" for role in roles.values())]
        solution = tuple(row["solution_bool"])
        assert tuple(role == "knight" for role in roles.values()) == solution
        before = [case for case in product((True, False), repeat=people) if case > solution]
        assert all(any(case[: len(prefix)] == prefix for prefix in refuted) for case in before)
        assert not any(solution[: len(prefix)] == prefix for prefix in refuted)
        assert is_correct(row["solution"], row["answer"])


def test_problems_of_a_seed_stay_what_they_are_in_every_process():
    """A change here changes every task that was made before: accuracies are no longer comparable."""
    text = "".join(row["problem"] + row["solution"] for row in kk.generate(0, 100))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "e591eecaeb6db797"
    code = "import sys; from spo_rlhf.tasks.knights_knaves import generate; sys.stdout.write(repr(generate(7, 100)))"
    for hash_seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        assert done.stdout == repr(kk.generate(7, 100))


def test_problems_differ_within_and_between_seeds_and_from_excluded_ones():
    first = kk.generate(0, 200, people=2)
    texts = {row["problem"] for row in first}
    assert len(texts) == len({row["id"] for row in first}) == 200
    assert not texts & {row["problem"] for row in kk.generate(0, 200, people=2, exclude=texts)}
    assert not texts & {row["problem"] for row in kk.generate(1, 200, people=2)}


def test_written_splits_are_disjoint(tmp_path):
    splits = kk.write_task(tmp_path, 3, 30, 20, 10)
    rows = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in splits
    }
    assert {name: len(part) for name, part in rows.items()} == {"train": 30, "test": 20, "sft": 10}
    assert len({row["problem"] for part in rows.values() for row in part}) == 60
    assert rows["test"][0]["id"] == "knights_knaves/test/0"


def test_supervised_problems_about_fewer_people_leave_the_others_as_they_are(tmp_path):
    as_asked = kk.write_task(tmp_path, 3, 10, 5, 7, people=4)
    splits = kk.write_task(tmp_path, 3, 10, 5, 7, people=4, supervised_from=2)
    assert splits["train"] == as_asked["train"] and splits["test"] == as_asked["test"]
    assert [len(row["names"]) for row in splits["sft"]] == [2, 2, 3, 3, 4, 4, 4]
    assert not {row["problem"] for row in splits["sft"]} & {
        row["problem"] for name in ("train", "test") for row in splits[name]
    }
    for wrong in (1, 5):
        with pytest.raises(ValueError, match=f"not from {wrong}"):
            kk.write_task(tmp_path, 3, 1, 1, 1, people=4, supervised_from=wrong)


@pytest.mark.parametrize("people", [1, kk.MAX_PEOPLE + 1])
def test_people_out_of_range(people):
    with pytest.raises(ValueError, match="people"):
        kk.generate(0, 1, people=people)


ANSWER = "(1) Mia is a knight\n(2) Liam is a knave\n(3) Zoey is a knave"
FULL = "CONCLUSION:\n" + ANSWER


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        (FULL, 1),
        (f"Suppose Mia is a knave. Contradiction.\n{FULL}<|endoftext|>", 1),
        (f"CONCLUSION:\n{ANSWER.replace('knight', 'knave')}\nWait.\n{FULL}", 1),  # the last one counts
        (f"{FULL}\nWait.\nCONCLUSION:\n{ANSWER.replace('knight', 'knave')}", 0),
        (f"{FULL}\nWait.\nCONCLUSION:\n(1) Mia is a", 0),
        (FULL[:-1], 0),
        (FULL[: FULL.rindex("\n")], 0),
        ("", 0),
        (ANSWER, 0),
        (f"{FULL}\n(3) Zoey is a knight", 0),
        (f"{FULL}\n(4) Emma is a knight", 0),
        (f"{FULL} or a knight", 0),
        (f"{FULL}, a knight", 0),
        (f"{FULL}/knight", 0),
        (FULL.replace("Liam is a knave", "Liam is not a knight"), 0),
        ("CONCLUSION:\nMia is a knight, Mia is a knave, Liam is a knave, Zoey is a knave", 0),
    ],
)
def test_the_reward_is_strict(response, reward):
    prompt = kk.PROMPT_TEMPLATE.format("Who is a knight? Not CONCLUSION: Mia is a knave.")
    result = knights_knaves_reward.reward_func([prompt + response], [prompt], [ANSWER])
    assert result == {"rewards": [float(reward)], "scores": [float(reward)], "extra_logs": {}}


@given(st.integers(0, len(FULL) - 1))
def test_a_truncated_answer_gets_nothing(length):
    assert not is_correct("Mia is a knight.\n" + FULL[:length], ANSWER)


def test_the_prompt_does_not_help():
    """The right answer in the prompt earns an empty response nothing."""
    assert knights_knaves_reward.reward_func([FULL], [FULL], [ANSWER])["rewards"] == [0.0]


def test_mistakes_in_the_set_up_are_errors():
    with pytest.raises(ValueError, match="label_key"):
        is_correct(FULL, "42")
    with pytest.raises(ValueError, match="prompt"):
        knights_knaves_reward.reward_func(["something else"], ["a prompt"], [ANSWER])


def test_it_loads_as_a_reward_file():
    reward_worker.load(knights_knaves_reward.__file__)
    assert reward_worker.grade("Who?\n" + FULL, "Who?\n", ANSWER) == (1.0, 1.0, {})


def test_the_evaluation_takes_these_files_and_the_benchmarks(tmp_path):
    from evaluation.prompts import choose_prompt, question
    from evaluation.tasks import load_task
    from spo_rlhf.graders.grade import grade_here
    from spo_rlhf.graders.verdict import Question

    kk.write_task(tmp_path, 0, 1, 5, 1)
    row = json.loads((tmp_path / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    task = load_task(f"knights_knaves={tmp_path / 'test.jsonl'}", None)
    assert (task.task.kind, len(task.problems)) == ("roles", 5)
    assert grade_here(Question(task.problems[0].gold, kind=task.task.kind), row["solution"]).correct
    prompt = choose_prompt(None, None, "none", own=task.task.asked)
    assert question(prompt, row["problem"]) == kk.PROMPT_TEMPLATE.format(row["problem"])
    assert len(benchmark("test")) == len(load_task("knights_knaves", DATA).problems) == 100
