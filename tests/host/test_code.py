"""Which code grades: by content, the user's own modules and this project's, no library's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spo_rlhf import plugins
from spo_rlhf.host import code, files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Loads a plugin that imports a helper, as a process of its own would; the hash of what came with it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(plugins, "VARIABLE", "SPO_PLUGINS_OF_A_TEST")
    (tmp_path / "plugin_of_a_test.py").write_text("import helper_of_a_test, json, pytest\n")

    def load(helper: str) -> str:
        (tmp_path / "helper_of_a_test.py").write_text(helper)
        monkeypatch.setattr(plugins, "_loaded", [])
        monkeypatch.setattr(plugins, "_brought", [])
        monkeypatch.delitem(sys.modules, "helper_of_a_test", raising=False)
        monkeypatch.delitem(sys.modules, plugins.module_name(tmp_path / "plugin_of_a_test.py"), raising=False)
        plugins.load([tmp_path / "plugin_of_a_test.py"])
        monkeypatch.delenv("SPO_PLUGINS_OF_A_TEST")
        return code.code_hash(plugins.brought())

    return load


def test_a_changed_helper_of_a_plugin_is_other_code(loaded):
    first = loaded("VALUE = 1\n")
    assert loaded("VALUE = 2\n") != first == loaded("VALUE = 1\n")


def test_what_is_watched_is_told_once_and_never_fails(tmp_path):
    program = (
        "import os, sys, threading, types\n"
        "class Odd(types.ModuleType):\n"
        "    def __getattr__(self, name): raise RuntimeError(name)\n"
        "from spo_rlhf.host import code\n"
        "sys.modules['odd'] = Odd('odd')\n"
        "code.watch()\n"
        "code.used()\n"
        "open('read').close(); open(b'bytes').close(); open('both').close(); open('both', 'a').close()\n"
        "os.close(os.open('low', os.O_RDONLY)); open(os.open('fd', os.O_RDONLY)).close()\n"
        "open('/proc/self/stat').close(); open(sys.executable, 'rb').close()\n"
        "read, written = code.used()\n"
        "print(sorted(map(os.path.basename, read - written)), sorted(map(os.path.basename, written)))\n"
        "print(code.used()[0])\n"
        "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "try: open('nothing')\n"
        "except FileNotFoundError as error: print(error.filename)\n"
    )
    for name in ("read", "bytes", "both", "low", "fd"):
        (tmp_path / name).touch()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.splitlines() == ["['bytes', 'fd', 'low', 'read'] ['both']", "set()", "nothing"], done.stderr


def test_libraries_are_told_by_their_versions_alone(tmp_path, monkeypatch):
    nothing = code.code_hash([])
    assert code.code_hash([json, pytest, sys]) == nothing != code.code_hash([files])
    monkeypatch.setattr(code, "LIBRARIES", ("pytest",))
    assert code.code_hash([]) != nothing
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    paths = [Path(tmp_path / name) for name in "ab"]
    assert code.code_hash([], paths[:1]) == code.code_hash([], paths) == code.code_hash([], paths[1:])
