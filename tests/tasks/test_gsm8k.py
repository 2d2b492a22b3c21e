"""The reward: what counts as the answer, what never does, and that no text can stop it."""

import importlib.util
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.tasks import gsm8k
from spo_rlhf.tasks.arithmetic import PROMPT_TEMPLATE, generate
from spo_rlhf.tasks.gsm8k import is_correct, parse_number, response_of, reward_func

SAME = [
    *("1234", "1,234", "$1234", "$1,234.00", " 1234 ", "1234.", "1234.0"),
    *("1,234.", "1234%", "1234 %", "+1234", "2468/2"),
]
END_TOKENS = [
    *("<|endoftext|>", "</s>", "<|im_end|>", "<eos>", "<｜end▁of▁sentence｜>"),
    *("<|im_end|>\n<|endoftext|>", "\n</s>\n"),
]


def reward(response: str, label: str, prompt: str = "Question: 1 + 1?\nAnswer:\n") -> float:
    return reward_func([prompt + response], [prompt], [label])["rewards"][0]


@pytest.mark.parametrize("text", SAME)
@pytest.mark.parametrize("label", [*SAME, "1000 + 234 = <<1000+234=1234>>1234\n#### 1,234"])
def test_ways_to_write_one_number(text, label):
    assert reward(f"500 + 734 = 1234\n#### {text}", label) == 1.0


@pytest.mark.parametrize("end", END_TOKENS)
def test_end_of_text_tokens_are_no_part_of_the_answer(end):
    assert reward(f"6 * 7 = 42\n#### 42{end}", "42") == 1.0
    assert reward(f"6 * 7 = 42\n#### 43{end}", "42") == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",  # no mark
        "#### ",
        "####\n",
        "#### forty-two",
        "#### 42 apples",
        "#### x = 42",
        "#### 6 * 7",
        "#### 4 2",
        "#### 42 43",
        "#### 42 or 43",
        "#### 42, 43",
        "#### 42\n43",
        "#### 42\n#### 42",
        "#### 42 #### 42",
        "#### 41 #### 42",
        "#### 42 ####",
        "########42",
        "##### 42",
        "### 42",
        "# # # # 42",
        "#### --42",
        "#### -42",
        "#### 4.2e1",
        "#### 42..",
        "#### .",
        "#### $",
        "#### %",
        "#### 4,2",
        "#### ,42",
        "#### 42,",
        "#### 0x2a",
        "#### 42/0",
        "#### 42_",
        "#### 4_2",
        "#### ٤٢",
        "#### (42)",
        "#### nan",
        "#### inf",
        "#### 42.000000001",
        "#### 41.999999999999999999999",
        "#### 42<|endoftext|>43",
        "#### __import__('os').getpid()",
    ],
)
def test_no_credit(text):
    assert reward(text, "42") == 0.0


def test_numbers_are_compared_exactly():
    assert reward("#### 0.3", "0.30") == 1.0
    assert reward("#### 0.1", "0.1000000000000000055511151231257827") == 0.0
    assert reward("#### 9007199254740993", "9007199254740992") == 0.0  # one double for both
    assert reward("#### 2/6", "1/3") == 1.0 and reward("#### 0.3333333333", "1/3") == 0.0
    assert reward("#### -0", "0") == 1.0
    assert reward("#### -$5", "$-5") == 1.0 and reward("#### -$-5", "5") == 0.0


def test_only_the_response_is_graded():
    prompt = "Question: 6 * 7?\n#### 42\n"
    assert reward("I do not know", "42", prompt) == 0.0
    assert reward("#### 42", "42", prompt) == 1.0
    assert reward("#### 41", "42", prompt) == 0.0
    assert reward(prompt + "#### 42", "42", prompt) == 0.0, "a repeated prompt belongs to the response"


@pytest.mark.parametrize("before", ["<s>", "<s> ", "<|begin_of_text|>"])
def test_a_token_before_the_prompt(before):
    assert response_of(before + "Question\nAnswer:\n#### 42", "Question\nAnswer:\n") == "\n#### 42"
    assert reward_func([f"{before}Q #### 1\n#### 42"], ["Q #### 1\n"], ["42"])["rewards"] == [1.0]


