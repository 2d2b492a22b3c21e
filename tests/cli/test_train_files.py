"""spo-train's files: templates, reward files, model folders and tokenizers that lead nowhere are refused. Nothing is started."""

import json
import os
import shutil
import time

import pytest
import stack
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

from spo_rlhf.cli.train import parse
from spo_rlhf.rollout import reward


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(data__input_template="Solve:"), "--data.input_template 'Solve:': it has no places {} for the prompt"),
        (dict(data__input_template="{} {}"), "it has 2 places {}"),
        (dict(data__input_template=r"Answer in \boxed{}."), "it has no places {}"),
        (dict(data__apply_chat_template=True), "--data.apply_chat_template: the tokenizer of "),
    ],
)
def test_a_way_to_prompts_that_leads_nowhere_is_refused(refused, changes, says):
    assert says in refused(**changes)


def test_braces_beside_the_place_are_text(task, tmp_path):
    template = r"{} Answer in \boxed{}, as in \boxed{\frac{1}{2}}."
    args, _ = parse([*stack.options(task, tmp_path, data__input_template=template), "--dry-run"])
    prompt = args.spo.prompt_format(args.data).text("1 + 1?", None)
    assert prompt == template.replace("{}", "1 + 1?", 1)


def test_a_template_beside_a_chat_template_is_told(task, tmp_path):
    model = tmp_path / "chatting"
    shutil.copytree(task / "model", model)
    chat = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with_config(model / "tokenizer_config.json", chat_template=chat)
    changes = dict(actor__model_name_or_path=model, data__apply_chat_template=True)
    _, notes = parse([*stack.options(task, tmp_path, **changes), "--dry-run"])
    assert any("--data.input_template is not used" in note for note in notes)


def test_what_openrlhf_warns_of_is_a_note(task, tmp_path):
    _, notes = parse([*stack.options(task, tmp_path, data__input_template=r"{}\nAnswer:"), "--dry-run"])
    [note] = [note for note in notes if note.startswith("OpenRLHF: ")]
    assert "input_template contains \\n characters instead of newline" in note


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def reward_func(queries, prompts, labels):\n    return 1 / 0\n", "ZeroDivisionError"),
        ("def reward_func(queries, prompts, labels):\n    return {'rewards': [0.0, 1.0]}\n", "2 rewards for 1 query"),
        ("def reward_func(queries, prompts, labels):\n    return [0.0]\n", "dict"),
        ("def reward_func(queries, prompts, labels):\n    return {'rewards': ['good']}\n", "'good'"),
        ("def reward_func(queries, prompts, labels):\n    return {'rewards': [float('nan')]}\n", "finite"),
        ("def reward(queries):\n    return 1\n", "no function reward_func"),
        ("import nothing_of_that_name\n", "ModuleNotFoundError"),
        ("import time\ndef reward_func(queries, prompts, labels):\n    time.sleep(60)\n", "--spo.reward_timeout"),
    ],
)
def test_wrong_reward_functions_are_found_before_anything_starts(refused, tmp_path, source, says):
    path = tmp_path / "reward.py"
    path.write_text(source, encoding="utf-8")
    assert says in refused(reward__remote_url=path, spo__reward_timeout=1.5)


def test_a_reward_file_that_does_not_come_to_its_end_is_refused_in_time(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(reward, "IMPORT_LIMIT_S", 1.0)
    path, start = tmp_path / "reward.py", time.monotonic()
    path.write_text("import time\ntime.sleep(60)\n")
    assert f"--reward.remote_url {path}: a worker was not ready within 1 s" in refused(reward__remote_url=path)
    assert time.monotonic() - start < 15


def with_config(path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("config.json", lambda path: path.write_text("{"), "config.json: missing or unreadable"),
        (
            "config.json",
            lambda path: with_config(path, vocab_size=5),
            "says vocab_size 5 and model.embed_tokens.weight is",
        ),
        ("tokenizer.json", lambda path: path.write_text("{"), "its tokenizer cannot be loaded"),
        ("model.safetensors", lambda path: os.truncate(path, path.stat().st_size - 1), "bytes and its header says"),
    ],
)
def test_a_spoiled_model_folder_is_refused(task, tmp_path, refused, name, spoil, says):
    model = tmp_path / "spoiled"
    shutil.copytree(task / "model", model)
    spoil(model / name)
    message = refused(actor__model_name_or_path=model)
    assert says in message and f"--actor.model_name_or_path {model}" in message


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        (dict(spo__ratio_level="subsentence"), "--spo.ratio_level subsentence"),
        (dict(spo__partition="subsentence"), "--spo.partition subsentence"),
        (dict(spo__partition="newline"), "--spo.partition newline"),
    ],
)
def test_a_tokenizer_that_does_not_map_tokens_to_text(tmp_path, capfd, refused, changes, flag):
    model = tmp_path / "model-without-texts"
    ByT5Tokenizer().save_pretrained(model)
    size = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1)
    LlamaForCausalLM(LlamaConfig(vocab_size=512, **size)).save_pretrained(model)
    capfd.readouterr()  # transformers shows a bar
    says = refused(actor__model_name_or_path=model, **changes)
    assert f"{flag} needs the text of each token" in says and "does not map tokens to text" in says
