"""The worker pool: limits hold, failures stay one line, nothing is left behind. Tasks are importable standard
library functions.
"""

import asyncio
import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from spo_rlhf.host.pool import TaskError, TaskTimeout, WorkerDied, WorkerPool

GIB = 1 << 30


@pytest.fixture
def pool():
    with WorkerPool(workers=2, timeout_s=1.0, memory_bytes=GIB) as pool:
        yield pool


def alive(pid: int) -> bool:
    """It runs; one that has ended and waits for its parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_gone(pid: int, limit_s: float = 20.0) -> bool:
    end = time.monotonic() + limit_s
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def wait_until(condition, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def kill_all(pids) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert all(wait_gone(pid) for pid in pids)


def test_values_come_back_each_exactly_once(pool):
    futures = [pool.submit(divmod, n, 7) for n in range(200)]
    assert [future.result() for future in futures] == [divmod(n, 7) for n in range(200)]


def test_a_task_over_the_limit_is_killed_and_the_worker_replaced(pool):
    start = time.monotonic()
    slow = pool.submit(time.sleep, 600)
    assert pool.submit(divmod, 7, 2).result() == (3, 1)
    with pytest.raises(TaskTimeout, match="no result within 1 s"):
        slow.result()
    assert time.monotonic() - start < 20, "long before the task would have ended"
    assert [pool.submit(divmod, 7, 2).result() for _ in range(4)] == [(3, 1)] * 4


def test_c_code_that_never_lets_python_run_is_killed(pool):
    # An integer power this size stays inside C for minutes; a Python signal handler would never be called.
    with pytest.raises(TaskTimeout):
        pool.submit(pow, 7, 10**9).result()
    assert pool.submit(divmod, 7, 2).result() == (3, 1)


def test_memory_is_limited(pool):
    with pytest.raises(TaskError, match="MemoryError"):
        pool.submit(bytes, 4 * GIB).result()
    # Allocated there, not sent here: 128 MiB through the pipe take the time limit on a busy machine.
    assert pool.submit(eval, f"len(2 * bytes({GIB // 32}))").result() == GIB // 16


def test_errors_are_one_line(pool):
    with pytest.raises(TaskError, match="^ZeroDivisionError: ") as caught:
        pool.submit(divmod, 1, 0).result()
    assert "\n" not in str(caught.value)
    with pytest.raises(TaskError, match="SystemExit"):
        pool.submit(exec, "raise SystemExit(3)").result()  # other libraries replace sys.exit


def test_a_dying_worker_fails_its_task_only(pool):
    with pytest.raises(WorkerDied, match=r"died \(exit code 7\)"):
        pool.submit(os._exit, 7).result()
    with pytest.raises(WorkerDied, match="died"):
        pool.submit(os.abort).result()
    assert pool.submit(divmod, 7, 2).result() == (3, 1)


WRITES_EVERYWHERE = """
import os
for fd in range(3, 64):
    try:
        os.write(fd, {text})
    except OSError:
        pass
"""


@pytest.mark.parametrize("text", ["b'x'", "b'no answer of a worker'", "bytes(64)", "os.urandom(4096)"])
def test_a_task_that_writes_into_its_workers_pipe_fails_alone_and_nobody_hangs(pool, text):
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises((WorkerDied, TaskTimeout)):
            pool.submit(exec, WRITES_EVERYWHERE.format(text=text)).result(20)
            pool.submit(divmod, 7, 2).result(20)
            pool.submit(divmod, 7, 2).result(20)
    assert time.monotonic() - start < 20
    assert [pool.submit(divmod, 7, 2).result(20) for _ in range(4)] == [(3, 1)] * 4


def test_what_a_task_prints_is_no_answer(pool):
    prints = "import os, sys; print('x' * 100_000); os.write(1, b'y' * 1000); sys.stdout.flush()"
    assert pool.submit(exec, prints).result() is None
    assert [pool.submit(divmod, 7, 2).result() for _ in range(4)] == [(3, 1)] * 4


def test_large_arguments_and_results_pass(pool):
    assert pool.submit(bytes.upper, b"x" * (8 << 20)).result() == b"X" * (8 << 20)


def test_a_child_that_a_task_forks_and_that_keeps_the_pipe_open_does_not_hold_the_pool(pool, tmp_path):
    forks = f"import os, time\nif os.fork() == 0: open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(300)"
    assert pool.submit(exec, forks).result() is None
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    child = int((tmp_path / "pid").read_text())
    kill_all(pool.worker_pids())
    assert [pool.submit(divmod, 7, 2).result(20) for _ in range(4)] == [(3, 1)] * 4
    assert wait_gone(child), "it ends with its worker's group"


def test_workers_killed_between_tasks_do_not_break_the_pool(pool):
    pool.submit(divmod, 7, 2).result()
    for _ in range(3):
        kill_all(pool.worker_pids())
        assert [pool.submit(divmod, 7, 2).result() for _ in range(10)] == [(3, 1)] * 10


def test_a_worker_that_stands_still_between_two_tasks_is_not_waited_for():
    """Where the next message is larger than what its pipe holds, too."""
    with WorkerPool(workers=1, timeout_s=1.0) as pool:
        for size in (10, 10**7):
            assert pool.submit(divmod, 7, 2).result() == (3, 1)
            [pid] = pool.worker_pids()
            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(TaskTimeout):
                pool.submit(len, bytes(size)).result(timeout=10)
            assert wait_gone(pid) and pool.submit(len, bytes(size)).result(timeout=10) == size


def test_unpicklable_results_are_errors(pool):
    with pytest.raises(TaskError):
        pool.submit(threading.Lock).result()


def test_from_threads_and_asyncio(pool):
    results = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(pool.submit(divmod, n, 3).result())) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [divmod(n, 3) for n in range(8)]

    async def grade() -> list:
        good = [asyncio.wrap_future(pool.submit(divmod, n, 3)) for n in range(8)]
        bad = asyncio.wrap_future(pool.submit(time.sleep, 60))
        return [*await asyncio.gather(*good), *await asyncio.gather(bad, return_exceptions=True)]

    *values, error = asyncio.run(grade())
    assert values == [divmod(n, 3) for n in range(8)]
    assert isinstance(error, TaskTimeout)


def test_close_kills_workers_and_fails_unfinished_tasks():
    pool = WorkerPool(workers=1, timeout_s=60)
    assert pool.submit(divmod, 7, 2).result() == (3, 1)
    pids = pool.worker_pids()
    running, waiting = pool.submit(time.sleep, 60), pool.submit(time.sleep, 60)
    time.sleep(0.2)
    pool.close()
    pool.close()
    for future in (running, waiting):
        with pytest.raises(TaskError, match="closed"):
            future.result(timeout=5)
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(divmod, 1, 1)


def test_what_a_worker_started_dies_with_it(pool, tmp_path):
    pid_file = tmp_path / "pid"
    with pytest.raises(TaskTimeout):
        pool.submit(os.system, f"sleep 300 & echo $! > {pid_file}; wait").result()
    assert wait_gone(int(pid_file.read_text()))


LEAVES = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if {orphan} and os.fork() > 0:
        os._exit(0)
    open({path!r}, "w").write(str(os.getpid()))
    {first}
    time.sleep(300)
while not os.path.exists({path!r}) or not os.path.getsize({path!r}):
    time.sleep(0.01)
{then}
"""
EMPTY = "os.execve(sys.executable, [sys.executable, '-c', 'import time; time.sleep(300)'], dict())"


