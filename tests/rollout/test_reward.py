"""Reward files: what is graded and how, what is refused in one line, and what a slow one costs."""

import asyncio
import math
from pathlib import Path

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.rollout import reward_worker
from spo_rlhf.rollout.protocol import Grade
from spo_rlhf.rollout.reward import FileReward, PromptGrader, RewardCounts
from spo_rlhf.rollout.reward_worker import RewardFileError

HEAD = "def reward_func(queries, prompts, labels):\n    "
# The query itself says what the reward process does with it.
OBEDIENT = """\
import os, time
def reward_func(queries, prompts, labels):
    [query] = queries
    if "sleep" in query:
        time.sleep(60)
    if "die" in query:
        os._exit(3)
    if "raise" in query:
        raise ValueError("not\\ngradable")
    return {"rewards": [float(query.endswith(labels[0]))], "scores": [0.5], "extra_logs": {"length": [len(query)]}}
"""


def write(folder: Path, source: str) -> str:
    path = folder / "reward.py"
    path.write_text(source, encoding="utf-8")
    return str(path)


def graded_by(folder: Path, source: str) -> tuple[float, float, dict[str, float]]:
    """What the reward file says of a response, asked in this process."""
    reward_worker.load(write(folder, source))
    return reward_worker.grade("1+1? 2", "1+1? ", "2")


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    with FileReward(write(tmp_path_factory.mktemp("reward"), OBEDIENT), workers=2, timeout_s=0.5) as reward:
        yield reward


@pytest.mark.parametrize(
    ("returned", "grade"),
    [
        ("{'rewards': [1.0]}", (1.0, 1.0, {})),
        ("{'rewards': 1}", (1.0, 1.0, {})),
        ("{'rewards': (True,), 'scores': [0.25]}", (1.0, 0.25, {})),
        ("{'rewards': [0.5], 'extra_logs': {'n': [3], 7: 2}}", (0.5, 0.5, {"n": 3.0, "7": 2.0})),
        ("{'rewards': [0.5], 'scores': None, 'extra_logs': None}", (0.5, 0.5, {})),
        ("{'rewards': numpy.array([0.5])}", (0.5, 0.5, {})),
        ("{'rewards': numpy.float32(0.5)}", (0.5, 0.5, {})),
        ("{'rewards': [len(queries[0]) - len(prompts[0]) - len(labels[0])]}", (0.0, 0.0, {})),
    ],
)
def test_a_grade_is_read_from_lists_arrays_and_numbers(tmp_path, returned, grade):
    assert graded_by(tmp_path, f"import numpy\n{HEAD}return {returned}\n") == grade


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import nothing_of_that_name\n", "importing it raised ModuleNotFoundError: No module named"),
        ("def reward_func(:\n", "importing it raised SyntaxError"),
        ("raise SystemError\n", "importing it raised SystemError"),
        ("def reward(queries):\n    return 1\n", "no function reward_func(queries, prompts, labels)"),
        ("reward_func = 3\n", "no function reward_func"),
        (HEAD + "return 1 / 0\n", "reward_func raised ZeroDivisionError: division by zero"),
        (HEAD + "raise ValueError('one\\ntwo')\n", "reward_func raised ValueError: one"),
        (HEAD + "return [0.0]\n", 'must return a dict with "rewards", got list'),
        (HEAD + "return {'scores': [0.0]}\n", 'must return a dict with "rewards", got dict'),
        (HEAD + "return {'rewards': [0.0, 1.0]}\n", "returned 2 rewards for 1 query"),
        (HEAD + "return {'rewards': []}\n", "returned 0 rewards for 1 query"),
        (HEAD + "return {'rewards': ['good']}\n", "returned 'good' as rewards: return one number"),
        (HEAD + "return {'rewards': [None]}\n", "returned None as rewards"),
        (HEAD + "return {'rewards': [10**400]}\n", "reward_func returned 10000"),
        (HEAD + "return {'rewards': [float('nan')]}\n", "returned nan as rewards: return a finite number"),
        (HEAD + "return {'rewards': [0.0], 'scores': [float('inf')]}\n", "returned inf as scores"),
        (HEAD + "return {'rewards': [0.0], 'extra_logs': {'n': [1, 2]}}\n", "returned 2 extra_logs['n'] for 1 query"),
    ],
)
def test_a_wrong_reward_file_is_told_in_one_line(tmp_path, source, says):
    with pytest.raises(RewardFileError) as refusal:
        graded_by(tmp_path, source)
    assert says in str(refusal.value) and "\n" not in str(refusal.value)


