"""One run on the real stack: an engine is killed at work, then the run itself, and what goes on from there has its disk filled.

Nothing outside this machine could reach it.
"""

from types import SimpleNamespace

import psutil
import pytest
import run_processes
import small_disk
import stack

from spo_rlhf.host import watcher
from spo_rlhf.host.files import only_writer
from spo_rlhf.trainer import checkpoints

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
TWO_ENGINES = dict(
    train__colocate_all=None, vllm__num_engines=2, train__num_episodes=500, ckpt__save_steps=1, spo__resume="auto"
)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What was seen of a run of two engines while an engine and then spo-train were killed with signal 9."""
    directory = tmp_path_factory.mktemp("killed") / "disk"
    with small_disk.mounted(directory) as mounted:
        yield seen_of_a_run(directory, fills=mounted)


def seen_of_a_run(directory, *, fills: bool) -> SimpleNamespace:
    task = stack.make_task(directory / "task", train=16, test=8)
    process = stack.start(stack.options(task, directory, **TWO_ENGINES))
    try:
        stack.wait_for_events(process, directory, "step", 1)
        seen = SimpleNamespace(directory=directory, listeners=run_processes.listeners(run_processes.of(process.pid)))
        engines = run_processes.named(process.pid, run_processes.ENGINE)
        cores = run_processes.named(process.pid, run_processes.CORE)
        seen.core = next(core for core in cores if core.ppid() == engines[0].pid)
        run_processes.wait_for(
            lambda: engines[0].cmdline()[0].endswith(".rollout"), 60, "the engine never had a request"
        )
        run_processes.kill(engines[0], "an engine at work")
        seen.core_s = run_processes.wait_for(lambda: not run_processes.alive([seen.core]), 30, "its core is left")
        before = len(stack.events(directory, "step"))
        stack.wait_for_events(process, directory, "step", before + 1)
        others = {engine.pid for engine in engines}
        run_processes.wait_for(
            lambda: any(
                engine.pid not in others and engine.cmdline()[0].endswith(".rollout")
                for engine in run_processes.named(process.pid, run_processes.ENGINE)
            ),
            stack.LIMIT_S,
            "the engine that was started again has no request",
        )
        stack.wait_for_events(process, directory, "step", len(stack.events(directory, "step")) + 2)
        seen.steps = stack.events(directory, "step")
        everything = run_processes.of(process.pid)
        seen.folder = run_processes.folder_of(engines[1])
        seen.shared = run_processes.shared_memory(everything)
        run_processes.kill(everything[0], "spo-train")
        process.wait()
        _, left = psutil.wait_procs(everything[1:], timeout=10)
        seen.left = run_processes.alive(left)
        seen.count = len(everything)
        with only_writer("--spo.run_dir", directory / "run"):
            pass  # nobody holds it any more

        seen.whole, seen.broken = checkpoints.found_in(directory / "checkpoints")
        process = stack.start(stack.options(task, directory, **TWO_ENGINES))
        stack.wait_for_events(process, directory, "step", seen.whole[-1].step + 2)
        if fills:
            small_disk.fill(directory)
        else:  # to end it in another way
            process.terminate()
        seen.end = stack.finish(process, directory, status=1 if fills else 75)
        seen.steps_after = [event["step"] for event in stack.events(directory, "step")]
        seen.whole_after, seen.broken_after = checkpoints.found_in(directory / "checkpoints")
        seen.filled = fills
        return seen
    finally:
        for one in run_processes.alive(run_processes.of(process.pid)) if process.poll() is None else []:
            one.kill()
        process.wait()


def test_every_listener_is_on_loopback(killed):
    names = {name for _, name in killed.listeners}
    print(f"{len(killed.listeners)} listeners of {sorted(names)}")
    assert len(killed.listeners) > 10 and any("gcs_server" in name for name in names)
    assert [one for one in killed.listeners if one[0] not in LOOPBACK] == []


def test_an_engine_killed_at_work_is_replaced_and_every_request_has_one_answer(killed):
    steps = [event["metrics"] for event in killed.steps]
    names = ("requests", "answers", "requests_resent", "engine_restarts")
    total = {name: sum(step[f"rollout/{name}"] for step in steps) for name in names}
    print(f"survived: {len(steps)} steps; core gone after {killed.core_s:.1f} s; {total}")
    assert total["engine_restarts"] == 1 and total["requests_resent"] >= 1
    for number, step in enumerate(steps):
        assert step["rollout/requests"] == step["rollout/answers"] == 8
        assert step["weight_version"] == number, "no sample of older weights"
        assert step["rollout/logprob_gap_max"] < 1e-3, "each engine samples with the weights that the policy has"


def test_a_killed_run_leaves_no_process_no_folder_and_no_shared_memory(killed):
    print(f"{killed.count} processes ended, {len(killed.shared)} files in shared memory")
    assert killed.left == [] and killed.count > 10
    run_processes.wait_for(lambda: not killed.folder.exists(), 10, "the folder is left")
    assert killed.folder.name.startswith(watcher.PREFIX)
    assert [path for path in killed.shared if path.exists()] == []


def test_the_next_start_goes_on_from_the_newest_whole_checkpoint(killed):
    assert killed.broken == {}
    print(f"survived: goes on from step {killed.whole[-1].step} and makes {killed.steps_after[-1]}")
    assert f"goes on from {killed.whole[-1].path}, the newest whole checkpoint" in killed.end["stdout"]
    assert killed.steps_after == list(range(1, len(killed.steps_after) + 1)), "each step once"
    assert len(killed.steps_after) >= killed.whole[-1].step + 2


def test_a_disk_that_gets_full_ends_the_run_with_one_line_and_spoils_nothing(killed):
    if not killed.filled:
        pytest.skip("only root may mount")
    last = killed.end["stdout"].splitlines()[-1]
    print(f"survived: {last}")
    assert last.startswith("spo-train: ") and ("No space left" in last or "MB are free" in last)
    assert killed.broken_after == {} and killed.whole_after[-1].step >= killed.whole[-1].step + 1
