"""The adapter of reasoning-gym: without the package it says so, with it problems and scores are the package's own."""

import importlib.util
import json

import pytest

from spo_rlhf.host.files import read_jsonl
from spo_rlhf.rollout.reward import FileReward
from spo_rlhf.tasks import gym_tasks

needs_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None,
    reason="reasoning-gym is not installed (pip install reasoning-gym)",
)


def test_without_the_package_the_command_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    assert gym_tasks.main(["--task", "leg_counting", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("error: reasoning-gym is not installed: pip install reasoning-gym\n")


def test_the_last_answer_counts_and_consolation_does_not(monkeypatch):
    scores = {"4": 1.0, "close": 0.5, "form": 0.01}
    monkeypatch.setattr(gym_tasks, "scorer", lambda task: lambda answer, entry: scores.get(answer, 0.0))
    label = json.dumps({"task": "sums", "entry": {"question": "2 + 2?", "answer": "4"}})
    for response, value in (
        ("<answer>5</answer> no, <answer> 4 </answer>", 1.0),
        ("<answer>4</answer> no, <answer>5</answer>", 0.0),
        ("<answer>close</answer>", 0.5),
        ("<answer>form</answer>", 0.0),
        ("<answer>4", 0.0),
        ("4", 0.0),
    ):
        assert gym_tasks.score(response, label) == value, response
    with pytest.raises(ValueError, match="--data.label_key label"):
        gym_tasks.score("<answer>4</answer>", "4")


@needs_gym
def test_its_own_answers_are_right_in_the_reward_process(tmp_path):
    options = ["--task", "leg_counting", "--train", "12", "--test", "6", "--output", str(tmp_path)]
    assert gym_tasks.main([*options, "--settings", '{"max_animals": 3}']) == 0
    train, test = (list(read_jsonl(tmp_path / f"{name}.jsonl")) for name in ("train", "test"))
    assert len(test) == 6 and not {row["problem"] for row in train} & {row["problem"] for row in test}
    with FileReward(gym_tasks.__file__, workers=1, timeout_s=30) as reward:
        row = train[0]
        right = reward.submit(f"{row['problem']} <answer>{row['answer']}</answer>", row["problem"], row["label"])
        wrong = reward.submit(f"{row['problem']} <answer>-1</answer>", row["problem"], row["label"])
        assert (right.result().reward, wrong.result().reward) == (1.0, 0.0)


@needs_gym
def test_unknown_tasks_and_settings_are_one_line(tmp_path, capsys):
    assert gym_tasks.main(["--task", "leg_countin", "--output", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert gym_tasks.main(["--task", "leg_counting", "--settings", '{"legs": 1}', "--output", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
