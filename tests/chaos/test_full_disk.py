"""A disk that is really full, a small one mounted for the test: it is told, and what was there before stays whole.

A whole run on such a disk: test_killed.py.
"""

import json
import subprocess

import pytest
import small_disk
import torch
from small_disk import MB, fill

from spo_rlhf.errors import RunStopped
from spo_rlhf.host.console import Console
from spo_rlhf.host.files import whole_files
from spo_rlhf.launch.output import explain, older, output_to
from spo_rlhf.launch.record import RunRecord
from spo_rlhf.rollouts.store import RolloutStore
from spo_rlhf.trainer import checkpoints


@pytest.fixture
def disk(tmp_path):
    """A folder that is a disk of 64 MB."""
    with small_disk.mounted(tmp_path / "disk") as mounted:
        if not mounted:
            pytest.skip("only root may mount")
        yield tmp_path / "disk"


def checkpoint(folder, step: int, size: int, most: int = 3) -> None:
    with checkpoints.writing(folder, checkpoints.name_of(step)) as one:
        torch.save(torch.zeros(size // 4), one.path / "weights.pt")
        one.finish(metric=None, run={}, most=most, most_bytes=1e12)


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before_whole(disk):
    checkpoint(disk, 1, 4 * MB, most=1)
    fill(disk, leave=2 * MB)
    notes: list[str] = []
    with pytest.raises(RunStopped, match=r"^the checkpoint of step 2 needs 4 MB; 2 MB are free .*global_step1\)$"):
        checkpoints.make_room(disk, 1, 2, notes.append)
    with pytest.raises((OSError, RuntimeError), match="."):
        checkpoint(disk, 2, 4 * MB, most=1)
    [one], broken = checkpoints.found_in(disk)
    assert (one.step, broken) == (1, {}) and not list(disk.glob(".*"))
    assert torch.load(one.path / "weights.pt").numel() == MB


def test_a_record_on_a_full_disk_names_its_file(disk):
    record = RunRecord(disk, Console())
    record.take({"event": "note", "text": "one", "time": record.start})
    fill(disk)
    with pytest.raises(OSError, match="No space left") as full:
        for _ in range(10_000):  # what is left of the file's last block
            record.take({"event": "note", "text": "two", "time": record.start})
    status, line = explain(full.value, "train.log")
    assert status == 1 and line == f"error: {disk / 'metrics.jsonl'}: No space left on device (log: train.log)"
    assert json.loads((disk / "metrics.jsonl").read_text().splitlines()[0])["text"] == "one"


def test_a_disk_that_became_read_only_is_told_by_the_file_that_it_does_not_take(disk):
    checkpoint(disk, 1, MB)
    record = RunRecord(disk, Console())
    record.take({"event": "note", "text": "one", "time": record.start})
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    print(f"injected: {disk} is read-only")
    with pytest.raises(OSError, match="Read-only") as refused:
        record.take({"event": "note", "text": "two", "time": record.start})
    told = explain(refused.value, "train.log")[1]
    assert told == f"error: {disk / 'metrics.jsonl'}: Read-only file system (log: train.log)"
    with pytest.raises(OSError, match="Read-only"):
        checkpoint(disk, 2, MB)
    [one], broken = checkpoints.found_in(disk)
    assert (one.step, broken) == (1, {})


def test_rollouts_that_find_no_room_are_told_once_and_do_not_end_the_run(disk):
    said: list[str] = []
    store = RolloutStore(disk, 50, said.append)
    store.keep(1, b"1" * MB)
    fill(disk)
    for step in (2, 3):
        store.keep(step, b"2" * MB)
    assert len(said) == 1 and "No space left on device" in said[0]
    assert [path.read_bytes() for path in (disk / "rollouts").iterdir()] == [b"1" * MB]


def test_a_model_that_finds_no_room_leaves_the_one_before_whole(disk):
    for weights in (b"1", b"2"):
        with whole_files(disk / "model") as folder:
            (folder / "model.safetensors").write_bytes(weights * MB)
            (folder / "templates").mkdir()
            (folder / "templates" / "chat").write_bytes(weights)
    (disk / "model" / "notes of the user").touch()
    fill(disk)
    with pytest.raises(OSError, match="No space left on device"), whole_files(disk / "model") as folder:
        (folder / "model.safetensors").write_bytes(b"3" * MB)
    assert sorted(path.name for path in (disk / "model").iterdir()) == [
        "model.safetensors",
        "notes of the user",
        "templates",
    ]
    assert (disk / "model" / "model.safetensors").read_bytes() == b"2" * MB
    assert (disk / "model" / "templates" / "chat").read_bytes() == b"2"


def test_a_log_on_a_full_disk_loses_lines_and_ends_nothing(disk, capfd):
    fill(disk)
    with output_to(disk / "train.log") as console:
        for _ in range(100):
            print("a warning" * 1000)
        console.line("spo-train: stopped")
    assert capfd.readouterr().out.splitlines()[-1] == "spo-train: stopped"


def test_a_log_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("spo_rlhf.launch.output.LOG_BYTES", 10_000)
    monkeypatch.setattr("spo_rlhf.launch.output.LOG_POLL_S", 0.01)
    log = tmp_path / "train.log"
    with output_to(log):
        writer = subprocess.Popen(["bash", "-c", "for i in {1..3000}; do echo line $i; sleep 0.0003; done"])
        writer.wait()
    both = older(log).read_text() + log.read_text()
    assert both.endswith("line 3000\n") and len(both) < 36_000 and older(log).stat().st_size > 10_000
    assert "\0" not in both, "whoever has it open appends"
