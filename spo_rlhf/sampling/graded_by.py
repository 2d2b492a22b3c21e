"""What has graded the samples of a folder: the files, remembered beside them as they are found out, by content.

Some files are known only once they were used: a module that is imported for one kind of answer, a table that is read
with the first real response. The next start looks at those too.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from spo_rlhf.errors import UserError
from spo_rlhf.host.code import PROJECT, code_hash
from spo_rlhf.host.files import read_json, write_json
from spo_rlhf.sampling.sample_log import SampleLog

FILE = "graded_by.json"
INSTALLED = Path(__file__).parents[2]  # where the package lies: its files are found again where it has moved


class GradedBy:
    """The name of what grades a folder's samples.

    Args:
        files: what is known to grade, before the first grade.
        found: the files that were found to grade by now.
    """

    def __init__(self, folder: Path, files: Iterable[Path], found: Callable[[], set[Path]] = set):
        self.path, self.found = folder / FILE, found
        self.files = {*files, *_read(self.path)}
        self.size, self.named = -1, ""
        self.names: set[str] = set()  # all of this run

    def name(self) -> str:
        """The name by now. What is new is in the folder when this returns."""
        self.files |= self.found()
        if len(self.files) != self.size:
            grown, self.size = self.size >= 0, len(self.files)
            if grown:
                self.write()
            self.named = code_hash((), self.files)
            self.names.add(self.named)
        return self.named

    def write(self) -> None:
        """Remember the files in the folder."""
        write_json(self.path, {"files": sorted(map(_relative, self.files))})

    def settle(self, log: SampleLog) -> None:
        """Samples that this run has graded, or found to be of the same, get the name of all that was found."""
        last = self.name()
        self.write()
        for row in log.rows.values():
            if row.get("grader") in self.names:
                row["grader"] = last


def _relative(path: Path) -> str:
    return str(path.relative_to(INSTALLED)) if path.is_relative_to(INSTALLED / PROJECT) else str(path)


def _read(path: Path) -> set[Path]:
    """None of a file that is missing or broken: what is graded is graded again then, where it was of more."""
    try:
        files = read_json(path)["files"]
        return {INSTALLED / name for name in files}
    except (UserError, KeyError, TypeError):
        return set()
