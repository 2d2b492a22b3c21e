"""Files that are there whole or not at all, and errors that name file and line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import (
    check_writable,
    is_local,
    only_writer,
    parse_json,
    read_json,
    read_jsonl,
    replace_text,
    whole_file,
    whole_or_nothing,
    whole_output,
    write_json,
    write_jsonl,
)


def test_what_was_written_is_read_again(tmp_path):
    rows = [{"id": 1, "text": "é\nb"}, {"id": 2, "text": ""}]
    write_jsonl(tmp_path / "new" / "rows.jsonl", rows)
    assert list(read_jsonl(tmp_path / "new" / "rows.jsonl")) == rows
    write_json(tmp_path / "one.json", {"path": Path("a/b"), "text": "é"})
    assert read_json(tmp_path / "one.json") == {"path": "a/b", "text": "é"}
    assert sorted(os.listdir(tmp_path)) == ["new", "one.json"] and os.listdir(tmp_path / "new") == ["rows.jsonl"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "weights.pt"
    replace_text(path, "old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        1 / 0  # noqa: B018
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["weights.pt"]


def test_a_file_that_was_never_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "weights.pt"):
        pass
    assert caught.value.filename == str(tmp_path / "weights.pt"), "and not the name that it is written under"
    assert os.listdir(tmp_path) == []


def test_a_directory_takes_the_place_of_another_when_it_is_complete(tmp_path):
    output = tmp_path / "task"
    for content in ("first", "second"):
        with whole_or_nothing(output) as making:
            (making / content).touch()
    with pytest.raises(ZeroDivisionError), whole_or_nothing(output) as making:
        (making / "third").touch()
        1 / 0  # noqa: B018
    assert os.listdir(output) == ["second"] and os.listdir(tmp_path) == ["task"]


def test_standard_output_stays_empty_when_the_block_fails(capsys):
    with whole_output("-") as sink:
        sink.write("whole")
    with pytest.raises(ZeroDivisionError), whole_output("-") as sink:
        sink.write("half")
        1 / 0  # noqa: B018
    assert capsys.readouterr().out == "whole"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"a": 1', "line 2: not JSON (Expecting ',' delimiter at column 8): give one JSON object a line"),
        (b"[1]", "line 2: not a JSON object"),
        (b'{"a": "\xff"}', "line 2: not UTF-8 text"),
        (b"[" * 100_000, "line 2: nested too deeply"),
    ],
    ids=["half", "list", "latin", "deep"],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, says):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(UserError) as refusal:
        list(read_jsonl(path))
    assert str(refusal.value).startswith(str(path)) and says in str(refusal.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"rows.jsonl: cannot be read \(No such file"):
        list(read_jsonl(tmp_path / "rows.jsonl"))
    with pytest.raises(UserError, match="one.json: missing or unreadable"):
        read_json(tmp_path / "one.json")


def test_blank_lines_are_passed_over_and_still_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"a": 1}\n \n{"a": 2}\n\nx\n')
    rows = read_jsonl(path)
    assert [next(rows), next(rows)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(UserError, match="line 6"):
        next(rows)


def test_the_caller_says_which_constants_are_numbers():
    def refuse(name: str) -> float:
        raise ValueError(f"{name} is no number")

    assert parse_json(b"[Infinity]") == [float("inf")]
    with pytest.raises(ValueError, match="NaN is no number"):
        parse_json(json.dumps([float("nan")]).encode(), parse_constant=refuse)


@pytest.mark.parametrize("name", ["train.jsonl", "./model", "/models/x", "a/b/c", "~/x", "reward.py"])
def test_a_path_is_told_from_a_name_on_a_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_local(name)


def test_a_hub_name_is_one_unless_there_is_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_local("owner/name") and not is_local("gsm8k") and not is_local("owner/name@folder")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert is_local("owner/name")


def test_a_folder_that_cannot_be_written_into_is_refused_with_its_flag(tmp_path, monkeypatch):
    check_writable("--output", str(tmp_path / "new" / "folder"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output .*file is a file"):
        check_writable("--output", str(tmp_path / "file" / "folder"))
    for name, target in (("lost", "nowhere"), ("loop", "loop")):
        (tmp_path / name).symlink_to(tmp_path / target)
        for path in (tmp_path / name, tmp_path / name / "folder"):
            with pytest.raises(UserError, match=f"^--output .*{name} is a link that leads nowhere"):
                check_writable("--output", str(path))
    with monkeypatch.context() as patch, pytest.raises(UserError, match="--output .* is not writable"):
        patch.setattr(os, "access", lambda *_: False)  # root may write anywhere
        check_writable("--output", str(tmp_path / "new"))
    with pytest.raises(UserError, match=r"--output /proc/new: /proc cannot be written into \(.*\); choose another"):
        check_writable("--output", "/proc/new")
    assert sorted(os.listdir(tmp_path)) == ["file", "loop", "lost"]


def test_a_disk_without_room_is_refused_with_what_is_needed(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(
        UserError, match=rf"--output .*: [\d,]+ MB are free on its disk and {2 * free / 1e6:,.0f} MB are needed"
    ):
        check_writable("--output", str(tmp_path / "new"), 2 * free)


# A limit on the size of files stands for a disk that is full: the same error from the same calls, with another number.
FULL = """
import resource, signal, sys
from pathlib import Path
from spo_rlhf.host.files import replace_text
from spo_rlhf.sampling.sample_log import SampleLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = SampleLog(Path(sys.argv[2]), ("n",))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    replace_text(Path(sys.argv[1]), "x" * 5000)
except OSError as error:
    print(error.filename)
try:
    for number in range(1000):
        log.append({"n": number})
except OSError as error:
    print(error.filename)
"""


def test_a_disk_that_fills_up_is_told_with_the_file_and_the_old_file_stays(tmp_path):
    replace_text(tmp_path / "one.json", "old")
    paths = [str(tmp_path / "one.json"), str(tmp_path / "log.jsonl")]
    done = subprocess.run([sys.executable, "-c", FULL, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.split() == paths
    assert (tmp_path / "one.json").read_text() == "old" and sorted(os.listdir(tmp_path)) == ["log.jsonl", "one.json"]


def test_a_folder_has_one_writer_at_a_time_in_whatever_process_until_that_is_killed(tmp_path):
    folder = tmp_path / "new"
    hold = (
        "import sys, time, pathlib\nfrom spo_rlhf.host.files import only_writer\n"
        "with only_writer('--x', pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    refused = "--output .*new: another command writes into it now; wait"
    with only_writer("--output", folder), pytest.raises(UserError, match=refused), only_writer("--output", folder):
        pass
    with subprocess.Popen([sys.executable, "-c", hold, folder], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout and other.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=refused), only_writer("--output", folder):
                pass
        finally:
            other.kill()
    with only_writer("--output", folder):
        assert os.listdir(folder) == [".lock"]


@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_by_another_name_is_the_same_folder(tmp_path, monkeypatch, beside):
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    monkeypatch.chdir(folder)
    for name in (link, Path()):
        with (
            only_writer("--output", folder, beside=beside),
            pytest.raises(UserError, match="another command writes into it"),
            only_writer("--output", name, beside=beside),
        ):
            pass
