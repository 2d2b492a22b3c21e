r"""Where subsentences end: an independent reading of the rule by regular expressions, examples, and both answers to "3."."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.core.partition import subsentence_boundaries
from spo_rlhf.core.subsentence import MARKS, ends

# No letter stands before a point that a digit follows here, so every such point is a number's.
PIECES = [
    "a",
    "so",
    " ",
    "\n",
    "3",
    "14",
    ".",
    ",",
    "?",
    ";",
    "，",
    "。",
    " .",
    "(",
    "3.14",
    "1,000",
    "b, ",
    ". ",
    '."',
]
text_lists = st.lists(st.sampled_from(PIECES), min_size=1, max_size=30).filter(
    lambda text_T: not re.search(r'[a-z(",.?;，。"]\.\d', "".join(text_T))
)


def reference_ends(text_T: list[str]) -> list[bool]:
    """The token of every mark of the whole text that is not the point or comma of a number."""
    text = "".join(text_T)
    owner = [token for token, piece in enumerate(text_T) for _ in piece]
    in_number = {match.start() for match in re.finditer(r"(?<=\d)[.,](?=\d)|(?<![^\s(])\.(?=\d)", text)}
    closing = {owner[i] for i, character in enumerate(text) if character in MARKS and i not in in_number}
    return [token in closing for token in range(len(text_T))]


@given(text_lists)
def test_ends_are_the_marks_outside_numbers(text_T) -> None:
    assert ends(text_T, late=False) == reference_ends(text_T)


@given(text_lists, text_lists)
def test_late_ends_depend_on_the_past_alone_and_lag_by_one_token_at_most(text_T, continuation) -> None:
    late_T = ends(text_T + continuation, late=True)
    assert late_T[: len(text_T)] == ends(text_T, late=True)
    at_once_T = ends(text_T + continuation, late=False)
    for token, (late, at_once) in enumerate(zip(late_T, at_once_T)):
        assert not late or at_once or at_once_T[token - 1]
        assert not at_once or late or token + 1 == len(late_T) or late_T[token + 1]


def marked(text_T: list[str], late: bool) -> str:
    boundary_K = subsentence_boundaries(text_T, late=late)
    return "|".join("".join(text_T[b:end]) for b, end in zip(boundary_K, boundary_K[1:]))


@pytest.mark.parametrize(
    ("tokens", "at_once", "late"),
    [
        ("He| has| 3|.|14|,| and| so| on|.", "He has 3.14,| and so on.", "He has 3.14, and| so on."),
        ("It| is| 1|,|000|.|\n|So", "It is 1,000.|\nSo", "It is 1,000.\n|So"),
        ("=| 12|.| So| we", "= 12.| So we", "= 12. So| we"),
        ("a|.|\n|\n|b|,|c", "a.|\n\nb,|c", "a.|\n\nb,|c"),
        ('He said|: |"no!"| Then', 'He said: |"no!"| Then', 'He said: |"no!"| Then'),
        ("你好|，|世界|。|好", "你好，|世界。|好", "你好，|世界。|好"),
        ("costs| $|.|50|;| ok", "costs $.50;| ok", "costs $.50;| ok"),
        ("?|!|a", "?!a", "?!a"),
    ],
)
def test_examples(tokens, at_once, late) -> None:
    assert marked(tokens.split("|"), late=False) == at_once
    assert marked(tokens.split("|"), late=True) == late


@pytest.mark.parametrize(
    "text",
    [
        r"\text{if x, then y; z}",
        r"\frac{1,000}{2.5, 3}",
        r"\sqrt[3, 4]{a, b}",
        r"\boxed{\text{a, b}, c}",
        r"\operatorname*{arg, max}",
        r"x_{i,j}^{1, 2}",
        r"a \, b \; c \! d \: e",
        r"\left. a \right, b",
        r"\bigl. x \bigr;",
        r"\text{\}, }",
        r"\sqrt[\text{a, b}, 3]{c}",
    ],
)
def test_no_end_inside_a_latex_command(text) -> None:
    for cut in (1, 3, len(text)):  # the command may be spread over tokens in any way
        text_T = [text[i : i + cut] for i in range(0, len(text), cut)]
        assert not any(ends([*text_T, " z"], late=False)) and not any(ends([*text_T, " z"], late=True))
        assert ends([*text_T, ", "], late=False)[-1], "it ends again behind the command"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\pi, b \alpha.c", r"\pi,| b \alpha.|c"),
        (r"x \in [0, 1), y", r"x \in [0,| 1),| y"),
        (r"{1, a}", r"{1,| a}"),
        (r"\,a{1, b}", r"\,a{1,| b}"),
        (r"\1a{1, b}", r"\1a{1,| b}"),
        ("\\text{open, and\n\nthen, x", "\\text{open, and\n\n|then,| x"),
    ],
)
def test_ends_beside_latex_commands(text, expected) -> None:
    assert marked(list(text), late=False) == expected
