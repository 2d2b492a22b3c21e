"""The command that makes the small task and model, through its own main and as a process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spo_rlhf.cli import prepare
from spo_rlhf.host.files import whole_or_nothing
from spo_rlhf.tasks import make
from spo_rlhf.tasks.arithmetic import PROMPT_TEMPLATE

ROOT = Path(__file__).parents[2]
FEW = ["--train", "20", "--test", "10", "--warm-up-steps", "0"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "spo_rlhf.cli.prepare", *arguments]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("prepared") / "new" / "task"
    done = subprocess.run(command("--output", str(output), *FEW), cwd=ROOT, capture_output=True, text=True)
    return output, done


@pytest.fixture
def few_supervised(monkeypatch):
    """As many problems for the warm-up as the vocabulary needs, for tests that take a step or none of it."""
    assert make.SUPERVISED_PROBLEMS > 2048
    monkeypatch.setattr(make, "SUPERVISED_PROBLEMS", 2048)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_what_it_writes(finished):
    output, done = finished
    assert done.returncode == 0 and done.stderr == ""
    names = sorted(path.name for path in output.iterdir())
    assert names == ["model", "prepare.json", "sft.jsonl", "test.jsonl", "train.jsonl"]
    number_of_rows = {name: len(rows(output / f"{name}.jsonl")) for name in ("train", "test", "sft")}
    assert number_of_rows == {"train": 20, "test": 10, "sft": make.SUPERVISED_PROBLEMS}
    record = json.loads((output / "prepare.json").read_text(encoding="utf-8"))
    assert record["settings"]["warm_up_steps"] == record["steps"] == 0 and 0 <= record["accuracy"] <= 1
    assert [path.name for path in output.parent.iterdir()] == ["task"], "nothing temporary stays"


def test_it_says_what_it_does(finished):
    lines = finished[1].stdout.splitlines()
    assert [line for line in lines if not line.startswith("prepare: ")] == [] and "\r" not in finished[1].stdout
    assert "is ready" in lines[-1] and "held-out" in lines[-1]


def test_the_model_loads_with_its_tokenizer(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(finished[0] / "model")
    model = AutoModelForCausalLM.from_pretrained(finished[0] / "model")
    prompt = PROMPT_TEMPLATE.format(rows(finished[0] / "test.jsonl")[0]["problem"])
    assert tokenizer.decode(tokenizer(prompt)["input_ids"]) == prompt
    assert model.config.vocab_size == len(tokenizer) > 256


def test_a_finished_directory_is_used_again(finished, capsys):
    output, _ = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert prepare.main(["--output", str(output), *FEW]) == 0
    assert "used as it is" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_other_settings_need_force(finished, capsys):
    output, _ = finished
    record = (output / "prepare.json").read_bytes()
    assert prepare.main(["--output", str(output), *FEW, "--seed", "3"]) == 2
    captured = capsys.readouterr()
    assert "seed 0 instead of 3" in captured.err and "--force" in captured.err and captured.err.count("\n") == 1
    assert (output / "prepare.json").read_bytes() == record


def test_force_replaces_it_whole(finished, tmp_path):
    output = tmp_path / "task"
    shutil.copytree(finished[0], output)
    first = rows(output / "test.jsonl")
    (output / "stale").touch()
    assert prepare.main(["--output", str(output), *FEW, "--seed", "3", "--force"]) == 0
    assert not (output / "stale").exists() and rows(output / "test.jsonl") != first
    assert [path.name for path in tmp_path.iterdir()] == ["task"]


def test_what_was_there_survives_a_failure_at_any_moment(tmp_path):
    output = tmp_path / "task"
    output.mkdir()
    (output / "old").touch()
    with pytest.raises(ZeroDivisionError):
        with whole_or_nothing(output) as directory:
            (directory / "half").touch()
            raise ZeroDivisionError
    with pytest.raises(FileNotFoundError):
        with whole_or_nothing(output) as directory:
            directory.rmdir()  # so that it cannot take its place in the end
    assert [path.name for path in tmp_path.iterdir()] == ["task"] and [path.name for path in output.iterdir()] == [
        "old"
    ]


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_directory_of_something_else_is_left_alone(tmp_path, capsys, force):
    (tmp_path / "thesis.txt").write_text("precious")
    assert prepare.main(["--output", str(tmp_path), *FEW, *force]) == 2
    assert "choose another --output" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_long_problems_and_a_few_steps_of_training_in_an_empty_directory(tmp_path, few_supervised):
    arguments = ["--train", "5", "--test", "5", "--min-steps", "8", "--max-steps", "12", "--warm-up-steps", "1"]
    assert prepare.main(["--output", str(tmp_path), *arguments]) == 0
    assert {row["steps"] for row in rows(tmp_path / "test.jsonl")} == {8, 9, 10, 11, 12}
    record = json.loads((tmp_path / "prepare.json").read_text(encoding="utf-8"))
    assert record["steps"] == 1
    longest = max(len(row["solution"]) for row in rows(tmp_path / "test.jsonl"))  # about a character a token
    assert record["warm_up"]["max_new_tokens"] > 0.9 * longest


def test_a_warm_up_on_shorter_problems_leaves_the_others_as_they_are(tmp_path, few_supervised):
    arguments = ["--train", "9", "--test", "5", "--min-steps", "5", "--max-steps", "6", "--warm-up-steps", "0"]
    for name, more in (("as-asked", []), ("shorter", ["--warm-up-from", "2"])):
        assert prepare.main(["--output", str(tmp_path / name), *arguments, *more]) == 0
    for split in ("train", "test"):
        assert rows(tmp_path / "shorter" / f"{split}.jsonl") == rows(tmp_path / "as-asked" / f"{split}.jsonl")
    supervised = rows(tmp_path / "shorter" / "sft.jsonl")
    assert {row["steps"] for row in supervised} == {2, 3, 4, 5, 6}
    others = {row["problem"] for split in ("train", "test") for row in rows(tmp_path / "shorter" / f"{split}.jsonl")}
    assert not others & {row["problem"] for row in supervised}


def test_knights_and_knaves(tmp_path, few_supervised):
    arguments = ["--task", "knights_knaves", "--people", "2", "--train", "5", "--test", "5", "--warm-up-steps", "1"]
    assert prepare.main(["--output", str(tmp_path), *arguments]) == 0
    assert {len(row["names"]) for name in ("train", "sft", "test") for row in rows(tmp_path / f"{name}.jsonl")} == {2}
    record = json.loads((tmp_path / "prepare.json").read_text(encoding="utf-8"))
    assert record["settings"]["people"] == 2 and not {"min_steps", "max_steps"} & set(record["settings"])
    assert record["steps"] == 1 and json.loads((tmp_path / "model" / "config.json").read_text())["vocab_size"] > 512


SUMS = """
from spo_rlhf.tasks.registry import TASKS
from spo_rlhf.tasks.splits import write_splits
from spo_rlhf.tasks.task import SelfMade, Setting, Task


