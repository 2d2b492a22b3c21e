"""Where DeepSpeed's operators are compiled: a folder for each environment, and locks of builds that were killed."""

import hashlib
import os
import sys
import time
from pathlib import Path

VARIABLE = "TORCH_EXTENSIONS_DIR"
# A build that another machine with the same home works at looks as one that was killed here; it takes a minute or two.
LOCK_LIVES_S = 180.0


def settle() -> None:
    """Set torch's folder of compiled operators for this process and all that it starts, and remove locks that nobody holds.

    Torch's own choice is one folder for all environments of a user: the build files have the paths of the environment that ran last,
    so that another one compiles everything again. And a build that is killed leaves its lock there, at which every later run
    waits for ever, without a word.
    """
    os.environ.setdefault(VARIABLE, str(folder()))
    for lock in stale_locks(Path(os.environ[VARIABLE])):
        print(f"removed {lock}: the build that made it has ended", file=sys.stderr)
        lock.unlink(missing_ok=True)


def folder() -> Path:
    """Of this environment, by its path."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    name = hashlib.sha256(os.fsencode(sys.prefix)).hexdigest()[:12]
    return cache / "spo_rlhf" / "torch_extensions" / name


def stale_locks(extensions: Path) -> list[Path]:
    """Locks of torch's builds that no process here holds open, and that are older than a build of another machine would be."""
    locks = [lock for lock in extensions.glob("*/lock") if time.time() - lock.stat().st_mtime > LOCK_LIVES_S]
    if not locks:
        return []
    held = _open_files()
    return [lock for lock in locks if str(lock.resolve()) not in held]


def _open_files() -> set[str]:
    """Paths that processes here have open, of those that this user may look at."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found.add(os.readlink(link))
        except OSError:  # it has ended meanwhile, or is another user's
            continue
    return found
