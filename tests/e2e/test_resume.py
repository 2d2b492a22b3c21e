"""kill -9 at random moments, as often as it is said, and --spo.resume auto: what comes out is the unbroken run, bit for bit."""

import contextlib
import random
import time

import psutil
import pytest
import stack

from spo_rlhf.trainer import checkpoints

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]
KILLS = 2
MODES = {
    "chain": {},
    "tree": {
        **stack.TREE,
        "spo.tree_advantage": "loo",
        "spo.replay_max_age": 2,
        "spo.replay_per_prompt": 4,
        "spo.baseline": "history",
    },
    # Two optimizer steps a batch: in another order they would be other steps.
    "group": {"spo.mode": "group", "spo.mc_rollouts": None, "train.batch_size": 16},
}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=8)


def kill(process) -> None:
    """kill -9 of the command; what it leaves behind is ended too, so that it takes nothing from the next start."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    for child in started:
        with contextlib.suppress(psutil.Error):
            child.kill()


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_is_killed_again_and_again_is_the_unbroken_one(mode, task, tmp_path):
    settings = {"ckpt.save_steps": 1, "train.num_episodes": 2, "spo.resume": "auto"} | MODES[mode]
    # Evaluations draw from the generators as well, and the best of them are saved.
    settings |= {
        "eval.dataset": task / "test.jsonl",
        "eval.steps": 2,
        "eval.temperature": 0,
        "eval.n_samples_per_prompt": 1,
    }
    whole_dir, killed_dir = tmp_path / "whole", tmp_path / "killed"
    whole = stack.train(stack.options(task, whole_dir, **settings), whole_dir)
    moments = random.Random(time.time_ns())
    for number in range(KILLS):
        process = stack.start(stack.options(task, killed_dir, **settings))
        stack.wait_for_events(process, killed_dir, "step", number + 1)
        time.sleep(moments.uniform(0, 4))
        assert process.poll() is None, "it had come to its end; lengthen the run"
        kill(process)
        left = sorted(path.name for path in (killed_dir / "checkpoints").iterdir())
        print(f"{mode}: killed after {len(stack.events(killed_dir, 'step'))} recorded steps; checkpoints: {left}")
    resumed = stack.train(stack.options(task, killed_dir, **settings), killed_dir)
    stack.assert_same_run(whole_dir, whole, killed_dir, resumed)


def test_after_damage_of_equal_size_the_older_one_is_taken_and_the_run_is_the_unbroken_one(task, tmp_path):
    settings = {"ckpt.save_steps": 1, "train.num_episodes": 2, "spo.resume": "auto"}
    whole_dir, damaged_dir = tmp_path / "whole", tmp_path / "damaged"
    whole = stack.train(stack.options(task, whole_dir, **settings), whole_dir)
    process = stack.start(stack.options(task, damaged_dir, **settings))
    stack.wait_for_events(process, damaged_dir, "step", 3)
    kill(process)
    [*_, older, newest], _ = checkpoints.found_in(damaged_dir / "checkpoints")
    [states] = newest.path.glob("_actor/weights/*optim_states.pt")
    content = bytearray(states.read_bytes())
    content[len(content) // 2] ^= 1
    states.write_bytes(content)
    print(f"injected: one bit of {states}")
    resumed = stack.train(stack.options(task, damaged_dir, **settings), damaged_dir)
    told = f"{newest.path} is damaged ({states.relative_to(newest.path)}: not the bytes that were written)"
    assert f"{told} and is passed over" in resumed["stdout"]
    assert f"goes on from {older.path}, the newest whole checkpoint" in resumed["stdout"]
    assert f"{newest.path} is damaged (not the bytes that were written) and was removed" in resumed["stdout"]
    stack.assert_same_run(whole_dir, whole, damaged_dir, resumed)
