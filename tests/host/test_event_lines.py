"""The record of a run as it is found: what cannot be read is counted and told in one line."""

import json

import pytest

from spo_rlhf.host.event_lines import read_events

STEPS = [{"event": "step", "step": step, "metrics": {"loss": 0.5}} for step in range(1, 9)]
LINES = [json.dumps(step).encode() for step in STEPS]


def read(path, *lines: bytes, last: bytes = b"") -> tuple[list[dict], list[str]]:
    path.write_bytes(b"".join(line + b"\n" for line in lines) + last)
    told: list[str] = []
    return read_events(path, told.append), told


def test_a_whole_record_and_none_tell_nothing(tmp_path):
    assert read(tmp_path / "metrics.jsonl", *LINES) == (STEPS, [])
    assert read(tmp_path / "metrics.jsonl", b"", *LINES[:2], b" ") == (STEPS[:2], [])
    assert read_events(tmp_path / "none", pytest.fail) == []


@pytest.mark.parametrize("last", [LINES[3][:17], b"\0" * 40, LINES[3][:-1] + b"\xff"])
def test_a_last_line_that_was_cut_off_is_as_it_should_be(tmp_path, last):
    assert read(tmp_path / "metrics.jsonl", *LINES[:3], last=last) == (STEPS[:3], [])


def test_a_last_line_that_lacks_its_end_alone_counts(tmp_path):
    assert read(tmp_path / "metrics.jsonl", *LINES[:3], last=LINES[3]) == (STEPS[:4], [])


@pytest.mark.parametrize(
    "broken",
    [LINES[1][:17], b"\0" * 40, LINES[1].replace(b"loss", b"lo\xffs"), b"[1]", b'{"step": 2}', b"[" * 100_000],
    ids=["cut off", "zeros", "no text", "a list", "no event", "endless"],
)
def test_a_broken_line_in_between_is_left_out_and_told(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    events, told = read(path, LINES[0], broken, *LINES[2:])
    assert events == [STEPS[0], *STEPS[2:]]
    assert told == [f"{path}: 1 of 8 lines cannot be read and are left out (line 2)"]


def test_many_are_told_in_one_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    events, told = read(path, *[b"?", LINES[0]] * 7, last=b"?")
    assert len(events) == 7
    assert told == [f"{path}: 7 of 14 lines cannot be read and are left out (lines 1, 3, 5, 7, 9 and 2 more)"]
