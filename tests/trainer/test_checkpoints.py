"""Checkpoints as folders: which are whole, which go, and what a crash, a full disk or another run can do to them."""

import contextlib
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from spo_rlhf.errors import RunStopped
from spo_rlhf.trainer import checkpoints
from spo_rlhf.trainer.checkpoints import Checkpoint, differences, found_in, newest, spared_for_room, superseded

RUN = {"spo.mode": "chain", "actor.model_name_or_path": {"hidden_size": 64, "layers": 2}}


def write(folder: Path, step: int, *, best=False, metric=None, size=10, most=3, most_bytes=1e12) -> Path:
    with checkpoints.writing(folder, checkpoints.name_of(step, best=best)) as one:
        (one.path / "_actor").mkdir()
        (one.path / "_actor" / "weights.pt").write_bytes(bytes(size))
        return one.finish(metric=metric, run=RUN, most=most, most_bytes=most_bytes)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_whole_one_is_the_last_that_was_written(tmp_path):
    assert newest(tmp_path / "none") is None
    for step in (2, 10, 4):  # a run that went on from an earlier step writes a lower one later
        write(tmp_path, step)
    found = newest(tmp_path)
    assert found is not None and (found.step, found.number, found.run) == (4, 3, RUN)
    assert found.size == 10 and not found.best


@pytest.mark.parametrize("harm", ["manifest", "missing", "short", "unreadable", "endless", "of no run", "a digit"])
def test_one_that_is_not_whole_is_passed_over_and_told(tmp_path, harm):
    write(tmp_path, 1)
    last = write(tmp_path, 2)
    weights = last / "_actor" / "weights.pt"
    match harm:
        case "manifest":
            (last / checkpoints.MANIFEST).unlink()
        case "unreadable":
            (last / checkpoints.MANIFEST).write_text("{")
        case "endless":
            (last / checkpoints.MANIFEST).write_text("[" * 100_000)
        case "of no run":
            (last / checkpoints.MANIFEST).write_text('{"files": {}, "number": 2, "metric": null, "run": null}')
        case "a digit":
            text = (last / checkpoints.MANIFEST).read_text()
            (last / checkpoints.MANIFEST).write_text(text.replace('"number": 2', '"number": 3'))
        case "missing":
            weights.unlink()
        case _:
            weights.write_bytes(b"123")
    whole, broken = found_in(tmp_path)
    assert [one.step for one in whole] == [1]
    expected = {"missing": "weights.pt is missing", "short": "weights.pt has 3 bytes of 10"}
    assert expected.get(harm, checkpoints.MANIFEST) in broken[last]


def test_damage_of_equal_size_is_seen_by_the_checksums(tmp_path):
    path = write(tmp_path, 1)
    [one], _ = found_in(tmp_path)
    assert set(one.checksums) == {"_actor/weights.pt"} and checkpoints.damage(one) is None
    (path / "_actor" / "weights.pt").write_bytes(bytes(9) + b"1")
    [one], broken = found_in(tmp_path)
    assert checkpoints.damage(one) == "_actor/weights.pt: not the bytes that were written" and not broken
    (path / "_actor" / "weights.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.pt"):
        checkpoints.damage(one)


def test_one_of_an_earlier_version_has_no_checksums_and_is_taken(tmp_path):
    path = write(tmp_path, 1)
    record = json.loads((path / checkpoints.MANIFEST).read_text())
    del record["checksums"], record["record"]
    (path / checkpoints.MANIFEST).write_text(json.dumps(record))
    (path / "_actor" / "weights.pt").write_bytes(bytes(9) + b"1")
    [one], _ = found_in(tmp_path)
    assert one.size == 10 and checkpoints.damage(one) is None


@pytest.mark.parametrize("point", ["before", "while", "after the rename"])
def test_a_crash_at_any_point_leaves_a_whole_one(tmp_path, monkeypatch, point):
    write(tmp_path, 1, most=1)

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    if point == "while":
        monkeypatch.setattr(checkpoints, "sync", killed)
    elif point == "after the rename":
        monkeypatch.setattr(checkpoints, "superseded", killed)
    monkeypatch.setattr(checkpoints, "remove", lambda path: None)  # a killed process tidies nothing up
    with pytest.raises(Killed), checkpoints.writing(tmp_path, "global_step2") as one:
        (one.path / "weights.pt").write_bytes(b"1")
        if point == "before":
            killed()
        one.finish(metric=None, run=RUN, most=1, most_bytes=1e12)
    monkeypatch.undo()
    found = newest(tmp_path)
    assert found is not None and found.step == (2 if point == "after the rename" else 1)
    assert (tmp_path / "global_step1").exists(), "the old one goes last"
    (tmp_path / ".best_global_step7_hf.leaving").mkdir()
    (tmp_path / ".another").mkdir()
    checkpoints.clear_leftovers(tmp_path)
    (tmp_path / ".another").rmdir()
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    write(tmp_path, 3, most=1)
    assert names(tmp_path) == ["global_step3"]