def test_a_query_without_its_prompt_is_an_error_to_see():
    with pytest.raises(ValueError, match="does not contain its prompt"):
        reward_func(["stion: 1 + 1?\n#### 2"], ["Question: 1 + 1?\n"], ["2"])


@pytest.mark.parametrize("label", ["", "none", "#### ", "42 apples"])
def test_a_label_without_a_number_is_an_error_to_see(label):
    with pytest.raises(ValueError, match="label_key"):
        reward("#### 42", label)


def test_lists_of_one_length():
    result = reward_func(["p#### 1", "p#### 2", "p"], ["p"] * 3, ["1", "1", "1"])
    assert result == {"rewards": [1.0, 0.0, 0.0], "scores": [1.0, 0.0, 0.0], "extra_logs": {}}
    assert reward_func([], [], []) == {"rewards": [], "scores": [], "extra_logs": {}}
    with pytest.raises(ValueError):
        reward_func(["p#### 1"], ["p"], [])


def test_reference_solutions_of_the_arithmetic_task():
    rows = generate(0, 300)
    prompts = [PROMPT_TEMPLATE.format(row["problem"]) for row in rows]
    queries = [prompt + row["solution"] + "<|endoftext|>" for prompt, row in zip(prompts, rows, strict=True)]
    assert reward_func(queries, prompts, [row["answer"] for row in rows])["rewards"] == [1.0] * 300
    assert reward_func(queries, prompts, [row["solution"] for row in rows])["rewards"] == [1.0] * 300
    wrong = [str(int(row["answer"]) + 1) for row in rows]
    assert reward_func(queries, prompts, wrong)["rewards"] == [0.0] * 300


@given(value=st.fractions(), grouped=st.booleans(), end=st.sampled_from(["", *END_TOKENS]))
def test_fractions_survive(value, grouped, end):
    numerator = f"{value.numerator:,}" if grouped else str(value.numerator)
    text = f"{numerator}/{value.denominator}{end}"
    assert parse_number(text) == (value if len(text) - len(end) <= 100 else None)


@given(value=st.decimals(allow_nan=False, allow_infinity=False, places=4))
def test_decimals_survive(value):
    assert parse_number(f"{value:f}") == parse_number(f"${value:,f} ") == Fraction(value)


@given(response=st.text(alphabet="0123456789#.,-+$%/ \n\0<>|s"), label=st.integers())
def test_any_text_gets_0_or_1(response, label):
    score = reward(response, str(label))
    assert score in (0.0, 1.0)
    assert score == 0.0 or (response.count("####") == 1 and parse_number(response.split("####")[1]) == label)


@pytest.mark.parametrize(
    "piece",
    [
        *("9", "\0", " ", "\n", "#", "####", "#### ", ",", "1,234", "<", "<a", "<a>", "<|", " <|a|>", "< "),
        *("-", "$", "/", ".", "%", "(", "é", "\ud7ff"),
    ],
)
def test_a_million_characters_take_no_time(piece):
    text = piece * (1_000_000 // len(piece))
    start = time.perf_counter()
    for response in (text, "####" + text, "#### 42" + text, "####" + text + "42", "#### 42" + text + "!"):
        reward(response, "43")
    parse_number("4" + text)
    assert time.perf_counter() - start < 5


def test_the_file_stands_alone(tmp_path):
    """Loaded by path, with nothing but the standard library to import."""
    copy = tmp_path / "reward.py"
    copy.write_text(Path(gsm8k.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("reward_func", copy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.reward_func(["p#### 1"], ["p"], ["1"])["rewards"] == [1.0]
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import reward; "
    code += "print(reward.reward_func(['p#### 1'], ['p'], ['1'])['rewards'])"
    isolated = [sys.executable, "-I", "-S", "-c", code]  # without site-packages
    done = subprocess.run(isolated, capture_output=True, text=True)
    assert done.stdout == "[1.0]\n", done.stderr


def test_is_correct_reads_a_whole_solution_as_label():
    assert is_correct("#### 70,000", "80,000 * 1.5 = <<80000*1.5=120000>>120,000\n#### 70,000")
