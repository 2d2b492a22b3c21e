"""Stored grades are of the files that gave them, also of those that are known only once they were used."""

from pathlib import Path

import pytest

from spo_rlhf.rollout.reward import FileReward
from spo_rlhf.sampling import graded_by
from spo_rlhf.sampling.graded_by import GradedBy
from spo_rlhf.sampling.sample_log import SampleLog

REWARD = """
import atexit
import json, sys
from pathlib import Path
HERE = Path(__file__).parent
TABLE = json.loads((HERE / "table.json").read_text())
sys.path.insert(0, str(HERE))
def reward_func(queries, prompts, labels):
    open(HERE / "log.txt", "a").write(queries[0])
    (HERE / "log.txt").read_text()
    open("/proc/self/statm").read()
    if queries[0] == prompts[0]:
        return {"rewards": [0.0]}
    import helper_of_this_test
    return {"rewards": [helper_of_this_test.VALUE + float((HERE / "late.txt").read_text())]}
"""


@pytest.fixture
def graded(tmp_path):
    """Grades as spo-sample does: an empty response first, then the stored sample if it is of another grader."""
    for name, text in {
        "reward.py": REWARD,
        "table.json": "{}",
        "helper_of_this_test.py": "VALUE = 1\n",
        "late.txt": "1",
    }.items():
        (tmp_path / name).write_text(text)

    def run(*, killed: bool = False) -> tuple[str | None, str, set[Path]]:
        """What graded the stored sample before, and now; all files."""
        with FileReward(str(tmp_path / "reward.py"), 1, 60.0) as reward:
            reward.submit("p", "p", "l").result()
            files = reward.files()
        log = SampleLog(tmp_path / "out" / "samples.jsonl", ("id",))
        with FileReward(str(tmp_path / "reward.py"), 2, 60.0) as reward:
            names = GradedBy(tmp_path / "out", files, reward.files)
            before = log.rows.get((0,), {}).get("grader")
            if before != names.name():
                reward.submit("p and more", "p", "l").result()
                log.append({"id": 0, "grader": names.name()})
            if not killed:
                names.settle(log)
            log.close(list(log.rows))
            return before, log.rows[0,]["grader"], names.files

    return run


def test_what_was_read_or_imported_late_counts_from_the_next_start(graded, tmp_path):
    nothing, first, files = graded()
    mine = {path.name for path in files if path.is_relative_to(tmp_path)}
    assert nothing is None and mine == {"table.json", "helper_of_this_test.py", "late.txt"}
    assert not any(path.is_relative_to(place) for path in files for place in ("/proc", "/usr"))
    assert graded()[:2] == (first, first), "what is the same is not graded again"
    for name, text in (("late.txt", "2"), ("table.json", "[]"), ("helper_of_this_test.py", "VALUE = 3\n")):
        (tmp_path / name).write_text(text)
        before, now, _ = graded()
        assert before == first != now, name
        assert graded()[:2] == (now, now)
        first = now
    (tmp_path / "late.txt").rename(tmp_path / "kept")
    with pytest.raises(Exception, match="late.txt"):
        graded()


def test_a_killed_run_has_written_down_what_it_found(graded, tmp_path):
    _, first, _ = graded(killed=True)
    assert graded(killed=True)[:2] == (first, first)
    (tmp_path / "late.txt").write_text("2")
    assert graded(killed=True)[1] != first


def test_files_of_the_package_are_found_where_it_has_moved(tmp_path, monkeypatch):
    mine, other = Path(graded_by.__file__), tmp_path / "data"
    names = GradedBy(tmp_path, {mine, other})
    names.write()
    assert '"spo_rlhf/sampling/graded_by.py"' in (tmp_path / graded_by.FILE).read_text()
    assert GradedBy(tmp_path, ()).files == {mine, other}
    for broken in ("{", "[]", '{"files": 7}', '{"files": [7]}'):
        (tmp_path / graded_by.FILE).write_text(broken)
        assert GradedBy(tmp_path, {mine}).files == {mine}