def test_many_grades_at_a_time(reward):
    futures = [reward.submit(f"q{number}", "q", "7") for number in range(20)]
    grades = [future.result(timeout=30) for future in futures]
    assert grades == [
        Grade(reward=float(number % 10 == 7), score=0.5, logs={"length": len(f"q{number}")}) for number in range(20)
    ]


def test_a_reward_that_takes_too_long_is_0_counted_and_costs_no_other(reward):
    before = reward.counts.timeouts
    slow = [reward.submit("sleep", "", "") for _ in range(2)]
    after = reward.submit("q7", "", "7")
    assert [future.result(timeout=30) for future in slow] == [Grade(reward=0.0, score=0.0)] * 2
    assert reward.counts.timeouts == before + 2 and after.result(timeout=30).reward == 1


def test_a_reward_that_raises_or_dies_is_the_users_to_mend(reward):
    with pytest.raises(UserError, match=r"--reward.remote_url .*reward.py: .*raised ValueError: not$"):
        reward.submit("raise", "", "").result(timeout=30)
    with pytest.raises(UserError, match=r"reward.py: the worker died \(exit code 3\)"):
        reward.submit("die", "", "").result(timeout=30)


def test_a_supervised_reward_counts_what_it_would_refuse(tmp_path):
    """A dead process is a 0 that is counted, and numbers that are not finite are handed on; what raises stays a UserError."""
    source = OBEDIENT.replace("float(query.endswith(labels[0]))", "float(query) if query in ('nan', 'inf') else 1.0")
    with FileReward(write(tmp_path, source), workers=2, timeout_s=0.5, supervised=True) as reward:
        grades = [reward.submit(query, "", "7").result(timeout=30) for query in ("die", "sleep", "nan", "inf", "q7")]
        assert [grade.reward for grade in grades[:2]] == [0.0, 0.0]
        assert math.isnan(grades[2].reward) and math.isinf(grades[3].reward) and grades[4].reward == 1
        assert reward.counts == RewardCounts(rewards=5, timeouts=1, crashes=1)
        with pytest.raises(UserError, match="raised ValueError: not$"):
            reward.submit("raise", "", "").result(timeout=30)


def test_awaited_it_gives_the_same_grades(reward):
    async def grades() -> list:
        return await asyncio.gather(
            *(reward(query, "", "7") for query in ("q7", "q8", "raise")), return_exceptions=True
        )

    right, wrong, refused = asyncio.run(grades())
    assert (right.reward, wrong.reward) == (1, 0) and isinstance(refused, UserError)


def test_what_is_no_longer_awaited_is_not_graded(tmp_path):
    with FileReward(write(tmp_path, OBEDIENT), workers=1, timeout_s=0.5) as reward:
        busy, queued, last = (
            reward.submit("sleep", "", ""),
            reward.submit("sleep", "", ""),
            reward.submit("q7", "", "7"),
        )
        assert queued.cancel()
        assert (busy.result(timeout=30).reward, last.result(timeout=30).reward) == (0, 1)
        assert reward.counts.timeouts == 1, "the one that was cancelled took no time"


def test_closing_answers_what_waits_and_takes_no_more(tmp_path):
    with FileReward(write(tmp_path, OBEDIENT), workers=1, timeout_s=60) as reward:
        futures = [reward.submit("sleep", "", "") for _ in range(3)]
    for future in futures:
        with pytest.raises(UserError, match="the worker pool was closed"):
            future.result(timeout=5)
    with pytest.raises(RuntimeError):
        reward.submit("q", "", "")
    reward.close()


def test_a_query_is_the_prompts_own_text_and_the_decoded_response(reward):
    grader = PromptGrader(reward, lambda ids: "".join(map(str, ids)), "prompt ", "42")
    assert asyncio.run(grader.grade([4, 2])) == Grade(1.0, 0.5, {"length": float(len("prompt 42"))})
