"""The generated problems: right, different, disjoint, balanced, and the same everywhere."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spo_rlhf.tasks.arithmetic import MAX_STEPS, generate, write_task

STEP_RANGES = st.tuples(st.integers(2, 8), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def steps_of(row: dict) -> list[tuple[int, str, int, int]]:
    lines = [re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", line).groups() for line in row["solution"].splitlines()[:-1]]
    return [(int(left), sign, int(right), int(result)) for left, sign, right, result in lines]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), steps=STEP_RANGES)
def test_every_line_is_right_and_follows_from_the_one_before(seed, steps):
    for row in generate(seed, 12, min_steps=steps[0], max_steps=steps[1]):
        chain = steps_of(row)
        assert len(chain) == row["steps"]
        for left, sign, right, result in chain:
            exact = {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[sign]
            assert exact == result
            assert 1 < result < 100 and right > 1
        assert [result for *_, result in chain[:-1]] == [left for left, *_ in chain[1:]]
        assert row["solution"].splitlines()[-1] == f"#### {row['answer']}" == f"#### {chain[-1][-1]}"


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), steps=STEP_RANGES)
def test_the_problem_states_every_operand_in_order(seed, steps):
    words = {"half": 2, "third": 3, "twice": 2, "three": 3}
    for row in generate(seed, 12, min_steps=steps[0], max_steps=steps[1]):
        chain = steps_of(row)
        said = [word for word in re.findall(r"\w+", row["problem"]) if word in words or word.isdecimal()]
        stated = [words.get(word) or int(word) for word in said]
        remaining = iter(stated)
        assert all(operand in remaining for operand in [chain[0][0], *(right for _, _, right, _ in chain)])
        assert len(chain) + 1 <= len(stated) <= len(chain) + 2, "at most one number that plays no part"


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 60), steps=STEP_RANGES)
def test_problems_differ_and_step_counts_are_balanced(seed, count, steps):
    rows = generate(seed, count, min_steps=steps[0], max_steps=steps[1])
    assert len({row["problem"] for row in rows}) == len({row["id"] for row in rows}) == count
    counts = Counter(row["steps"] for row in rows)
    assert set(counts) <= set(range(steps[0], steps[1] + 1))
    assert max(counts.values(), default=0) - min(counts[step] for step in range(steps[0], steps[1] + 1)) <= 1


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), steps=st.integers(2, 3))
def test_excluded_problems_never_come_back(seed, steps):
    excluded = frozenset(row["problem"] for row in generate(seed, 50, min_steps=steps, max_steps=steps))
    rows = generate(seed, 50, min_steps=steps, max_steps=steps, exclude=excluded)
    assert len(rows) == 50 and not excluded & {row["problem"] for row in rows}


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), counts=st.tuples(*[st.integers(1, 40)] * 3))
def test_written_splits_are_disjoint_and_complete(seed, counts, tmp_path_factory):
    directory = tmp_path_factory.mktemp("task")
    train, test, sft = counts
    splits = write_task(directory, seed, train, test, sft, min_steps=2, max_steps=3)
    lines = {name: (directory / f"{name}.jsonl").read_text(encoding="utf-8").splitlines() for name in splits}
    rows = {name: list(map(json.loads, part)) for name, part in lines.items()}
    assert {name: len(part) for name, part in rows.items()} == {"train": train, "test": test, "sft": sft}
    assert len({row["problem"] for part in rows.values() for row in part}) == train + test + sft
    assert len({row["id"] for part in rows.values() for row in part}) == train + test + sft
    assert all(set(row) == {"id", "problem", "solution", "answer", "steps"} for part in rows.values() for row in part)


def test_held_out_problems_do_not_depend_on_the_number_of_others(tmp_path):
    held_out = []
    for train, sft in ((5, 7), (50, 1)):
        write_task(tmp_path, 3, train, 20, sft)
        held_out.append((tmp_path / "test.jsonl").read_bytes())
    assert held_out[0] == held_out[1]


def test_the_same_seed_gives_the_same_problems_in_another_process():
    code = "import sys; from spo_rlhf.tasks.arithmetic import generate; sys.stdout.write(repr(generate(7, 200)))"
    for hash_seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        assert done.stdout == repr(generate(7, 200))


def test_problems_of_a_seed_stay_what_they_are():
    """A change here changes every task that was made before: accuracies are no longer comparable."""
    text = "".join(row["problem"] + row["solution"] for row in generate(0, 100))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "a07328c7bef61cb3"


def test_seeds_differ():
    assert not {row["problem"] for row in generate(0, 50)} & {row["problem"] for row in generate(1, 50)}


def test_long_problems():
    rows = generate(0, 10, min_steps=8, max_steps=12)
    assert [row["steps"] for row in rows] == [8, 9, 10, 11, 12] * 2


@pytest.mark.parametrize("steps", [(1, 6), (4, 3), (2, MAX_STEPS + 1)])
def test_step_counts_out_of_range(steps):
    with pytest.raises(ValueError, match="steps"):
        generate(0, 1, min_steps=steps[0], max_steps=steps[1])


def test_needs_the_standard_library_only():
    code = "import sys; import spo_rlhf.tasks.arithmetic; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "transformers", "tokenizers"} & set(done.stdout.split())
