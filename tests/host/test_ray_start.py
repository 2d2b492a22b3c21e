"""A Ray that gave up on its own slow start is started again; any other error is not hidden."""

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.host import ray_start

SLOW = Exception("The current node timed out during startup. This could happen because ...")


@pytest.fixture
def fake_ray(monkeypatch):
    """In Ray's place: each start leaves a process and then raises the next error of a list, if there is one."""
    fake = SimpleNamespace(errors=[], left=[], shutdown=lambda: None)

    def init(**options):
        fake.left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        if fake.errors:
            raise fake.errors.pop(0)

    fake.init = init
    monkeypatch.setitem(sys.modules, "ray", fake)
    yield fake
    for process in fake.left:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("name", "used"), [("/tmp/short", "/tmp/short"), ("/scratch/" + "long" * 20, "/tmp")])
def test_a_folder_too_long_for_a_socket_is_replaced_and_told(monkeypatch, name, used):
    monkeypatch.setenv("TMPDIR", name)
    monkeypatch.setattr(ray_start.tempfile, "tempdir", name)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    notes = ray_start.settle_temp_dir()
    assert os.environ["TMPDIR"] == used and len(notes) == (used != name)
    session = "/spo-12345678/session_2026-01-31_12-00-00_000000_1234567/sockets/plasma_store.100"
    assert len(os.environ["TMPDIR"] + session) <= 107 and len("x" * ray_start.LONGEST_TEMP_DIR + session) == 107


def test_a_folder_for_ray_alone_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/scratch/" + "long" * 20)
    with pytest.raises(UserError, match="RAY_TMPDIR /scratch/.*longer than 26 bytes"):
        ray_start.settle_temp_dir()


def running(fake) -> int:
    return sum(psutil.pid_exists(process.pid) and process.poll() is None for process in fake.left)


def test_it_is_tried_again_and_nothing_of_the_failed_start_remains(fake_ray):
    fake_ray.errors = [SLOW, SLOW]
    ray_start.init(num_cpus=1)
    assert len(fake_ray.left) == 3 and running(fake_ray) == 1


def test_the_tools_of_this_python_are_found_first_activated_or_not(fake_ray, monkeypatch):
    here = os.path.dirname(sys.executable)
    for path in ("/usr/bin:/bin", f"{here}:/usr/bin:/bin", f"/usr/bin:{here}:/bin"):
        monkeypatch.setenv("PATH", path)
        ray_start.init()
        assert os.environ["PATH"] == f"{here}:/usr/bin:/bin"


@pytest.mark.parametrize(("errors", "starts"), [([SLOW] * 3, 3), ([ConnectionError("nobody there")], 1)])
def test_what_does_not_pass_by_itself_is_raised(fake_ray, errors, starts):
    fake_ray.errors = list(errors)
    with pytest.raises(type(errors[0])):
        ray_start.init()
    assert len(fake_ray.left) == starts