@pytest.mark.parametrize(
    ("orphan", "first", "then"),
    [
        (False, "", "time.sleep(300)"),
        (True, "", "time.sleep(300)"),
        (False, EMPTY, "time.sleep(300)"),  # it has no mark, and a parent
        (True, "", "os._exit(3)"),
    ],
    ids=["a session", "an orphan", "without environment", "of a worker that died"],
)
def test_what_left_the_session_of_a_worker_dies_with_it_and_nobody_else(pool, tmp_path, orphan, first, then):
    spared, path = tmp_path / "spared", tmp_path / "pid"
    with WorkerPool(workers=1, timeout_s=10) as other:
        other.submit(exec, LEAVES.format(orphan=True, path=str(spared), first="", then="")).result()
        with pytest.raises(TaskError):
            pool.submit(exec, LEAVES.format(orphan=orphan, path=str(path), first=first, then=then)).result()
        assert wait_gone(int(path.read_text())) and alive(int(spared.read_text()))
    assert wait_gone(int(spared.read_text())), "and with the pool"


def test_initializer_runs_in_every_worker_and_its_failure_is_told(tmp_path):
    with WorkerPool(functools.partial(os.chdir, tmp_path), workers=1, timeout_s=5) as pool:
        assert pool.submit(os.getcwd).result() == str(tmp_path)
        with pytest.raises(TaskError):
            pool.submit(os._exit, 1).result()
        assert pool.submit(os.getcwd).result() == str(tmp_path)
    with WorkerPool(functools.partial(int, "not a number"), workers=1, timeout_s=5) as pool:
        for _ in range(2):
            with pytest.raises(TaskError, match="could not start: ValueError: invalid literal"):
                pool.submit(divmod, 7, 2).result()


def test_a_worker_that_cannot_start_fails_its_tasks_and_a_later_one_is_tried(monkeypatch):
    python = sys.executable
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with WorkerPool() as pool:
        with pytest.raises(TaskError, match="could not start: .*No such file"):
            pool.submit(divmod, 7, 2).result(30)
        monkeypatch.setattr(sys, "executable", python)
        assert pool.submit(divmod, 7, 2).result(30) == (3, 1)


def test_workers_start_while_another_thread_changes_the_environment(monkeypatch):
    """exec from the live environment fails with EFAULT when it is moved meanwhile."""
    done = threading.Event()

    def change():
        for number in itertools.count():
            if done.is_set():
                return
            os.putenv(f"SPO_TEST_{number % 5000}", "x" * 100)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(10):
            with WorkerPool() as pool:
                assert pool.submit(divmod, 7, 2).result(30) == (3, 1)
    finally:
        done.set()
        thread.join()
        for number in range(5000):
            os.unsetenv(f"SPO_TEST_{number}")


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, None])
def test_workers_end_with_the_process_that_made_them(signal_number):
    code = (
        "import time, sys; from spo_rlhf.host.pool import WorkerPool\n"
        "pool = WorkerPool(workers=2, timeout_s=600)\n"
        "pool.submit(divmod, 1, 1).result(); [pool.submit(pow, 7, 10**9) for _ in range(2)]\n"
        "while len(pool.worker_pids()) < 2: time.sleep(0.02)\n"
        "print(*pool.worker_pids(), flush=True)\n"
        f"time.sleep({0 if signal_number is None else 60})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    if signal_number is not None:
        parent.send_signal(signal_number)
    parent.wait(timeout=20)
    assert all(wait_gone(pid) for pid in pids)


def test_importing_the_graders_loads_nothing_heavy():
    heavy = {"torch", "ray", "vllm", "deepspeed", "openrlhf", "transformers"}
    code = (
        "import sys, pkgutil, importlib, spo_rlhf.graders as g\n"
        "[importlib.import_module(m.name) for m in pkgutil.walk_packages(g.__path__, 'spo_rlhf.graders.')]\n"
        f"print(*sorted({heavy!r} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
