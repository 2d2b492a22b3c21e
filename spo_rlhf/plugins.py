"""Files of the user's own that add to the tables of this package: tasks, prompts, answer kinds, partitions and so on.

A plugin is a Python file that registers what it brings when it is imported::

    from spo_rlhf.tasks.registry import TASKS
    from spo_rlhf.tasks.task import Task

    TASKS.register("sums")(Task("sums of two numbers", files=("sums.jsonl",)))

Commands load the files that `--plugin` names (`named_in`) with `load`; processes that they start do the same on their
own, with `load_from_environment`, before they unpickle what comes from a plugin.
"""

import hashlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from spo_rlhf.errors import UserError

#: The loaded files for processes that are started from here, joined by `os.pathsep`.
VARIABLE = "SPO_PLUGINS"

_loaded: list[Path] = []
_brought: list[ModuleType] = []


def load(paths: Iterable[str | Path]) -> None:
    """Import each file once, under `module_name`, and export all that this process has loaded in SPO_PLUGINS.

    Raises:
        UserError: a file is missing or no Python file, or its import fails, for instance at a name that is taken; one
            line that names file, line and error.
    """
    for given in paths:
        path = Path(given).expanduser().resolve()
        if path not in _loaded:
            before = set(sys.modules)
            _import(path)
            _loaded.append(path)
            _brought.extend(module for name, module in list(sys.modules.items()) if name not in before)
    if _loaded:
        os.environ[VARIABLE] = os.pathsep.join(map(str, _loaded))
    else:
        os.environ.pop(VARIABLE, None)  # from another command's time: the processes started here must not differ


def load_from_environment() -> None:
    """Load what SPO_PLUGINS names: the first thing to do in a process that a command with plugins has started."""
    load([path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path])


def brought() -> list[ModuleType]:
    """The modules of the loaded files, and those that came with them."""
    return list(_brought)


def named_in(argv: Iterable[str], flag: str = "--plugin") -> list[str]:
    """The files that a command line names, as FLAG FILE or FLAG=FILE: what they add may have options in its parser."""
    paths, before = [], ""
    for argument in argv:
        if before == flag:
            paths.append(argument)
        elif argument.startswith(f"{flag}="):
            paths.append(argument.partition("=")[2])
        before = argument
    return paths


def module_name(path: Path) -> str:
    """The name of a file's module: the same in every process, so that what it defines can be pickled by reference."""
    digest = hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()
    return f"spo_plugin_{digest}_{re.sub(r'[^A-Za-z0-9]', '_', path.stem)}"


def _import(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"plugin {path}: no such file")
    if path.suffix != ".py" or os.pathsep in str(path):
        raise UserError(f"plugin {path}: give a Python file, NAME.py, without {os.pathsep!r} in its path")
    name = module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"plugin {path}{_line(error, path)}: {_told(error)}") from error


def _line(error: BaseException, path: Path) -> str:
    """ ", line N" of the plugin's own line at which the error came up; "" where there is none."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _told(error: BaseException) -> str:
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
