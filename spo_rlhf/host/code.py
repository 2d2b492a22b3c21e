"""Which code and data are at work, told by content: stored grades are of them.

In a process that grades, `watch` before anything of the user's is loaded, and `used` after each grade: the modules that
are no library's, and the files that Python has opened to read. What a library reads by itself, what another program or
a server says, is not seen.
"""

import hashlib
import importlib.metadata
import os
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

PROJECT = __name__.partition(".")[0]
# What decides a grade and is installed; the rest of an environment is not part of it.
LIBRARIES = ("math-verify", "latex2sympy2-extended", "antlr4-python3-runtime", "sympy")
SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/run/")
NOT_READ = os.O_WRONLY | os.O_RDWR

_read: set[str] = set()
_written: set[str] = set()
_told: set[str] = set()
_seen: list[int] = []  # how much there was when `used` last looked


def code_hash(modules: Iterable[ModuleType], files: Iterable[Path] = ()) -> str:
    """A short name of the content of those modules that are no library's, of more files, and of the versions of LIBRARIES.

    Where the files lie and what they are called does not count.
    """
    paths = {*own_files(modules), *files}
    contents = {_digest(path) for path in paths if path.is_file()}
    return hashlib.blake2b(repr([sorted(contents), _versions()]).encode(), digest_size=8).hexdigest()


def own_files(modules: Iterable[ModuleType]) -> set[Path]:
    """The files of those modules that are no library's."""
    return {Path(path) for module in modules if (path := _own_file(module))}


def watch() -> None:
    """Take down from now on which files this process opens. For a process that only grades: it cannot be ended."""
    sys.addaudithook(_see)


def used() -> tuple[set[str], set[str]]:
    """Own files that this process has loaded or read, and those that it has written to, since the last call."""
    now = [len(sys.modules), len(_read), len(_written)]
    if now == _seen:
        return set(), set()
    _seen[:] = now
    loaded = {str(path) for path in own_files(list(sys.modules.values()))}
    read = {path for path in _read.copy() if not _is_installed(path) and not path.endswith(".pyc")}
    fresh = (loaded | read) - _told
    _told.update(fresh)
    return fresh, _written.copy()


def _see(event: str, args: tuple[Any, ...]) -> None:
    if event != "open":
        return
    path, mode, flags = args
    if not isinstance(path, (str, bytes)):  # a descriptor is of a file that was opened before
        return
    writes = any(sign in mode for sign in "wax+") if isinstance(mode, str) else flags & NOT_READ
    with suppress(OSError):  # the folder that a relative path starts from is gone; nothing may fail for being watched
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith(SYSTEM):
            (_written if writes else _read).add(path)


def _own_file(module: ModuleType) -> str | None:
    """The file of a module of this project, or of the user's; None of a library's."""
    told = getattr(module, "__dict__", {})  # not by attribute: some modules load more when they are asked
    path = told.get("__file__")
    if not isinstance(path, str):
        return None
    is_project = str(told.get("__name__", "")).partition(".")[0] == PROJECT
    return path if is_project or not _is_library(path) else None


def _is_library(path: str) -> bool:
    installed = {"site-packages", "dist-packages"} & set(Path(path).parts)
    return bool(installed) or any(path.startswith(f"{sysconfig.get_path(name)}/") for name in ("stdlib", "platstdlib"))


def _is_installed(path: str) -> bool:
    """Whether a file belongs to the environment, though no module's."""
    return _is_library(path) or path.startswith((f"{sys.prefix}/", f"{sys.base_prefix}/"))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _versions() -> list[str]:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
