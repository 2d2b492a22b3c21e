"""The folder of DeepSpeed's compiled operators."""

import os
import sys
import time

import pytest

from spo_rlhf.host import compiled


@pytest.fixture
def extensions(tmp_path, monkeypatch):
    monkeypatch.setenv(compiled.VARIABLE, str(tmp_path))
    return tmp_path


def lock_of(extensions, name: str, age_s: float):
    lock = extensions / name / "lock"
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, (time.time() - age_s,) * 2)
    return lock


def test_each_environment_has_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv(compiled.VARIABLE, "gone")  # so that it is as before after the test
    monkeypatch.delenv(compiled.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled.settle()
    first = os.environ[compiled.VARIABLE]
    monkeypatch.setattr(sys, "prefix", "/another/environment")
    assert str(compiled.folder()) != first and str(compiled.folder()).startswith(str(tmp_path))


def test_a_folder_of_the_users_own_stays(extensions):
    compiled.settle()
    assert os.environ[compiled.VARIABLE] == str(extensions)


def test_the_lock_of_a_build_that_was_killed_is_removed_and_told(extensions, capsys):
    lock = lock_of(extensions, "cpu_adam", 3600)
    compiled.settle()
    assert not lock.exists()
    assert str(lock) in capsys.readouterr().err


def test_locks_that_are_held_or_may_be_another_machines_stay(extensions):
    held, young = lock_of(extensions, "cpu_adam", 3600), lock_of(extensions, "fused_adam", 10)
    with held.open():
        compiled.settle()
        assert held.exists() and young.exists()
    compiled.settle()
    assert not held.exists() and young.exists()
