"""The tasks' records, and the command that shows them to scripts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spo_rlhf.tasks.__main__ import main
from spo_rlhf.tasks.prompts import PROMPTS
from spo_rlhf.tasks.registry import TASKS
from spo_rlhf.tasks.task import BOXED, HubData, Prompt, SelfMade, Task, training_template

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TASKS)
def test_a_record_has_a_place_for_the_problem_and_an_existing_reward(name):
    task = TASKS[name]
    assert task.files and task.reward.is_file()
    assert "{problem}" in task.asked.template
    if task.template is not None:
        assert "PROBLEM" in task.template.format("PROBLEM")


def test_training_asks_what_the_evaluation_of_that_name_asks():
    for task, prompt in (("gsm8k", "math-task"), ("math", "open-r1")):
        asked = PROMPTS[prompt].template.replace("{problem}", "1 + {x}?")
        assert asked in TASKS[task].template.format("1 + {x}?")


def test_braces_that_are_no_place_for_the_problem_are_doubled():
    template = training_template(Prompt("{problem} in \\boxed{ANSWER}"))
    assert template == "{} in \\boxed{{ANSWER}}"
    assert template.format("{y}") == "{y} in \\boxed{ANSWER}"


def test_without_a_prompt_of_its_own_a_task_is_asked_as_it_is_trained():
    assert Task("words", template="Q: {} {{}}").asked == Prompt("Q: {problem} {}", chat=False)
    assert Task("words").asked is BOXED


def test_a_template_needs_a_place_for_the_problem():
    with pytest.raises(ValueError, match="must contain {problem}"):
        Prompt("Solve it: {}")
    with pytest.raises(ValueError, match="must contain {} for the problem"):
        Task("words", template="Solve it: {problem}")


def test_a_record_that_cannot_work_is_refused():
    with pytest.raises(ValueError, match="unknown answer kind 'move': choose one of math, roles"):
        Task("chess", kind="move")
    with pytest.raises(ValueError, match="needs a template"):
        Task("sums", self_made=SelfMade(write_task=dict))


def test_a_data_set_of_several_parts_has_no_name_for_training():
    assert HubData("a/b").prompt_dataset == "a/b"
    assert HubData("a/b", ("main",)).prompt_dataset == "a/b@main"
    assert HubData("a/b", ("x", "y")).prompt_dataset is None


def test_settings_pass_their_own_check():
    for task in TASKS.values():
        if task.self_made is not None:
            task.self_made.check(**{name: setting.default for name, setting in task.self_made.settings.items()})


def test_the_registry_loads_nothing_heavy():
    code = "import sys; import spo_rlhf.tasks.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "transformers", "datasets", "sympy", "psutil"} & set(done.stdout.split())


def show(capsys, *arguments: str) -> str:
    assert main(["show", *arguments]) == 0
    return capsys.readouterr().out


def test_show_is_the_record_as_json(capsys):
    shown = json.loads(show(capsys, "gsm8k"))
    assert shown["template"] == TASKS["gsm8k"].template
    assert shown["train"]["prompt_dataset"] == "openai/gsm8k@main" and shown["train"]["problem"] == "question"
    assert json.loads(show(capsys, "arithmetic"))["settings"] == {"min_steps": 2, "max_steps": 6}


def test_show_of_one_field_is_its_value_and_of_several_an_object(capsys):
    assert json.loads(show(capsys, "math", "--field", "train.answer")) == "solution"
    both = json.loads(show(capsys, "math", "--field", "kind", "--field", "train.split"))
    assert both == {"kind": "math", "train.split": "train"}


def test_a_shell_gets_a_template_with_its_quotes_braces_and_last_newline():
    script = (
        f'eval "$({sys.executable} -m spo_rlhf.tasks show math --shell --field template --field train.answer)"\n'
        'printf "%s|%s" "$template" "$train_answer"'
    )
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == TASKS["math"].template + "|solution"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--help"),
        (["show"], "NAME"),
        (["show", "chess"], "no task 'chess'; known are gsm8k"),
        (["show", "gsm8k", "--field", "colour"], "--field colour: gsm8k has no 'colour' there, but name"),
        (["show", "gsm8k", "--field", "template.x"], "--field template.x"),
        (["show", "gsm8k", "--shell"], "--shell needs --field"),
        (["show", "gsm8k", "--speed"], "--speed"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "python -m spo_rlhf.tasks show gsm8k" in capsys.readouterr().out
