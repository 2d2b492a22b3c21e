"""spo-sample: wrong usage is one line and status 2 before any library is loaded; names are those of spo-train."""

import json
import sys
from dataclasses import fields

import numpy
import pytest
from safetensors.numpy import save_file

from spo_rlhf.cli import sample
from spo_rlhf.cli.sample_options import OPTIONS, build_parser
from spo_rlhf.cli.train import build_parser as build_train_parser
from spo_rlhf.launch.sample_run import SampleJob


@pytest.fixture
def files(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    save_file({"weight": numpy.zeros(1)}, tmp_path / "model" / "model.safetensors")
    rows = [{"problem": "1+1?", "answer": "2"}, {"problem": "2+2?", "answer": "4"}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat = [{"problem": [{"role": "user", "content": "1+1?"}], "answer": "2"}]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat))
    (tmp_path / "broken.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": \n')
    (tmp_path / "reward.py").write_text("def reward_func(queries, prompts, labels):\n    return {'rewards': [0.0]}\n")
    return tmp_path


def arguments(files, **changes) -> list[str]:
    values = {
        "model": files / "model",
        "data": files / "data.jsonl",
        "input-key": "problem",
        "label-key": "answer",
        "reward": files / "reward.py",
        "output": files / "out",
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    return [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "/nowhere/model"}, "no such folder with a config.json"),
        ({"data": "nowhere.jsonl"}, "--data nowhere.jsonl: no such file"),
        ({"data": "broken.jsonl"}, "line 2 is not JSON"),
        ({"input_key": "question"}, "row 1 has no 'question'; set --data.input_key"),
        ({"label_key": "gold"}, "row 1 has no 'gold'"),
        ({"reward": "nowhere.py"}, "no such .py file"),
        ({"reward": "http://localhost:1"}, "not a .py file"),
        ({"template": "Question:"}, "--template 'Question:': it has no places {}"),
        ({"template": r"in \boxed{}"}, "it has no places {}"),
        ({"data": "chat.jsonl"}, "row 1 has a list of chat messages as 'problem'; set --data.apply_chat_template"),
        ({"system": "be brief"}, "--system: only a chat template has a place for it; set --chat-template"),
        ({"output": "data.jsonl/out"}, "--output data.jsonl/out: "),
        ({"select": "best"}, "'best'"),
        ({"select": "pairs", "samples": 1}, "--samples 2 or more"),
        ({"samples": 0}, "--samples"),
        ({"seed": 99999999999999999999}, "'99999999999999999999' is not a whole number from 0 to 2147483647"),
        ({"min_reward": "nan"}, "--min-reward: 'nan' is not a finite number"),
        ({"min_reward": "inf"}, "--min-reward: 'inf' is not a finite number"),
        ({"temperature": -1}, "--temperature"),
        ({"temperature": 0.001}, "'0.001' must be 0, or at least 0.01 and at most 100"),
        ({"top_p": 1.5}, "--top-p"),
        ({"rows": "7"}, "--rows"),
        ({"rows": "a:b"}, "--rows"),
        ({"max_len": "none"}, "--max-len"),
        ({"model": None}, "--model"),
        ({"output": None}, "--output"),
        ({"speed": 9}, "--speed"),
        ({"sampels": 9}, "did you mean --samples?"),
    ],
)
def test_wrong_usage_is_one_line(files, changes, message, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert sample.main(arguments(files, **changes)) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert captured.err.startswith("spo-sample: error: ") and not (files / "out").exists()


def test_a_dry_run_starts_nothing_and_takes_the_names_of_spo_train(files, capsys):
    shared = ["--rollout.temperature", "0.6", "--rollout.n_samples_per_prompt", "3", "--data.max_len", "100"]
    before = set(sys.modules)
    assert sample.main([*arguments(files), *shared, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert {"  temperature = 0.6", "  samples = 3", "  max_len = 100"} <= set(out.splitlines()) and "dry run" in out
    assert not (files / "out").exists() and not {"vllm", "openrlhf"} & (set(sys.modules) - before)


def test_every_dotted_name_is_one_of_spo_trains():
    here, there = (
        {flag for action in parser._actions for flag in action.option_strings if "." in flag}
        for parser in (build_parser(), build_train_parser())
    )
    assert len(here) > 10 and here <= there


def test_help_shows_examples_and_every_default(capsys):
    with pytest.raises(SystemExit, match="0"):
        sample.main(["--help"])
    shown = capsys.readouterr().out
    assert "--select pairs --engines 4" in shown
    for option in OPTIONS:
        if option.type is not None and not option.required:
            assert "default: " in " ".join(
                shown.split(f"\n  {option.short or option.flag}")[1].split("\n  -")[0].split()
            )


def test_the_options_are_what_a_job_is_made_of():
    assert {option.flag[2:].replace("-", "_") for option in OPTIONS} - {"dry_run"} == {
        field.name for field in fields(SampleJob)
    }
