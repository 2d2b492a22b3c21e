"""What a saved model's folder gets: a card, the sampling and the chat template of the evaluation."""

import json
from types import SimpleNamespace

import pytest
import stack
import yaml

from spo_rlhf.cli import upstream_trainer
from spo_rlhf.cli.train import parse
from spo_rlhf.core.intervals import wilson_interval
from spo_rlhf.launch import model_card, run, settings_file

SUMMARY = {
    "steps": 40,
    "generated_tokens": 530_900,
    "mc_tokens": 195_200,
    "seconds_total": 430.0,
    "accuracy_before": 0.25,
    "accuracy_after": 0.75,
    "held_out_problems": 64,
}
SETTINGS = {
    "spo.mode": "chain",
    "actor.adam.lr": "1e-6",
    "data.input_template": "Q: {}\n|",
    "ckpt.output_dir": "/home/me/x",
}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=8)


@pytest.fixture
def saved(task, tmp_path):
    """The resolved configuration of a run whose model folder is there; options change it."""

    def make(**changes) -> SimpleNamespace:
        args, _ = parse([*stack.options(task, tmp_path, eval__dataset=task / "test.jsonl", **changes), "--dry-run"])
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "generation_config.json").write_text('{"eos_token_id": 1, "temperature": 1.0, "top_k": 50}')
        return args

    return make


def test_the_card_tells_task_method_settings_and_accuracy_with_its_interval(saved, tmp_path, task):
    args = saved(eval__n_samples_per_prompt=2)
    model_card.finish_folder(args, SUMMARY, SETTINGS)
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    low, high = wilson_interval(0.75, 64)
    for said in (
        "SPO-chain",
        "- trained on: `train.jsonl`",
        "- held out: `test.jsonl`",
        f"| after | 75.0% | {low:.1%} to {high:.1%} |",
        "64 held-out problems, 2 samples each",
        "| `actor.adam.lr` | `1e-6` |",
        "530,900 tokens sampled (195,200 of them Monte Carlo), 7.2 minutes",
        repr(args.data.input_template),
        "openrlhf 0.11.2",
    ):
        assert said in text, said
    assert str(task) not in text and "/home/me" not in text, "no path of the machine"
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["pipeline_tag"] == "text-generation" and "base_model" not in metadata and "datasets" not in metadata


def test_names_of_the_hub_stand_in_the_metadata(saved):
    args = saved()
    args.actor.model_name_or_path, args.data.prompt_dataset = "owner/base", "openai/gsm8k@main"
    metadata = yaml.safe_load(model_card.card(args, {**SUMMARY, "accuracy_after": None}, {}).split("---")[1])
    assert (metadata["base_model"], metadata["datasets"]) == ("owner/base", ["openai/gsm8k"])
    assert "Not measured" in model_card.card(args, {**SUMMARY, "accuracy_after": None}, {})


@pytest.mark.parametrize(
    ("temperature", "says"),
    [(0.5, {"do_sample": True, "temperature": 0.5, "top_p": 0.9}), (0.0, {"do_sample": False})],
)
def test_the_sampling_is_that_of_the_evaluation_and_special_tokens_stay(saved, tmp_path, temperature, says):
    args = saved(eval__temperature=temperature, rollout__top_p=0.9)
    model_card.finish_folder(args, SUMMARY, {})
    config = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert config == {"eos_token_id": 1, "max_new_tokens": 24, **says}
    from transformers import GenerationConfig

    GenerationConfig.from_pretrained(tmp_path / "model").validate()


def test_the_chat_template_of_the_prompts_is_in_the_folder(task, tmp_path):
    from transformers import AutoTokenizer

    base, folder = tmp_path / "base", tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(task / "model")
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    tokenizer.save_pretrained(base)
    AutoTokenizer.from_pretrained(task / "model").save_pretrained(folder)
    model_card.write_chat_template(folder, str(base))
    messages = [{"role": "user", "content": "1 + 1"}]
    asked = AutoTokenizer.from_pretrained(folder).apply_chat_template(messages, tokenize=False)
    assert asked == "<1 + 1>"
    (folder / "chat_template.jinja").write_text("its own")
    model_card.write_chat_template(folder, str(base))
    assert (folder / "chat_template.jinja").read_text() == "its own"


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        ("sft", ["--spo.sequence_mean"], "supervised training (OpenRLHF through spo_rlhf; loss: mean of each response"),
        ("dpo", ["--spo.dpo_positive", "50", "--model.beta", "0.3"], "DPO-positive's penalty, lambda 50"),
    ],
)
def test_supervised_and_preference_training_leave_a_card_without_an_accuracy(task, tmp_path, command, options, says):
    folder = tmp_path / "model"
    folder.mkdir()
    given = ["--model.model_name_or_path", str(task / "model"), "--data.dataset", "owner/rows,/home/me/rows.jsonl"]
    given += ["--ckpt.output_dir", str(folder), "--data.input_template", "Q: {}", "--adam.lr", "1e-6", *options]
    args, _ = upstream_trainer.parse(command, given)
    settings = settings_file.said(upstream_trainer.build_parser(command), given)
    model_card.finish_offline_folder(command, args, {"steps": 2, "seconds_total": 90.0}, settings)
    text = (folder / "README.md").read_text(encoding="utf-8")
    for said in (
        says,
        "- trained on: `owner/rows`, `rows.jsonl`",
        "Not measured in training.",
        "'Q: {}'",
        "2 optimizer steps, 1.5 minutes",
        "| `adam.lr` | `1e-6` |",
        "openrlhf 0.11.2",
    ):
        assert said in text, said
    assert "%" not in text and "/home/me" not in text and str(task) not in text
    metadata = yaml.safe_load(text.split("---")[1])
    assert (metadata["tags"], metadata["datasets"]) == ([command], ["owner/rows"])


def test_what_goes_wrong_after_the_run_is_told_and_changes_nothing(saved, tmp_path):
    args, lines = saved(), []
    (tmp_path / "model" / "README.md").mkdir()
    run.leave_model(args, SUMMARY, {}, SimpleNamespace(line=lines.append))
    assert len(lines) == 1 and lines[0].startswith(f"note: no model card in {args.ckpt.output_dir} (")
