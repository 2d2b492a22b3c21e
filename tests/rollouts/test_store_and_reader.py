"""Files of kept rollouts: bounded, replaced, readable while they grow, loadable by what people use."""

import gzip
import json

import pytest
from kept_toy import METHODS, rows, write_run

from spo_rlhf import rollouts
from spo_rlhf.errors import UserError
from spo_rlhf.rollouts.rows import packed
from spo_rlhf.rollouts.schema import file_name
from spo_rlhf.rollouts.store import RolloutStore


@pytest.mark.parametrize("name", METHODS)
def test_what_is_written_is_read_from_the_run_its_folder_and_a_file(name, tmp_path):
    made = rows(name)
    write_run(tmp_path, made)
    assert list(rollouts.read(tmp_path)) == list(rollouts.read(tmp_path / "rollouts")) == made
    one = tmp_path / "rollouts" / file_name(2)
    assert list(rollouts.read(one)) == [row for row in made if row["step"] == 2]
    plain = tmp_path / "copy.jsonl"
    plain.write_bytes(gzip.decompress(one.read_bytes()))
    assert list(rollouts.read(plain)) == list(rollouts.read(one))


@pytest.mark.parametrize("name", METHODS)
def test_pandas_and_datasets_load_the_files_as_they_are(name, tmp_path):
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    made = rows(name)
    write_run(tmp_path / "run", made)
    files = sorted(map(str, (tmp_path / "run" / "rollouts").glob("*.gz")))
    assert len(files) == 2
    frame = pandas.concat(pandas.read_json(file, lines=True, dtype=False) for file in files)
    assert frame["response"].tolist() == [row["response"] for row in made]
    assert len(frame.explode(["token_texts", "logprobs"])) == sum(len(row["token_ids"]) for row in made)
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset("json", data_files=files, split="train", cache_dir=cache)
    assert loaded["advantages"][:] == [row["advantages"] for row in made] and loaded["reward"][:] == [
        row["reward"] for row in made
    ]
    assert len(datasets.Dataset.from_list(list(rollouts.read(tmp_path / "run")))) == len(made)


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_file_that_ends_in_the_middle_gives_the_rows_before(cut, tmp_path):
    made = [row for row in rows("chain") if row["step"] == 1]
    whole = packed(made)
    path = tmp_path / file_name(1)
    path.write_bytes(whole[:-cut])
    read = list(rollouts.read(path))
    assert read == made[: len(read)] and len(read) >= len(made) - 8
    plain = tmp_path / "plain.jsonl"
    plain.write_bytes(gzip.decompress(whole)[:-cut])
    assert list(rollouts.read(plain)) == (made if cut == 1 else made[:-1]), "of one byte: the line feed alone"


def test_a_file_that_ends_anywhere_gives_rows_and_one_with_a_changed_byte_is_refused(tmp_path):
    [row, *_] = made = rows("chain")[:2]
    whole, path = packed(made), tmp_path / file_name(1)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        read = list(rollouts.read(path))
        assert read == made[: len(read)], f"of {size} bytes"
    assert read == made and row
    for place in (
        *range(10, len(whole), 97),
        *range(len(whole) - 8, len(whole)),
    ):  # behind the header, and the check sum
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(UserError) as refused:
            list(rollouts.read(path))
        assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value), place
    assert "its compressed data are corrupt (" in str(refused.value)


def test_what_is_no_kept_rollout_is_refused_in_one_line(tmp_path):
    [row, *_] = rows("chain")
    path = tmp_path / "rows.jsonl"
    for line, says in (
        (json.dumps({**row, "schema": 2}), "line 1: rollouts of schema 2; this version of spo_rlhf reads schema 1"),
        (json.dumps({"a": 1}), "no row of kept rollouts"),
        ("[1]", "no row of kept rollouts"),
        ("{broken}\n" + json.dumps(row), "line 1: not JSON"),
    ):
        path.write_text(line + "\n")
        with pytest.raises(UserError, match=says):
            list(rollouts.read(path))
    packed_in_name = tmp_path / "rows.jsonl.gz"
    packed_in_name.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="rows.jsonl.gz: not compressed by gzip"):
        list(rollouts.read(packed_in_name))
    with pytest.raises(UserError, match="no such run or file"):
        list(rollouts.read(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no kept rollouts"):
        list(rollouts.read(tmp_path))
    write_run(tmp_path / "quick" / "train", [row])
    with pytest.raises(UserError, match="did you mean .*quick/train"):
        list(rollouts.read(tmp_path / "quick"))


def kept(store: RolloutStore) -> list[int]:
    return [int(path.name[5:13]) for path in sorted(store.folder.glob("step-*"))]


def test_old_steps_are_thinned_out_where_the_room_ends(tmp_path):
    said = []
    store = RolloutStore(tmp_path, 0.001, said.append)
    for step in range(1, 41):
        store.keep(step, b"x" * 100)
        assert sum(path.stat().st_size for path in store.folder.iterdir()) <= 1000
    steps = kept(store)
    assert steps[0] == 1 and steps[-3:] == [38, 39, 40] and 6 <= len(steps) <= 10 and not said
    store.keep(41, b"x" * 600)
    assert kept(store) == steps and "raise --spo.save_rollouts_mb" in said[0] and not store.on


def test_steps_that_are_trained_again_replace_those_of_an_earlier_start(tmp_path):
    store = RolloutStore(tmp_path, 1, print)
    for step in (1, 2, 3):
        store.keep(step, b"old")
    (store.folder / "mine.txt").write_text("stays")
    store.cut(1)
    assert kept(store) == [1] and (store.folder / "mine.txt").exists()
    store.keep(1, b"new")
    assert (store.folder / file_name(1)).read_bytes() == b"new"


def test_a_disk_that_takes_no_more_ends_it_with_one_line(tmp_path):
    (tmp_path / "rollouts").write_text("a file where the folder should be")
    said = []
    store = RolloutStore(tmp_path, 1, said.append)
    store.keep(1, b"x")
    store.keep(2, b"x")
    assert len(said) == 1 and said[0].startswith("note: no more rollouts are kept (") and "rollouts" in said[0]
