"""The training reward: the shared grader behind OpenRLHF's contract, quick, and bounded in a reward process."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.verdict import Question
from spo_rlhf.rollout.reward import FileReward
from spo_rlhf.tasks import math_reward
from spo_rlhf.tasks.arithmetic import PROMPT_TEMPLATE, generate
from spo_rlhf.tasks.math_reward import reward_func
from spo_rlhf.tasks.queries import response_of

PROMPT = "Question: 500 + 734?\nAnswer:\n"
LABELLED = Path(__file__).parents[1] / "graders" / "labelled.jsonl"
SAME = ["1234", "1,234", "$1234", "$1,234.00", " 1234 ", "1234.", "1234.0", "1234%", "+1234", "2468/2", "1234 apples"]
END_TOKENS = [
    *("", "<|endoftext|>", "</s>", "<|im_end|>", "<eos>", "<｜end▁of▁sentence｜>"),
    *("<|im_end|>\n<|endoftext|>", "\n</s>\n", "<|eot_id|>", "<end_of_turn>"),
]


def reward(response: str, label: str, prompt: str = PROMPT) -> float:
    return reward_func([prompt + response], [prompt], [label])["rewards"][0]


@pytest.mark.parametrize("text", SAME)
@pytest.mark.parametrize("label", ["1234", "1,234", r"\boxed{1234}", "1000 + 234 = <<1000+234=1234>>1234\n#### 1,234"])
def test_marks_and_boxes_alike(text, label):
    assert reward(f"500 + 734 = 1234\n#### {text}", label) == 1.0
    assert reward(rf"500 + 734 = 1234, so \boxed{{{text}}}.", label) == 1.0
    assert reward(f"500 + 734 = 1234\n#### 9{text.strip()}", label) == 0.0


@pytest.mark.parametrize("end", END_TOKENS)
def test_end_of_text_tokens_are_no_part_of_the_answer(end):
    assert reward(f"6 * 7 = 42\n#### 42{end}", "42") == 1.0
    assert reward(f"6 * 7 = 42\n#### 43{end}", "42") == 0.0
    assert reward(rf"\boxed{{\frac{{1}}{{2}}}}{end}", "0.5") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        *("", "42", "#### ", "####\n", "#### 6 * 7", "#### 4 2", "#### 42 43", "#### 42 or 43", "#### 42, 43"),
        *("#### 42\n#### 43", "### 42", "#### -42", "#### .", "#### $", "#### 4,2", "#### 0x2a"),
        *("#### 42/0", "#### 4_2", "#### nan", "#### inf", "#### 42.000000001", "#### 41.999999999999999999999"),
        *("#### 42<|endoftext|>43", "#### __import__('os').getpid()", r"\boxed{42", r"\boxed{42}, \boxed{43}"),
        *(r"\boxed{6 \times 7}", r"<think>\boxed{42}", r"<think>\boxed{42}</think>", "The answer is 42."),
    ],
)
def test_no_credit(text):
    assert reward(text, "42") == 0.0


def test_every_labelled_answer_is_rewarded_as_it_is_graded():
    """The reward adds nothing of its own to the grader."""
    cases = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    for case in cases:
        prompt = case.get("problem", "")
        assert reward(case["pred"], case["gold"], prompt) == case["correct"], case


def test_only_the_response_is_graded():
    prompt = "Question: 6 * 7?\n#### 42\n"
    assert reward("I do not know", "42", prompt) == 0.0
    assert reward("#### 42", "42", prompt) == 1.0
    assert reward("#### 41", "42", prompt) == 0.0
    assert reward(r"\boxed{\sqrt{64}}", "8", r"What is $\sqrt{64}$?") == 0.0, "copied from the prompt"
    assert reward(r"\boxed{8}", "8", r"What is $\sqrt{64}$?") == 1.0


def test_a_thought_that_the_prompt_opened():
    prompt = "What is 6 * 7?<|assistant|><think>\n"
    assert reward(r"So \boxed{42}", "42", prompt) == 0.0
    assert reward(r"Hm.</think> So \boxed{42}", "42", prompt) == 1.0


@pytest.mark.parametrize("before", ["<s>", "<s> ", "<|begin_of_text|>"])
def test_a_token_before_the_prompt(before):
    assert response_of(before + "Question\nAnswer:\n#### 42", "Question\nAnswer:\n") == "\n#### 42"
    assert reward_func([f"{before}Q #### 1\n#### 42"], ["Q #### 1\n"], ["42"])["rewards"] == [1.0]


def test_a_query_without_its_prompt_is_an_error_to_see():
    with pytest.raises(ValueError, match="does not contain its prompt"):
        reward_func(["stion: 1 + 1?\n#### 2"], ["Question: 1 + 1?\n"], ["2"])


@pytest.mark.parametrize("label", ["", " ", "$$", "a solution without its end\n#### "])
def test_a_label_without_an_answer_is_an_error_to_see(label):
    with pytest.raises(ValueError, match="label_key"):
        reward("#### 42", label)


def test_lists_of_one_length():
    result = reward_func(["p#### 1", "p#### 2", "p"], ["p"] * 3, ["1", "1", "1"])
    assert result == {"rewards": [1.0, 0.0, 0.0], "scores": [1.0, 0.0, 0.0], "extra_logs": {}}
    assert reward_func([], [], []) == {"rewards": [], "scores": [], "extra_logs": {}}
    with pytest.raises(ValueError, match="zip"):
        reward_func(["p#### 1"], ["p"], [])


def test_reference_solutions_of_the_arithmetic_task():
    rows = generate(0, 300)
    prompts = [PROMPT_TEMPLATE.format(row["problem"]) for row in rows]
    queries = [prompt + row["solution"] + "<|endoftext|>" for prompt, row in zip(prompts, rows, strict=True)]
    assert reward_func(queries, prompts, [row["answer"] for row in rows])["rewards"] == [1.0] * 300
    assert reward_func(queries, prompts, [row["solution"] for row in rows])["rewards"] == [1.0] * 300
    wrong = [str(int(row["answer"]) + 1) for row in rows]
    assert reward_func(queries, prompts, wrong)["rewards"] == [0.0] * 300


@given(gold=st.integers(-(10**19), 10**19), answer=st.integers(-(10**19), 10**19), zeros=st.integers(0, 3))
def test_the_fast_path_says_what_the_slow_one_says(gold, answer, zeros):
    for said in (gold, answer, -gold):
        text = f"{'-' * (said < 0)}{'0' * zeros}{abs(said)}"
        question = Question(str(gold))
        fast, slow = grade_here(question, f"#### {text}"), grade_here(question, f"#### {text}.0")
        assert fast.correct == slow.correct == (said == gold)


@given(response=st.text(alphabet="0123456789#.,-+$%/ \n\0<>|s{}\\boxed"), label=st.integers())
def test_any_text_gets_0_or_1(response, label):
    assert reward(response, str(label)) in (0.0, 1.0)


def test_short_answers_take_less_than_a_millisecond():
    """An iteration of the quickstart grades a few thousand. Ten times the time measured on an idle core is allowed."""
    body = PROMPT + "500 + 734 = 1234\n" * 4
    for response in ("#### 1234<|endoftext|>", "#### 1235<|endoftext|>", r"\boxed{1234}", "no answer"):
        start = time.perf_counter()
        reward_func([body + response] * 500, [PROMPT] * 500, ["1234"] * 500)
        assert (time.perf_counter() - start) / 500 < 1e-3, response


def test_in_the_trainers_reward_processes():
    """Loaded by its path; an answer that takes too long costs its own reward and nothing else."""
    pool = FileReward(math_reward.__file__, workers=1, timeout_s=2)

    async def grade(*pairs: tuple[str, str]) -> list[float]:
        return [(await pool(PROMPT + response, PROMPT, label)).reward for response, label in pairs]

    try:
        slow = (r"\boxed{(a+b+c+d+e+f+g+h)^{200}}", "x^2+1")
        right = (r"\boxed{\sqrt{8}}", r"2\sqrt{2}")
        assert asyncio.run(grade(right, slow, right, ("#### 3", "2"))) == [1.0, 0.0, 1.0, 0.0]
        assert pool.counts.timeouts == 1
    finally:
        pool.close()
