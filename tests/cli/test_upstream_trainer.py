"""The supervised and preference commands: what they resolve, and wrong usage in one line with status 2."""

import json

import pytest
import stack

from spo_rlhf.cli import upstream_trainer
from spo_rlhf.host import device


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = stack.make_task(tmp_path_factory.mktemp("task"), train=4, test=1)
    rows = [{"prompt": "1+1?", "response": "2", "chosen": "2", "rejected": "3"}] * 4
    messages = {**rows[0], "prompt": [{"role": "user", "content": "1+1?"}]}
    for name, some in (("rows", rows), ("messages", [messages]), ("empty", [rows[0], {**rows[0], "prompt": ""}])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


def arguments(files, command, **changes) -> list[str]:
    values = {
        "model.model_name_or_path": files / "model",
        "data.dataset": files / "rows.jsonl",
        "train.batch_size": 4,
        "train.micro_batch_size": 2,
        "spo.run_dir": files / "run",
        "ckpt.output_dir": files / "out",
    }
    keys = {"input_key": "prompt", "output_key": "response"} if command == "sft" else {"prompt_key": "prompt"}
    values |= {f"data.{name}": key for name, key in keys.items()}
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    given = {f"--{name}": str(value) for name, value in values.items() if value is not None}
    return [command, *(part for pair in given.items() for part in pair)]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        ("sft", {"model__model_name_or_path": "/nowhere"}, "--model.model_name_or_path /nowhere: no such folder"),
        ("sft", {"model__model_name_or_path": None}, "--model.model_name_or_path is missing"),
        ("sft", {"data__dataset": "nowhere.jsonl"}, "--data.dataset nowhere.jsonl: no such file"),
        ("sft", {"data__dataset": None}, "--data.dataset is missing"),
        ("sft", {"data__output_key": "solution"}, "has no 'solution'; set --data.output_key"),
        ("sft", {"train__batch_size": 64}, "4 rows do not fill one --train.batch_size of 64"),
        ("sft", {"train__micro_batch_size": 3}, "is not a multiple of --train.micro_batch_size"),
        ("sft", {"ds__attn_implementation": "flash_attention_2"}, "flash-attn is not installed"),
        ("sft", {"spo.dpo_positive": 50}, "unrecognized arguments: --spo.dpo_positive"),
        ("dpo", {"data__chosen_key": "good"}, "has no 'good'; set --data.chosen_key"),
        ("dpo", {"train__batch_size": 8}, "4 rows do not fill"),
        ("dpo", {"model__beta": "high"}, "--model.beta"),
        ("sft", {"train__batch_size": 0}, "--train.batch_size 0: must be at least 1"),
        ("sft", {"train__micro_batch_size": 0}, "--train.micro_batch_size 0: must be at least 1"),
        ("sft", {"adam__lr": "nan"}, "--adam.lr nan: must be a finite number above 0"),
        ("dpo", {"model__beta": 0}, "--model.beta 0: must be above 0"),
        ("sft", {"data__input_template": "Q:"}, "--data.input_template 'Q:': it has no places {}"),
        ("sft", {"data__dataset": "messages.jsonl"}, "row 1 has a list of chat messages as 'prompt'"),
        ("dpo", {"data__dataset": "empty.jsonl"}, "row 2 has an empty 'prompt'"),
        ("ppo", {}, "'ppo' is neither sft nor dpo"),
    ],
)
def test_wrong_usage_is_one_line(files, command, changes, message, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert upstream_trainer.main(arguments(files, command, **changes)) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not (files / "run").exists()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", ["sft", "dpo"])
def test_a_tokenizer_without_a_chat_template_is_refused(files, command, capsys):
    assert upstream_trainer.main([*arguments(files, command), "--data.apply_chat_template"]) == 2
    assert "--data.apply_chat_template: the tokenizer of " in capsys.readouterr().err


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("command", "own"), [("sft", "spo.sequence_mean = False"), ("dpo", "spo.dpo_positive = 0.0")])
def test_a_dry_run_prints_what_it_resolves_to(files, command, own, capsys):
    missing = "made-later.jsonl"
    assert upstream_trainer.main([*arguments(files, command, data__dataset=missing), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"  {own}" in out and f"  data.dataset = '{missing}'" in out and "nothing was started" in out
    assert not (files / "run").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["sft", "--help"]])
def test_help_shows_examples(arguments, capsys):
    try:
        assert upstream_trainer.main(arguments) == 0
    except SystemExit as leave:
        assert leave.code == 0  # noqa: PT017  only one of the two parsers leaves
    assert "correct.jsonl" in capsys.readouterr().out


@pytest.mark.timeout(120)
def test_gradients_of_micro_batches_add_up_in_float32_on_gpus(files, monkeypatch):
    monkeypatch.setattr(device, "_settled", None)  # by a run of another test
    monkeypatch.setenv(device.VARIABLE, device.GPU)
    monkeypatch.setattr(device, "unusable_gpu", lambda: None)
    args, notes = upstream_trainer.parse("sft", arguments(files, "sft")[1:])
    assert args.ds.grad_accum_dtype == "fp32" and any("would add up in bf16" in note for note in notes)
    for changes in ({"ds__param_dtype": "fp16"}, {"ds__zero_stage": 0}):
        assert upstream_trainer.parse("sft", arguments(files, "sft", **changes)[1:])[0].ds.grad_accum_dtype is None


@pytest.mark.timeout(120)
@pytest.mark.parametrize("asked", [None, device.CPU])
def test_a_gpu_that_torch_cannot_use_makes_no_training_on_the_cpu(files, asked, monkeypatch, capsys):
    monkeypatch.delenv(device.VARIABLE, raising=False)
    if asked:
        monkeypatch.setenv(device.VARIABLE, asked)
    monkeypatch.setattr(device, "_settled", None)
    monkeypatch.setattr(device, "unusable_gpu", lambda: "the driver is too old")
    assert upstream_trainer.main([*arguments(files, "sft"), "--dry-run"]) == (0 if asked else 2)
    assert ("the driver is too old" in capsys.readouterr().err) is (asked is None)
