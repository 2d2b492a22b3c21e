"""How every command speaks and ends: wrong usage in one line, and one tail for errors, interrupts and exit status."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from spo_rlhf.errors import RunStopped, UserError

STOPPED, WRONG_INPUT, INTERRUPTED = 1, 2, 130  # exit status; the latter as a shell has it, 128 + SIGINT
# OpenMP's threads sleep while they wait for work; read when torch loads, here and in every process that is started from here.
# Threads that spin make a training step twice as long, or many times, where another program uses a core too; on idle cores
# sleeping costs it a tenth at most.
PATIENT_THREADS = ("OMP_WAIT_POLICY", "PASSIVE")


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are a UserError of one line; so are those of its subparsers."""

    def error(self, message: str) -> NoReturn:
        raise UserError(usage_error(self, message))


def command_line(program: str, description: str | None, examples: str, **more: Any) -> OneLineParser:
    """A parser without options yet: description and examples as they are written, errors one line; `more` as argparse has it."""
    formatter = argparse.RawDescriptionHelpFormatter
    return OneLineParser(prog=program, description=description, epilog=examples, formatter_class=formatter, **more)


def refuse_in_one_line(parser: argparse.ArgumentParser) -> None:
    """Let a parser that was made elsewhere raise UserError where it would print its usage and exit."""

    def refuse(message: str) -> NoReturn:
        raise UserError(usage_error(parser, message))

    parser.error = refuse


def usage_error(parser: argparse.ArgumentParser, message: str) -> str:
    """argparse's message and what to do: the nearest flag where one is unknown, else where the flags are told."""
    unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    near = difflib.get_close_matches(unknown[1], flags, n=1) if unknown else []
    return message + (f"; did you mean {near[0]}?" if near else f"; see {parser.prog} --help")


def run_command(
    program: str,
    command: Callable[[], int | None],
    *,
    interrupted: str = "interrupted",
    say: Callable[[str], object] | None = None,
) -> int:
    """Exit status of `command`: what it returns (0 for None), or that of the error that ended it, told in one line.

    UserError, and OSError (a folder that cannot be written, a full disk): 2. RunStopped: 1. Ctrl-C: 130. A reader of standard output
    that left: 1, without a word. Other errors are faults of the program and pass.

    Args:
        program: what the line starts with.
        interrupted: what Ctrl-C makes the command say.
        say: where to say that, as `Console.line`; default: standard error, where the errors go.
    """
    os.environ.setdefault(*PATIENT_THREADS)
    try:
        return command() or 0
    except UserError as error:
        reason = str(error)
    except RunStopped as error:
        to_stderr(f"{program}: stopped: {error}")
        return STOPPED
    except BrokenPipeError:
        # Keeps the interpreter's last flush from failing too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        reason = os_error_reason(error)
    except KeyboardInterrupt:
        (say or to_stderr)(f"{program}: {interrupted}")
        return INTERRUPTED
    to_stderr(f"{program}: error: {reason}")
    return WRONG_INPUT


def os_error_reason(error: OSError) -> str:
    """The error in one line, the file first where it is known."""
    reason = error.strerror or (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
