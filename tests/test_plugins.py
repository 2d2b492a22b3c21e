"""A user's own file: imported once, under one name in every process, and its mistakes told in one line."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from spo_rlhf import plugins
from spo_rlhf.errors import UserError
from spo_rlhf.tasks.registry import TASKS

ROOT = Path(__file__).parents[1]
SUMS = """
from spo_rlhf.tasks.registry import TASKS
from spo_rlhf.tasks.task import Task

TASKS.register("sums")(Task("sums of two numbers", files=("sums.jsonl",)))


def double(number):
    return 2 * number
"""


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    """Each test starts without plugins, and leaves none behind."""
    before, modules = dict(TASKS), set(sys.modules)
    monkeypatch.setattr(plugins, "_loaded", [])
    monkeypatch.setenv(plugins.VARIABLE, "")
    yield
    TASKS.clear()
    TASKS.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("spo_plugin_"):
            del sys.modules[name]


def write(folder: Path, text: str = SUMS, name: str = "sums.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_is_imported_once_whatever_it_is_called(tmp_path, monkeypatch):
    path = write(tmp_path)
    (tmp_path / "link.py").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    plugins.load([path, "sums.py"])
    plugins.load([str(path), "link.py"])
    assert TASKS["sums"].files == ("sums.jsonl",)
    assert os.environ[plugins.VARIABLE] == str(path)


def test_two_files_of_one_name_are_two_modules(tmp_path):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(write(tmp_path / folder, SUMS.replace('"sums"', f'"sums-{folder}"')))
    plugins.load(paths)
    assert {"sums-a", "sums-b"} <= set(TASKS)
    assert os.environ[plugins.VARIABLE].split(os.pathsep) == list(map(str, paths))


def test_what_a_plugin_defines_is_pickled_by_reference_to_another_process(tmp_path):
    path = write(tmp_path)
    plugins.load([path])
    pickled = pickle.dumps(sys.modules[plugins.module_name(path)].double)
    assert len(pickled) < 200
    code = (
        "import pickle, sys\n"
        "from spo_rlhf import plugins\n"
        "from spo_rlhf.tasks.registry import TASKS\n"
        "plugins.load_from_environment()\n"
        f"print(pickle.loads({pickled!r})(21), 'sums' in TASKS)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["42", "True"], done.stderr


def test_without_plugins_none_is_handed_down(monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "/of/another/time.py")
    plugins.load([])
    assert plugins.VARIABLE not in os.environ
    plugins.load_from_environment()


@pytest.mark.parametrize(
    "text, told",
    [
        ("\n\nx = 1 / 0\n", ", line 3: ZeroDivisionError: division by zero"),
        ("x = 1\ndef f(:\n", ", line 2: SyntaxError: "),
        ("import no_such_module\n", ", line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ValueError('two\\nlines')", ", line 1: ValueError: two lines"),
        ("import sys\nsys.exit(3)\n", ", line 2: SystemExit: 3"),
        (
            SUMS.replace('"sums"', '"gsm8k"'),
            ", line 5: ValueError: there is a task 'gsm8k' already: give yours another",
        ),
        ("from spo_rlhf.errors import UserError\nraise UserError('no data here')", ", line 2: no data here"),
    ],
)
def test_a_file_that_fails_is_named_with_line_and_error(tmp_path, text, told):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        plugins.load([path])
    message = str(caught.value)
    assert message.startswith(f"plugin {path}{told}") and "\n" not in message
    assert plugins.module_name(path) not in sys.modules


def test_an_error_below_the_plugin_is_told_with_the_plugins_own_line(tmp_path):
    path = write(tmp_path, "import json\n\nsettings = json.loads('{')\n")
    with pytest.raises(UserError, match=r"line 3: JSONDecodeError"):
        plugins.load([path])


def test_the_files_of_a_command_line_are_found_before_its_parser_is_made():
    argv = ["run", "--plugin", "a.py", "--plugin=b.py", "--plugins", "c.py", "--plugin"]
    assert plugins.named_in(argv) == ["a.py", "b.py"]
    assert plugins.named_in(["--spo.plugin", "d.py"], "--spo.plugin") == ["d.py"]


@pytest.mark.parametrize("name, told", [("missing.py", "no such file"), (".", "no such file"), ("a.txt", "NAME.py")])
def test_what_is_no_python_file_is_refused(tmp_path, name, told):
    write(tmp_path, name="a.txt")
    with pytest.raises(UserError, match=told):
        plugins.load([tmp_path / name])
