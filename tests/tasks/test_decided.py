"""Plan first, check last: right derivations, one decision that decides, demonstrations that are wrong at a known rate."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.verdict import Question
from spo_rlhf.tasks.changes import FILLERS, MAX_CHANGES, Story
from spo_rlhf.tasks.check_last import CHECK_LAST
from spo_rlhf.tasks.plan_first import PLAN_FIRST
from spo_rlhf.tasks.small_model import build_tokenizer

TASKS = pytest.mark.parametrize("task", [PLAN_FIRST, CHECK_LAST], ids=lambda task: task.name)
STORY = Story("Mia", "coins", 40, ((3, -5, 4), (-2, 7, 2)))
SEEDS, COUNTS = st.integers(0, 2**32), st.integers(2, MAX_CHANGES)


def derived(lines: list[str], problem: str, book: int) -> int:
    """The number that the lines end with; fails unless each is right and follows from the line before and the problem."""
    number = int(re.search(r" has (\d+) ", problem)[1])
    stated = re.findall(r"([a-zA-Z])([+-]\d)\b", problem.split("says: ")[1 + book].split(".")[0])
    assert len(lines) == len(stated)
    for line, (label, change) in zip(lines, stated, strict=True):
        own, filler, before, change_made, after = re.fullmatch(r"(\w) (\w+) (\d+)([+-]\d)=(\d+)", line).groups()
        assert (own, int(before), int(change_made)) == (label, number, int(change)) and filler in FILLERS
        number += int(change_made)
        assert int(after) == number and 10 < number < 99
    return number


@settings(max_examples=30)
@given(SEEDS, COUNTS, st.booleans())
def test_a_plan_is_executed_without_fault_whether_it_is_right_or_not(seed, changes, demonstrated):
    for row in PLAN_FIRST.generate(seed, 9, changes=[changes], demonstrated=demonstrated):
        plan, *lines, answer = row["solution"].splitlines()
        taken = plan.removeprefix("Plan: ")
        number = derived(lines, row["problem"], ["old book", "new book"].index(taken))
        assert answer == f"#### {number}" and (taken == row["decision"]) == row["right"] == (
            str(number) == row["answer"]
        )


@settings(max_examples=30)
@given(SEEDS, COUNTS, st.booleans())
def test_a_check_comes_behind_a_derivation_without_fault(seed, changes, demonstrated):
    for row in CHECK_LAST.generate(seed, 9, changes=[changes], demonstrated=demonstrated):
        *lines, check, answer = row["solution"].splitlines()
        number, taken = check.split(" ", 1)
        assert derived(lines, row["problem"], 0) == int(number) and int(number) % 10
        assert answer == f"#### {int(number) // 10 + (taken == 'round up')}"
        assert (taken == row["decision"]) == row["right"] == (answer == f"#### {row['answer']}")


@TASKS
def test_the_decision_alone_decides_whatever_else_is_chosen(task):
    for wording in task.wordings:
        answers = {}
        for decision in {one.decision for one in task.wordings}:
            answers[decision] = {task.solve(STORY, decision, Random(seed))[1] for seed in range(20)}
            assert len({task.solve(STORY, decision, Random(seed))[0] for seed in range(20)}) > 10, "other free choices"
        [right] = answers.pop(wording.decision)
        assert not any(right in others for others in answers.values())


def test_where_the_decision_stands():
    """Before it, nothing tells which one it will be; behind it there is nothing else to decide."""
    old, new = (PLAN_FIRST.solve(STORY, plan, Random(0))[0] for plan in ("old book", "new book"))
    assert old.splitlines()[0] != new.splitlines()[0]
    up, down = (CHECK_LAST.solve(STORY, check, Random(0))[0] for check in ("round up", "round down"))
    assert up.splitlines()[:-2] == down.splitlines()[:-2] and up.splitlines()[-2] != down.splitlines()[-2]


@TASKS
def test_the_grader_of_the_task_agrees(task):
    for row in task.generate(3, 40, demonstrated=True):
        assert grade_here(Question(row["answer"], kind="math"), row["solution"]).correct == row["right"]


@TASKS
def test_demonstrations_are_right_at_the_rate_of_their_wording(task):
    rows, number = task.generate(5, 8 * 1000, changes=[4], demonstrated=True), len(task.wordings)
    for place, wording in enumerate(task.wordings):
        share = sum(row["right"] for row in rows[place::number]) / 1000
        assert share == pytest.approx(wording.right_rate, abs=0.06)
    assert all(row["right"] for row in task.generate(5, 80))
    decisions = Counter(row["decision"] for row in rows)
    assert len(set(decisions.values())) == 1


@TASKS
def test_responses_have_150_to_400_tokens(task):
    tokenizer = build_tokenizer(row["problem"] + row["solution"] for row in task.generate(0, 500, changes=range(2, 27)))
    lengths = {
        number: [len(tokenizer(row["solution"])["input_ids"]) for row in task.generate(1, 20, changes=[number])]
        for number in (14, MAX_CHANGES)
    }
    assert min(lengths[14]) >= 150 and max(lengths[MAX_CHANGES]) <= 400


@TASKS
def test_written_splits_are_disjoint_and_only_the_demonstrations_go_wrong(task, tmp_path):
    splits = task.write_task(tmp_path, 1, 40, 20, 60, changes=5, supervised_from=2)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 40, "test": 20, "sft": 60}
    rows = {name: list(map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines())) for name in splits}
    assert len({row["problem"] for part in rows.values() for row in part}) == 120
    assert all(row["right"] for row in rows["train"] + rows["test"]) and not all(row["right"] for row in rows["sft"])
    lines = {name: {len(re.findall("=", row["solution"])) for row in part} for name, part in rows.items()}
    assert lines == {"train": {5}, "test": {5}, "sft": {2, 3, 4, 5}}


@pytest.mark.parametrize(
    "task, known",
    [(PLAN_FIRST, "65a21fd94bb1f0f2"), (CHECK_LAST, "20d69796b78a598f")],
    ids=["plan_first", "check_last"],
)
def test_problems_of_a_seed_stay_what_they_are_in_every_process(task, known):
    """A change here changes every task that was made before: accuracies are no longer comparable."""
    text = "".join(row["problem"] + row["solution"] for row in task.generate(0, 100, demonstrated=True))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == known
    code = (
        f"import sys; from spo_rlhf.tasks.{task.name} import {task.name.upper()} as task; print(*sys.modules, file=sys.stderr);"
        "sys.stdout.write(''.join(row['problem'] + row['solution'] for row in task.generate(0, 100, demonstrated=True)))"
    )
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == text
    assert not {"torch", "numpy", "transformers"} & set(done.stderr.split())


@TASKS
@pytest.mark.parametrize("changes", [1, MAX_CHANGES + 1])
def test_numbers_of_changes_out_of_range(task, changes):
    with pytest.raises(ValueError, match="2 to 26 changes"):
        task.generate(0, 1, changes=[changes])