def write_task(directory, seed, train, test, sft, *, largest, supervised_from=None):
    def generate(seed, count, exclude):
        pairs = [(a, b) for a in range(largest) for b in range(largest) if f"{a} + {b}" not in exclude]
        texts = [{"problem": f"{a} + {b}", "solution": f"#### {a + b}", "answer": str(a + b)} for a, b in pairs]
        return [{"id": str(n), **row} for n, row in enumerate(texts[:count])]

    return write_splits(directory, "sums", generate, seed, train, test, sft)


settings = {"largest": Setting(300, "numbers are below it", smallest=2)}
TASKS.register("sums")(Task("sums of two numbers", template="{} = ", self_made=SelfMade(write_task, settings)))
"""


def test_a_plugin_file_adds_a_task_with_its_own_setting(tmp_path):
    """In a process of its own: what a plugin registers stays."""
    plugin = tmp_path / "sums.py"
    plugin.write_text(SUMS)
    told = subprocess.run(command("--help", "--plugin", str(plugin)), cwd=ROOT, capture_output=True, text=True)
    assert "--largest N sums: numbers are below it, default 300" in " ".join(told.stdout.split())
    options = ["--plugin", str(plugin), "--task", "sums", "--largest", "250", *FEW, "--output", str(tmp_path / "task")]
    done = subprocess.run(command(*options), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "task" / "prepare.json").read_text(encoding="utf-8"))
    assert record["settings"]["largest"] == 250 and "min_steps" not in record["settings"]
    assert rows(tmp_path / "task" / "test.jsonl")[1]["problem"] == "0 + 1"
    small = subprocess.run(command(*options, "--largest", "1"), cwd=ROOT, capture_output=True, text=True)
    assert small.returncode == 2 and "--largest" in small.stderr and small.stderr.count("\n") == 1
    plugin.write_text(SUMS.replace('"largest": Setting', '"seed": Setting'))
    taken = subprocess.run(command(*options), cwd=ROOT, capture_output=True, text=True)
    assert taken.returncode == 2 and "task sums: --seed is an option already" in taken.stderr


def test_the_record_of_the_default_task_has_the_settings_it_had(finished):
    record = json.loads((finished[0] / "prepare.json").read_text(encoding="utf-8"))
    names = [
        "task",
        "seed",
        "train",
        "test",
        "min_steps",
        "max_steps",
        "target_accuracy",
        "max_seconds",
        "warm_up_steps",
    ]
    assert list(record["settings"]) == names and record["settings"]["task"] == "arithmetic"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output"),
        (["--output", "x", "--task", "chess"], "arithmetic"),
        (["--output", "x", "--people", "4"], "--people is not for --task arithmetic"),
        (["--output", "x", "--task", "knights_knaves", "--max-steps", "4"], "--max-steps is not for"),
        (["--output", "x", "--task", "knights_knaves", "--people", "9"], "2 to 8 people"),
        (["--output", "x", "--train", "0"], "--train"),
        (["--output", "x", "--test", "many"], "--test"),
        (["--output", "x", "--seed", "-1"], "--seed"),
        (["--output", "x", "--target-accuracy", "42"], "--target-accuracy"),
        (["--output", "x", "--target-accuracy", "nan"], "--target-accuracy"),
        (["--output", "x", "--max-seconds", "0"], "--max-seconds"),
        (["--output", "x", "--min-steps", "5", "--max-steps", "4"], "--min-steps"),
        (["--output", "x", "--max-steps", "1000"], "--max-steps"),
        (["--output", "x", "--warm-up-from", "7"], "--warm-up-from 7: the largest problems have 6"),
        (["--output", "x", "--warm-up-from", "1"], "--warm-up-from"),
        (["--output", "x", "--speed", "9"], "--speed"),
        (["--output", "/proc/nowhere/task"], "/proc"),
        (["--output", "setup.cfg"], "setup.cfg"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert prepare.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.parametrize("moment", ["loading", "problems"])
def test_interrupted_nothing_is_kept(tmp_path, moment):
    arguments = command("--output", str(tmp_path / "task"), "--train", "20", "--test", "10")
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while moment not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "prepare: interrupted; nothing was kept" and "Traceback" not in rest
    assert os.listdir(tmp_path) == []


def test_help_shows_examples_and_is_fast(capsys):
    start = time.monotonic()
    with pytest.raises(SystemExit, match="0"):
        prepare.main(["--help"])
    assert "python -m spo_rlhf.cli.prepare --output" in capsys.readouterr().out
    assert time.monotonic() - start < 5
