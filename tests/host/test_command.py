"""The tail of every command: what it says, where, and its exit status."""

import argparse
import errno
import os
import subprocess
import sys

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.host.command import OneLineParser, refuse_in_one_line, run_command


def raising(error: BaseException):
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1), (130, 130)])
def test_a_command_that_returns_says_nothing(returned, status, capsys):
    assert run_command("spo-x", lambda: returned) == status
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("--data x: no such file"), "--data x: no such file"),
        (OSError(errno.ENOENT, "No such file or directory", "runs/x"), "runs/x: No such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("cannot load the model\nIf this is a private one, log in"), "cannot load the model"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_2(error, line, capsys):
    assert run_command("spo-x", raising(error)) == 2
    assert capsys.readouterr() == ("", f"spo-x: error: {line}\n")


def test_an_interrupt_is_one_line_and_status_130(capsys):
    assert run_command("spo-x", raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "spo-x: interrupted\n")


def test_a_command_may_say_what_an_interrupt_left_and_where_it_shows(capsys):
    said = []
    kept = "interrupted; nothing was kept"
    assert run_command("spo-x", raising(KeyboardInterrupt()), interrupted=kept, say=said.append) == 130
    assert said == ["spo-x: interrupted; nothing was kept"] and capsys.readouterr() == ("", "")


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command("spo-x", raising(ZeroDivisionError()))


def test_a_reader_that_leaves_ends_the_command_without_a_word():
    code = (
        "import sys; from spo_rlhf.host.command import run_command\n"
        "sys.exit(run_command('spo-x', lambda: print('x' * 100_000, flush=True)))"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def parsers() -> list[argparse.ArgumentParser]:
    """Our own parser, and one made elsewhere."""
    foreign = argparse.ArgumentParser(prog="spo-x", allow_abbrev=False)
    refuse_in_one_line(foreign)
    return [OneLineParser(prog="spo-x", allow_abbrev=False), foreign]


@pytest.mark.parametrize("parser", parsers(), ids=["own", "foreign"])
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--samples", "many"], "argument --samples: invalid int value: 'many'; see spo-x --help"),
        (["--sampels", "3"], "unrecognized arguments: --sampels 3; did you mean --samples?"),
        (["--quick"], "unrecognized arguments: --quick; see spo-x --help"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_to_do(parser, arguments, line):
    if not any(action.dest == "samples" for action in parser._actions):
        parser.add_argument("--samples", type=int)
    with pytest.raises(UserError) as refusal:
        parser.parse_args(arguments)
    assert str(refusal.value) == line


def test_the_errors_of_a_subcommand_name_it():
    parser = OneLineParser(prog="spo-x")
    parser.add_subparsers(dest="command", required=True).add_parser("wait").add_argument("--limit", required=True)
    with pytest.raises(UserError, match="--limit; see spo-x wait --help"):
        parser.parse_args(["wait"])


@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_threads_wait_patiently_from_before_torch_loads(own):
    """Of every command: none has loaded torch, which reads the variable, by the time that its work begins."""
    commands = "train sample prepare evaluate upstream_trainer quickstart".split()
    code = f"""
import importlib, os, sys
for name in {commands!r}:
    importlib.import_module("spo_rlhf.cli." + name)
import evaluation.__main__
from spo_rlhf.host.command import run_command
assert "torch" not in sys.modules
run_command("spo-x", lambda: print(os.environ["OMP_WAIT_POLICY"]))
from spo_rlhf import cpu
print(cpu.worker_environment()["OMP_WAIT_POLICY"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": own} if own else {}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [own or "PASSIVE"] * 2
