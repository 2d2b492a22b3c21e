"""What ended a run, in one line; where its output goes; its configuration as text."""

import logging
import logging.config
import os
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.launch.output import attempt, flatten, output_to, plain


class TaskFailed(Exception):
    """As Ray's: what the task raised is its `cause`."""

    def __init__(self, cause: Exception):
        super().__init__("the task failed\nTraceback ...")
        self.cause = cause


def raising(error: BaseException):
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (UserError("--x 3: too many"), 2, "error: --x 3: too many"),
        (TaskFailed(TaskFailed(UserError("reward.py: it raised"))), 2, "error: reward.py: it raised"),
        (ValueError("one\ntwo"), 1, "error: ValueError: one (log: run/train.log)"),
        (TaskFailed(ValueError()), 1, "error: ValueError:  (log: run/train.log)"),
        (KeyboardInterrupt(), 130, "interrupted; nothing is lost"),
    ],
    ids=str,
)
def test_what_ended_a_run_is_one_line(error, status, reason):
    assert attempt(raising(error), "run/train.log", "interrupted; nothing is lost") == (status, reason)


def test_a_run_that_ends_by_itself_says_nothing(capsys):
    assert attempt(lambda: None, "run/train.log") == (0, "")
    assert capsys.readouterr() == ("", "")


def test_the_traceback_of_a_fault_goes_to_the_log_and_the_line_to_the_terminal(tmp_path, capfd):
    log = tmp_path / "train.log"
    with output_to(log) as console:
        print("from Python")
        os.write(1, b"from a library\n")
        print("a warning", file=sys.stderr)
        console.line(attempt(raising(ValueError("one")), log)[1])
    print("after")
    assert capfd.readouterr() == (f"error: ValueError: one (log: {log})\nafter\n", "")
    written = log.read_text()
    assert all(part in written for part in ("from Python", "from a library", "a warning", "Traceback"))


def test_nested_options_as_one_dict():
    @dataclass
    class Shape:
        branching: tuple[int, ...]

    args = SimpleNamespace(spo=SimpleNamespace(tree=Shape((2, 2)), mode="tree"), seed=1)
    assert flatten(plain(args)) == {"spo.tree.branching": (2, 2), "spo.mode": "tree", "seed": 1}


def test_so_is_one_that_another_library_has_made_logging_forget(tmp_path, capsys):
    """vLLM configures its logs by a dictionary, which empties logging's list of handlers; transformers' and Ray's go on."""
    logger = logging.getLogger("of a library that came before")
    with output_to(tmp_path / "log"):
        logger.addHandler(logging.StreamHandler())
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    logger.warning("late")
    logger.handlers.clear()
    err = capsys.readouterr().err
    assert "late" in err and "Logging error" not in err


def test_a_log_handler_made_meanwhile_is_left_with_a_stream_that_is_open(tmp_path, capsys):
    with output_to(tmp_path / "early.log"):
        handler = logging.StreamHandler()
        handler.emit(logging.makeLogRecord({"msg": "early"}))
    handler.emit(logging.makeLogRecord({"msg": "late"}))
    assert (tmp_path / "early.log").read_text() == "early\n"
    assert capsys.readouterr().err == "late\n"
