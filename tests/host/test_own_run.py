"""Whatever ends a run, its processes end within 10 s and its folder goes; what is not provably dead and ours stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from spo_rlhf.host import watcher
from spo_rlhf.host.own_run import OwnRun, own_folder

# A child of its own session that gives itself a title, as Ray and vLLM do, and a child of that one, which it leaves, and which
# does not listen to SIGTERM.
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
CHILD = f"""
import os, setproctitle, subprocess, sys, time
setproctitle.setproctitle("ray::a_title_that_is_longer_than_the_arguments_of_the_command_" + 2000 * "x")
left = subprocess.Popen(["sh", "-c", "exec setsid \\"$0\\" -c \\"$1\\" & echo $!", sys.executable, {DEAF!r}], stdout=subprocess.PIPE)
print(os.getpid(), int(left.stdout.readline()), flush=True)
time.sleep(600)
"""
RUN = f"""
import os, subprocess, sys, time
from spo_rlhf.host.own_run import OwnRun
run = OwnRun()
subprocess.Popen([sys.executable, "-c", {CHILD!r}], env=os.environ | run.environment, start_new_session=True)
print(run.folder, run._watcher.pid, flush=True)
if sys.argv[1:]:
    time.sleep(2)
    run.end()
    run.end()
time.sleep(600)
"""


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders for temporary files and for shared memory, of the tests alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(watcher, "own_folders", lambda: {tmp_path})
    monkeypatch.setattr(watcher.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def start(*arguments: str) -> tuple[subprocess.Popen, Path, int, list[int]]:
    """A run, its folder, its watcher, and the processes that it started."""
    run = subprocess.Popen([sys.executable, "-c", RUN, *arguments], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    lines = sorted((run.stdout.readline().split() for _ in range(2)), key=lambda line: not line[0].startswith("/"))
    (folder, pid), children = lines
    return run, Path(folder), int(pid), [int(child) for child in children]


def wait_for(condition, limit_s: float = 10.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, "end"])
def test_a_run_that_ends_leaves_no_process_and_no_folder(places, how):
    run, folder, watching, children = start(*(["end"] if how == "end" else []))
    assert folder.parent == places and all(map(runs, [watching, *children]))
    if how != "end":
        run.send_signal(how)
    assert wait_for(lambda: not any(map(runs, [watching, *children])), 15.0)
    assert not folder.exists()
    run.kill()
    run.wait()


def test_what_a_lost_watcher_has_left_goes_at_the_next_start_and_a_living_run_stays(places):
    lost, lost_folder, lost_watcher, lost_children = start()
    living, living_folder, living_watcher, living_children = start()
    for pid in (lost_watcher, living_watcher, lost.pid):
        os.kill(pid, signal.SIGKILL)
    lost.wait()
    assert wait_for(lambda: not runs(lost_watcher)) and all(map(runs, lost_children)) and lost_folder.exists()
    OwnRun().end()
    assert not any(map(runs, lost_children)) and not lost_folder.exists()
    assert all(map(runs, living_children)) and living_folder.exists(), "its run holds the lock"
    living.kill()
    living.wait()
    assert watcher.remove_dead({places}) == [living_folder] and not any(map(runs, living_children))


NOT_OURS = {"spo-without-a-lock", "other", "spo-a-file", "spo-another-program", "spo-link"}


def test_only_what_is_provably_ours_and_dead_is_removed(places, monkeypatch):
    (places / "spo-without-a-lock").mkdir()
    (places / "other").mkdir()
    os.close(watcher.lock_folder(places / "other"))
    (places / "spo-a-file").touch()
    (places / "spo-another-program").mkdir()
    (places / "spo-another-program" / "lock").touch()
    (places / "spo-dead").mkdir()
    os.close(watcher.lock_folder(places / "spo-dead"))
    (places / "spo-link").symlink_to(places / "spo-dead")
    with own_folder(str(places)) as folder:
        assert watcher.remove_dead({places}) == [places / "spo-dead"] and folder.is_dir()
    assert {path.name for path in places.iterdir()} == NOT_OURS
    (places / "spo-dead").mkdir()
    os.close(watcher.lock_folder(places / "spo-dead"))
    monkeypatch.setattr(watcher.os, "getuid", lambda: 12345)
    assert watcher.remove_dead({places}) == [], "another user's"


def test_a_process_is_found_whose_name_is_no_text():
    """Any process of this user may have such a name: one that is longer than 15 bytes is cut, in a letter too."""
    script = r"import pathlib; pathlib.Path('/proc/self/comm').write_bytes(b'caf\xc3'); print(flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", script], env={"A_MARK": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        assert b"(caf\xc3)" in Path(f"/proc/{child.pid}/stat").read_bytes()
        assert watcher.carrying(["A_MARK=1"]) == {child.pid} and watcher.carrying(["A_MARK=2"]) == set()
    finally:
        child.kill()
        child.communicate()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, which alone can start a process of another user")
def test_root_finds_what_it_has_started_as_another_user():
    child = subprocess.Popen(["cat"], env={"A_MARK": "1"}, stdin=subprocess.PIPE, user=65534, start_new_session=True)
    try:
        assert Path(f"/proc/{child.pid}").stat().st_uid == 65534
        assert watcher.carrying(["A_MARK=1"]) == {child.pid}
    finally:
        child.kill()
        child.communicate()
