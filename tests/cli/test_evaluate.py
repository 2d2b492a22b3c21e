"""spo-eval in projects that have an `evaluation` of their own, in processes without the installed packages."""

import configparser
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GRADE = ["grade", "--gold", "5", "--pred", r"\boxed{5}"]
# As the console script does, with spo_rlhf installed but not through sys.path, as in an editable install.
ENTRY = f"""
import importlib.util, sys

class Finder:
    def find_spec(name, path=None, target=None):
        folder = {str(ROOT)!r} + "/" + name
        return importlib.util.spec_from_file_location(name, folder + "/__init__.py") if name in MAPPED else None

MAPPED = {{"spo_rlhf"}}
sys.meta_path.insert(0, Finder)
from spo_rlhf.cli.evaluate import main
sys.exit(main({GRADE!r}))
"""


def run(arguments: list[str], folder: Path, path: Path | None = None) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def make_own(folder: Path, kind: str) -> Path:
    """A project's own `evaluation`: a package, a folder without __init__.py, or a module."""
    folder.mkdir(exist_ok=True)
    if kind == "module":
        own = folder / "evaluation.py"
        own.write_text("raise SystemExit('the wrong module ran')")
        return own
    own = folder / "evaluation"
    own.mkdir()
    (own / ("__init__.py" if kind == "package" else "notes.txt")).write_text("raise SystemExit('the wrong module ran')")
    return own


@pytest.mark.parametrize("kind", ["package", "folder", "module"])
def test_what_stands_in_front_is_named_in_one_line(tmp_path, kind):
    own = make_own(tmp_path / "project", kind)
    done = run(["-S", "-c", ENTRY], own.parent)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"spo-eval: error: {own} stands in front of this project's own `evaluation`: ")
    assert f"take {own.parent} off PYTHONPATH" in done.stderr and done.stderr.count("\n") == 1


def test_a_package_on_the_path_is_named_as_well(tmp_path):
    own = make_own(tmp_path / "project", "package")
    done = run(["-S", "-c", ENTRY], tmp_path, path=own.parent)
    assert done.returncode == 2 and str(own) in done.stderr


def test_without_the_evaluation_it_says_so(tmp_path):
    done = run(["-S", "-c", ENTRY], tmp_path)
    assert done.returncode == 2 and "no package `evaluation`" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", [None, "folder"])
def test_where_nothing_stands_in_front_it_evaluates(tmp_path, kind):
    """A folder without __init__.py gives way to a package that sys.path holds."""
    if kind:
        make_own(tmp_path, kind)
    done = run(["-m", "spo_rlhf.cli.evaluate", *GRADE], tmp_path, path=ROOT)
    assert done.returncode == 0 and '"correct": true' in done.stdout, done.stderr


def test_wrong_usage_is_one_line_through_this_entry_as_well(tmp_path):
    done = run(["-m", "spo_rlhf.cli.evaluate", "grade", "--speed", "9"], tmp_path, path=ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--speed" in done.stderr


def test_the_console_script_is_this_entry():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    scripts = dict(
        line.split(" = ") for line in settings["options.entry_points"]["console_scripts"].strip().splitlines()
    )
    module, function = scripts["spo-eval"].split(":")
    assert module == "spo_rlhf.cli.evaluate"
    assert callable(getattr(importlib.import_module(module), function))
