"""Values of steps from the reward function: what is refused, where they stand among tokens, what they change."""

from pathlib import Path

import numpy as np
import pytest

from spo_rlhf.rollout import reward_worker, steps
from spo_rlhf.rollout.protocol import Grade
from spo_rlhf.rollout.reward import FileReward
from spo_rlhf.rollout.reward_worker import RewardFileError, steps_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "rewards" / "step_rewards.py"


@pytest.mark.parametrize(
    ("response", "returned", "found"),
    [
        ("a\nbc\n", [1, 2], ((2, 1.0), (5, 2.0))),
        ("\n a\n\nbc", [0.5, -1], ((4, 0.5), (7, -1.0))),
        ("abc", [[1, 2], (3, 0.0)], ((1, 2.0), (3, 0.0))),
        ("abc", [], None),
        ("  ", [], ()),
        ("abc", np.array([0.25]), ((3, 0.25),)),
    ],
)
def test_steps_are_lines_or_positions(response, returned, found):
    if found is None:
        with pytest.raises(RewardFileError, match="0 steps for a response of 1 lines"):
            steps_of([returned], response)
    else:
        assert steps_of([returned], response) == found


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ([1.0], "as the steps of a query"),
        ([[1.0], [1.0]], "one list per query"),
        ("steps", "one list per query"),
        ([[1.0, 2.0]], "2 steps for a response of 1 lines"),
        ([[[0, 1.0]]], "ends at 0"),
        ([[[4, 1.0]]], "a response of 3 characters"),
        ([[[2, 1.0], [2, 1.0]]], "let them rise"),
        ([[[2, 1.0], 3]], "return [characters, value]"),
        ([[[2, float("nan")]]], "finite"),
        ([["much"]], "'much' as the value of a step"),
        ([[[True, 1.0]]], "ends at True"),
    ],
)
def test_what_is_no_step_is_one_line(returned, says):
    with pytest.raises(RewardFileError) as error:
        steps_of(returned, "abc")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_reward_process_hands_steps_on(tmp_path):
    source = "def reward_func(queries, prompts, labels):\n    return {'rewards': [1], 'steps': [[0.5, 1]]}"
    (tmp_path / "reward.py").write_text(source)
    with FileReward(str(tmp_path / "reward.py"), workers=1, timeout_s=10) as reward:
        assert reward.submit("Q: a\nb", "Q: ", "").result() == Grade(1.0, 1.0, {}, ((2, 0.5), (3, 1.0)))


def test_a_step_ends_with_the_token_of_its_last_character():
    assert steps.token_ends([(1, 0), (2, 0), (5, 0), (9, 0)], ["ab", "", "cde", "f"]) == [1, 1, 3, 4]


def test_rewards_go_to_the_segment_in_which_their_step_ends():
    assert steps.segment_rewards([1, 2, 4], [1, 3, 3], [0, 1, 2, 4]).tolist() == [1, 0, 6]


def test_a_value_is_that_of_the_last_step_before_the_boundary():
    boundaries, values = steps.valued([0.25, 0.75], [2, 5], [0, 1, 2, 4, 5, 6])
    assert boundaries == [0, 2, 4, 5, 6] and [one.mean for one in values] == [0.25, 0.25, 0.75]
    assert steps.valued([], [], [0, 3, 6]) == ([0, 6], [])


def test_the_example_grades_lines():
    reward_worker.load(str(EXAMPLE))
    response = "1 + 1 = 2\n2 + 2 = 5\nso\n#### 5"
    reward, _, _, found = reward_worker.grade(f"1 + 1 + 3?\n{response}", "1 + 1 + 3?\n", "5")
    assert reward == 1.0 and [value for _, value in found] == [0.1, -0.1, 0.0, 0.0]
