"""The log of samples: what is appended is there at once, found again, and sorted at the end."""

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import read_jsonl
from spo_rlhf.sampling.sample_log import SampleLog


def row(number: int, sample: int = 0, **more) -> dict:
    return {"id": number, "sample": sample, "response": "é\n", **more}


def test_a_row_is_in_the_file_before_the_log_is_closed_and_its_folder_is_made(tmp_path):
    path = tmp_path / "new" / "samples.jsonl"
    log = SampleLog(path, ("id", "sample"))
    log.append(row(1))
    assert list(read_jsonl(path)) == [row(1)] == list(SampleLog(path, ("id", "sample")).rows.values())


def test_the_last_row_of_a_key_counts_and_the_file_keeps_one_of_each(tmp_path):
    path = tmp_path / "samples.jsonl"
    log = SampleLog(path, ("id", "sample"))
    for entry in (row(2, 1), row(1), row(2, 0), row(1, reward=1.0)):
        log.append(entry)
    assert log.close([(2, 0), (2, 1), (1, 0)]) == [row(2, 0), row(2, 1), row(1, reward=1.0)]
    assert list(read_jsonl(path)) == [row(2, 0), row(2, 1), row(1, reward=1.0)]


def test_samples_that_no_longer_belong_are_put_aside_and_found_again(tmp_path):
    path = tmp_path / "samples.jsonl"
    log = SampleLog(path, ("id",))
    for number in (5, 9, 4):
        log.append(row(number))
    assert log.close([(9,)]) == [row(9)] == list(read_jsonl(path))
    assert list(read_jsonl(tmp_path / "samples.unused.jsonl")) == [row(4), row(5)]
    log = SampleLog(path, ("id",))
    assert log.close([(5,), (7,), (9,), (4,)]) == [row(5), row(9), row(4)] == list(read_jsonl(path))
    assert not (tmp_path / "samples.unused.jsonl").exists()


def test_a_sample_without_a_key_is_the_users_to_mend(tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(UserError, match="a sample without id, sample"):
        SampleLog(tmp_path / "samples.jsonl", ("id", "sample"))


def test_without_an_order_the_file_stays_as_it_was_written(tmp_path):
    path = tmp_path / "samples.jsonl"
    log = SampleLog(path, ("id",))
    for number in (5, 4):
        log.append(row(number))
    log.close()
    assert [entry["id"] for entry in read_jsonl(path)] == [5, 4]


def test_a_broken_line_before_the_last_is_the_users_to_mend(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text('{"id": 1}\nbroken\n{"id": 2}\n')
    with pytest.raises(UserError, match="line 2: not JSON"):
        SampleLog(path, ("id",))
