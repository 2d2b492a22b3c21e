"""The folder of a run that its rollouts are kept in: a file a step, bounded in size; a full disk ends it with a line."""

from collections.abc import Callable
from pathlib import Path

from spo_rlhf.host.files import whole_file
from spo_rlhf.rollouts.schema import FOLDER, PATTERN, file_name, step_of

MEGABYTE = 1_000_000


class RolloutStore:
    """Writes files and thins old ones out; never raises for what the disk does.

    Where the files together would pass the bound, every second one goes, the oldest first, until they fit: late steps
    stay dense, and the course of the run stays visible from its start.

    Args:
        run_dir: of the run.
        megabytes: most that the files may take together.
        say: where the one line goes that tells why no more is kept.
    """

    def __init__(self, run_dir: Path, megabytes: float, say: Callable[[str], None]):
        self.folder, self.limit, self.say = run_dir / FOLDER, int(megabytes * MEGABYTE), say
        self.on = True

    def keep(self, step: int, content: bytes) -> None:
        """Write the file of a step, in the place of one that an earlier start wrote."""
        if not self.on:
            return
        if len(content) > self.limit / 2:
            self._stop(f"those of step {step} take {len(content) / MEGABYTE:.1f} MB; raise --spo.save_rollouts_mb")
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(len(content))
            with whole_file(self.folder / file_name(step)) as partial:
                partial.write_bytes(content)
        except OSError as error:
            self._stop(f"{error.filename or self.folder}: {error.strerror or error}")

    def cut(self, last_step: int) -> None:
        """Remove what an earlier start kept of the steps behind `last_step`: they are trained again."""
        try:
            for path in self._files():
                if step_of(path.name) > last_step:
                    path.unlink()
        except OSError as error:
            self._stop(f"{error.filename or self.folder}: {error.strerror or error}")

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.glob(PATTERN) if path.name[5:-9].isdigit())

    def _make_room(self, size: int) -> None:
        files = [(path, path.stat().st_size) for path in self._files()]
        total = size + sum(size for _, size in files)
        while total > self.limit and files:
            # Of one file alone that file itself goes.
            for path, size in files[1::2] or files[:1]:
                path.unlink()
                files.remove((path, size))
                total -= size
                if total <= self.limit:
                    break

    def _stop(self, reason: str) -> None:
        self.on = False
        self.say(f"note: no more rollouts are kept ({reason})")