def test_what_does_not_finish_leaves_nothing(tmp_path):
    with checkpoints.writing(tmp_path, "global_step1") as one:
        (one.path / "weights.pt").write_bytes(b"1")
    assert names(tmp_path) == []
    with pytest.raises(OSError, match="No space"), checkpoints.writing(tmp_path, "global_step1"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_one_of_the_same_step_is_replaced(tmp_path):
    write(tmp_path, 1, size=5)
    write(tmp_path, 1, size=7)
    assert names(tmp_path) == ["global_step1"] and newest(tmp_path).size == 7


def test_of_one_that_was_moved_and_linked_to_the_link_goes(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "run").mkdir()
    write(tmp_path / "run", 1).rename(elsewhere)
    (tmp_path / "run" / "global_step1").symlink_to(elsewhere)
    write(tmp_path / "run", 2, most=1)
    assert names(tmp_path / "run") == ["global_step2"] and (elsewhere / checkpoints.MANIFEST).exists()


@pytest.mark.parametrize("is_link", [True, False])
def test_what_has_the_name_of_one_and_is_no_folder_makes_way(tmp_path, is_link):
    for name in ("global_step1", ".global_step1.making", ".global_step1.leaving", ".global_step9.leaving"):
        (tmp_path / name).symlink_to("nowhere") if is_link else (tmp_path / name).touch()
    checkpoints.clear_leftovers(tmp_path)
    assert names(tmp_path) == ["global_step1"]
    write(tmp_path, 1)
    assert names(tmp_path) == ["global_step1"] and newest(tmp_path).step == 1


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_while_one_of_the_same_step_is_replaced_leaves_a_whole_one(tmp_path, monkeypatch, renames):
    """As where a run is asked to end after iterations that had nothing to train."""
    if not checkpoints._swap(write(tmp_path, 1), write(tmp_path, 2)):
        pytest.skip("this file system cannot swap two names")
    shutil.rmtree(tmp_path / "global_step2")
    rename, left = Path.rename, iter(range(renames))

    class Killed(BaseException):
        pass

    def killed(*paths):
        if next(left, None) is None:
            raise Killed
        return rename(*paths)

    monkeypatch.setattr(checkpoints, "remove", lambda path: None)  # a killed process tidies nothing up
    monkeypatch.setattr(Path, "rename", killed)
    with contextlib.suppress(Killed):
        write(tmp_path, 1)
    monkeypatch.undo()
    checkpoints.clear_leftovers(tmp_path)
    assert newest(tmp_path) is not None


def numbered(*described) -> list[Checkpoint]:
    """(step, metric or "best", bytes) in the order of their writing."""
    return [
        Checkpoint(
            Path(f"{step}"), step, number, size, best=metric == "best", metric=None if metric == "best" else metric
        )
        for number, (step, metric, size) in enumerate(described)
    ]


@pytest.mark.parametrize(
    ("whole", "most", "most_bytes", "gone"),
    [
        ([], 1, 9, []),
        ([(1, None, 1)], 1, 0, []),  # the newest stays
        ([(1, None, 1), (2, None, 1), (3, None, 1)], 2, 9, [1]),
        ([(1, None, 1), (2, None, 1), (3, None, 1)], 1, 9, [1, 2]),
        ([(1, 0.9, 1), (2, 0.1, 1), (3, 0.5, 1), (4, 0.0, 1)], 2, 9, [2, 3]),  # the worst, never the newest
        ([(1, 0.9, 1), (2, None, 1), (3, 0.5, 1)], 2, 9, [2]),  # without an evaluation first
        ([(1, "best", 5), (2, None, 1), (3, None, 1)], 2, 9, []),  # the best counts for bytes alone
        ([(1, "best", 5), (2, None, 3), (3, None, 3)], 3, 9, [2]),
        ([(1, "best", 1), (2, None, 1), (3, "best", 1)], 3, 9, [1]),
    ],
)
def test_which_go(whole, most, most_bytes, gone):
    assert [one.step for one in superseded(numbered(*whole), most, most_bytes)] == gone


@pytest.mark.parametrize(("missing", "gone"), [(-5, []), (0, []), (1, [1]), (3, [1]), (4, [1, 3]), (7, None)])
def test_room_is_made_by_the_oldest_and_never_by_the_newest_or_the_best(missing, gone):
    whole = numbered((1, None, 3), (2, "best", 3), (3, None, 3), (4, None, 3))
    made = spared_for_room(whole, missing)
    assert (made and [one.step for one in made]) == gone or (made == gone == [])


def test_a_disk_without_room_stops_the_run_before_the_step_and_says_where_it_is(tmp_path, monkeypatch):
    disk = namedtuple("disk", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk(100))
    notes: list[str] = []
    checkpoints.make_room(tmp_path, 100, 5, notes.append)
    with pytest.raises(RunStopped, match=r"step 5 needs 0 MB; .*\(there is no checkpoint yet\)"):
        checkpoints.make_room(tmp_path, 101, 5, notes.append)
    write(tmp_path, 1, size=99)
    with pytest.raises(RunStopped, match="global_step1"):
        checkpoints.make_room(tmp_path, 1, 5, notes.append)
    write(tmp_path, 2, size=99)
    checkpoints.make_room(tmp_path, 1, 5, notes.append)
    assert names(tmp_path) == ["global_step2"] and "global_step1 is removed" in notes[0]


def test_what_is_exported_beside_a_checkpoint_needs_room_too(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("disk", "free")(150))
    write(tmp_path, 1, size=100)
    checkpoints.make_room(tmp_path, 1, 2, [].append)
    (tmp_path / "global_step1_hf").mkdir()
    (tmp_path / "global_step1_hf" / "model.safetensors").write_bytes(bytes(50))
    with pytest.raises(RunStopped, match="step 2 needs"):
        checkpoints.make_room(tmp_path, 1, 2, [].append)


def test_damaged_ones_go_before_a_new_one_is_written_and_say_so(tmp_path):
    paths = {step: write(tmp_path, step, most=9) for step in (1, 2, 3, 4)}
    (paths[1] / "_actor" / "weights.pt").write_bytes(b"short")
    (paths[2] / checkpoints.MANIFEST).unlink()  # whose it is nobody can tell
    (paths[4] / "_actor" / "weights.pt").write_bytes(bytes(9) + b"1")
    notes: list[str] = []
    checkpoints.remove_damaged(tmp_path, {paths[4]}, notes.append)
    assert names(tmp_path) == ["global_step2", "global_step3"]
    assert notes == [
        f"{paths[1]} is damaged (_actor/weights.pt has 5 bytes of 10) and was removed",
        f"{paths[4]} is damaged (not the bytes that were written) and was removed",
    ]
    checkpoints.remove_damaged(tmp_path, set(), notes.append)
    assert len(notes) == 2


@pytest.mark.parametrize("whole", [0, 1])
def test_where_none_is_whole_a_damaged_one_stays(tmp_path, whole):
    for step in (1, 2):
        (write(tmp_path, step) / "_actor" / "weights.pt").write_bytes(bytes(9 + (step == whole)))
    checkpoints.remove_damaged(tmp_path, {tmp_path / "global_step1"}, pytest.fail)
    assert names(tmp_path) == ["global_step1", "global_step2"]


def test_one_that_cannot_be_removed_is_told_and_stops_nothing(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    (write(tmp_path, 1) / "_actor" / "weights.pt").write_bytes(b"1")
    write(tmp_path, 2)
    monkeypatch.setattr(checkpoints, "remove", refused)
    notes: list[str] = []
    checkpoints.remove_damaged(tmp_path, set(), notes.append)
    assert len(notes) == 1 and "cannot be removed (Permission denied)" in notes[0]


def test_another_run_is_told_by_what_differs():
    assert differences(RUN, json.loads(json.dumps(RUN))) == []
    other = {"spo.mode": "tree", "actor.model_name_or_path": {"hidden_size": 128, "layers": 2}, "new": 1}
    assert differences(RUN, other) == [
        "--spo.mode is 'tree', was 'chain'",
        "hidden_size of --actor.model_name_or_path is 128, was 64",
    ]
