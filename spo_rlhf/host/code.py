"""Which code is at work, told by content: stored grades are of it."""

import hashlib
import importlib.metadata
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

PROJECT = __name__.partition(".")[0]
# What decides a grade and is installed; the rest of an environment is not part of it.
LIBRARIES = ("math-verify", "latex2sympy2-extended", "antlr4-python3-runtime", "sympy")


def code_hash(modules: Iterable[ModuleType], files: Iterable[Path] = ()) -> str:
    """A short name of the content of those modules that are no library's, of more files, and of the versions of LIBRARIES.

    Where the files lie and what they are called does not count.
    """
    paths = {Path(path) for module in modules if (path := _own_file(module))} | set(files)
    contents = {hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in paths if path.is_file()}
    return hashlib.blake2b(repr([sorted(contents), _versions()]).encode(), digest_size=8).hexdigest()


def _own_file(module: ModuleType) -> str | None:
    """The file of a module of this project, or of the user's; None of a library's."""
    path = getattr(module, "__file__", None)
    if not isinstance(path, str):
        return None
    installed = {"site-packages", "dist-packages"} & set(Path(path).parts)
    library = installed or any(path.startswith(f"{sysconfig.get_path(name)}/") for name in ("stdlib", "platstdlib"))
    is_project = str(getattr(module, "__name__", "")).partition(".")[0] == PROJECT
    return path if is_project or not library else None


def _versions() -> list[str]:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
