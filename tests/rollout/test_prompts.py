"""From a row to token ids, under the conventions that tokenizers have."""

import pytest
from letters import BOS, CHAT, EOS, TURN, make_tokenizer, spelled

from spo_rlhf.errors import UserError
from spo_rlhf.rollout.prompts import PromptFormat, PromptTokenizer, standard_template

PLAIN, CHATTING = PromptFormat(template="U: {}\nA:"), PromptFormat(chat=True)
ASKED, IN_CHAT = "U: 1+1?\nA:", f"user: 1+1?{TURN}assistant:"
CONVENTIONS = [
    ("begins every text", dict(before=BOS), PLAIN, BOS + ASKED),
    ("adds nothing", dict(), PLAIN, ASKED),
    ("has no beginning at all", dict(bos_token=None), PLAIN, ASKED),
    ("ends every text", dict(behind=EOS), PLAIN, ASKED),
    ("begins and ends every text", dict(before=BOS, behind=EOS), PLAIN, BOS + ASKED),
    ("pads with its end", dict(before=BOS, pad_token=EOS), PLAIN, BOS + ASKED),
    ("chat that writes the beginning", dict(before=BOS, chat_template="{{ bos_token }}" + CHAT), CHATTING, BOS + IN_CHAT),
    ("chat that writes none", dict(before=BOS, chat_template=CHAT), CHATTING, IN_CHAT),
    ("chat that ends turns with another token than texts", dict(chat_template=CHAT, pad_token=EOS), CHATTING, IN_CHAT),
]  # fmt: skip


@pytest.mark.parametrize(
    ("convention", "form", "reads"), [one[1:] for one in CONVENTIONS], ids=[one[0] for one in CONVENTIONS]
)
def test_a_prompt_begins_once_and_as_its_tokenizer_begins_texts(convention, form, reads):
    tokenizer = make_tokenizer(**convention)
    text = form.text("1+1?", tokenizer)
    ids_of = PromptTokenizer(tokenizer, chat=form.chat)
    [ids] = ids_of([text])
    assert spelled(tokenizer, ids) == reads and not ids_of.is_doubled(text)
    longer = form.text("1+1? or 2+2?", tokenizer)
    assert ids_of([text, longer])[0] == ids, "ids depend on what else is asked for, by padding say"


@pytest.mark.parametrize(
    ("settings", "chat", "text", "reads"),
    [
        (dict(before=BOS), False, BOS + ASKED, BOS + ASKED),
        (dict(), False, BOS + BOS + ASKED, BOS + ASKED),
        (dict(before=BOS), True, BOS + BOS + IN_CHAT, BOS + IN_CHAT),
    ],
)
def test_a_beginning_that_would_be_there_twice_is_there_once_and_told(settings, chat, text, reads):
    tokenizer = make_tokenizer(**settings)
    ids_of = PromptTokenizer(tokenizer, chat=chat)
    assert ids_of.is_doubled(text)
    assert spelled(tokenizer, ids_of([text])[0]) == reads


def test_a_beginning_inside_a_text_stays():
    tokenizer = make_tokenizer(before=BOS)
    assert spelled(tokenizer, PromptTokenizer(tokenizer, chat=False)(["a" + BOS])[0]) == BOS + "a" + BOS


def test_no_texts_have_no_ids():
    assert PromptTokenizer(make_tokenizer(), chat=False)([]) == []


def test_the_system_prompt_is_the_first_message_and_messages_stay_as_they_are():
    tokenizer = make_tokenizer(chat_template=CHAT)
    form = PromptFormat(chat=True, system="be brief")
    assert form.text("1+1?", tokenizer) == f"system: be brief{TURN}user: 1+1?{TURN}assistant:"
    messages = [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3?"},
    ]
    assert form.text(messages, tokenizer) == f"user: 1?{TURN}assistant: 2{TURN}user: 3?{TURN}assistant:"


def test_a_missing_chat_template_is_refused():
    form = PromptFormat(chat=True)
    form.check(make_tokenizer(chat_template=CHAT), "MODEL", "--chat")
    with pytest.raises(UserError, match="--chat: the tokenizer of MODEL has no chat template"):
        form.check(make_tokenizer(), "MODEL", "--chat")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Q: {}\nA:", "Q: 1+1?\nA:"),
        (r"Q: {} Answer in \boxed{}.", r"Q: 1+1? Answer in \boxed{}."),
        (r"Answer in \boxed{}. Q: {}", r"Answer in \boxed{}. Q: 1+1?"),
        (r"Q: {} Answer in \boxed{{}}.", r"Q: 1+1? Answer in \boxed{}."),
        (r"Like \boxed{{}}, \frac{1}{x^{2}}: {}", r"Like \boxed{}, \frac{1}{x^{2}}: 1+1?"),
        (r"{{{}}}", "{1+1?}"),
        ('Give JSON {"answer": 2}. {}', 'Give JSON {"answer": 2}. 1+1?'),
        ("Solve } {}", "Solve } 1+1?"),
        (r"Q:\n{}", r"Q:\n1+1?"),
    ],
)
def test_braces_other_than_the_place_are_text(template, text):
    standard = standard_template(template, "--template")
    assert PromptFormat(standard).text("1+1?", None) == text
    assert standard_template(standard, "--template") == standard


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("Q:", "no places"),
        ("", "no places"),
        (r"Answer in \boxed{}.", "no places"),
        ("{{}}", "no places"),
        ("{} {}", "2 places"),
    ],
)
def test_a_template_without_its_one_place_is_refused(template, says):
    with pytest.raises(UserError, match="--template .*it has " + says):
        standard_template(template, "--template")
