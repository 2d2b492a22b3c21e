"""The folder of a run and the process that watches over it: whatever ends the run, nothing of it is left behind."""

import contextlib
import getpass
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from spo_rlhf.host import watcher

END_S = watcher.ASKED_S + watcher.KILLED_S + 5.0


@contextlib.contextmanager
def own_folder(base: str | None = None) -> Iterator[Path]:
    """A new folder below `base`, gone at the end of the block or, where this process is killed, at the next start of a run."""
    folder = Path(tempfile.mkdtemp(prefix=watcher.PREFIX, dir=base))
    lock = watcher.lock_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def compiled_here() -> dict[str, str]:
    """Environment of those with temporary files of their own: torch keeps what it has compiled among them, for the next run too."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    return {name: os.environ.get(name, f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}")}


class OwnRun:
    """A folder `folder` for the temporary files of a run, watched from its start until `end`.

    What is started with `environment` belongs to the run: a watcher ends it within 10 s of the end of this process. What runs
    that are over have left in the same places is removed first.
    """

    def __init__(self, base: str | None = None) -> None:
        watcher.remove_dead(watcher.own_folders())
        self.folder = Path(tempfile.mkdtemp(prefix=watcher.PREFIX, dir=base))
        self._lock: int | None = watcher.lock_folder(self.folder)
        self._watcher = subprocess.Popen(
            [sys.executable, "-P", watcher.__file__, str(self.folder), str(self._lock)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(self._lock,),
            start_new_session=True,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Of what belongs to the run."""
        return {
            watcher.MARK: str(self.folder),
            "SPT_NOENV": "1",  # a process that gives itself a title then leaves its environment readable
            "TMPDIR": str(self.folder),
            "VLLM_RPC_BASE_PATH": str(
                self.folder
            ),  # its sockets, also those of a process that has asked for TMPDIR before
            **compiled_here(),
        }

    def end(self) -> None:
        """End what is left of the run and remove its folder. Safe to call twice."""
        if self._lock is None:
            return
        assert self._watcher.stdin is not None, "a pipe was asked for"
        os.close(self._lock)
        self._lock = None
        self._watcher.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._watcher.wait(END_S)
        if self._watcher.returncode:  # somebody has ended the watcher
            watcher.remove_dead({self.folder.parent})
