"""Numbers that are not finite on the real stack: what is skipped, by whom, and when a run ends itself."""

import json
import os
import subprocess
import sys

import pytest
import stack
import torch

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
STAGES = ("2",)
TWO_RANKS = dict(
    spo__mode="group",
    spo__mc_rollouts=None,
    train__colocate_all=None,
    train__colocate_actor_ref=True,
    train__num_episodes=50,
    actor__num_gpus_per_node=2,
    ref__num_gpus_per_node=2,
)
# The first response that is graded in the run gets no number, later ones a coin's; they hang once the file `hang` is there.
REWARD = """

import time, pathlib

coin, here = reward_func, pathlib.Path(__file__).parent


def reward_func(queries, prompts, labels):
    if (here / "hang").exists():
        time.sleep(60)
    try:
        if queries != prompts:  # it is tried with an empty response before the start
            (here / "first").unlink()
            return {"rewards": [float("nan")]}
    except FileNotFoundError:
        pass
    return coin(queries, prompts, labels)
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=8)


@pytest.fixture(scope="module")
def rewarded(task, tmp_path_factory):
    """Three steps on two policy ranks, of which the first gets one bad reward; then no reward has an answer any more."""
    run_dir = tmp_path_factory.mktemp("rewarded")
    reward = run_dir / "reward.py"
    reward.write_text(stack.COIN_REWARD.read_text() + REWARD)
    (run_dir / "first").touch()
    changes = dict(reward__remote_url=reward, spo__reward_timeout=1, logger__tensorboard_dir=run_dir / "board")
    process = stack.start(stack.options(task, run_dir, **TWO_RANKS, **changes))
    stack.wait_for_events(process, run_dir, "step", 3)
    (run_dir / "hang").touch()
    return run_dir, stack.finish(process, run_dir, status=1)


def test_a_step_with_a_reward_that_is_no_number_is_skipped(rewarded):
    run_dir, run = rewarded
    first, *others = run["steps"]
    assert (first["nonfinite_steps"], first["skipped_steps"], first["optimizer_steps"]) == (1, 1, 0)
    assert all(one["nonfinite_steps"] == 0 and one["optimizer_steps"] == 1 for one in others) and len(others) >= 2
    assert others[0]["weight_version"] == 0, "the skipped step sent no weights"
    assert "step 1/" in run["stdout"] and "  skipped  " in run["stdout"]
    told = json.loads((run_dir / "run" / "nonfinite" / "step-1.json").read_text())
    assert [(fault["number"], fault["value"]) for fault in told["faults"]] == [("reward", "nan")]
    assert told["faults"][0]["token_ids"] and told["faults"][0]["context"].startswith("Question")


def test_rewards_without_an_answer_end_the_run(rewarded):
    _, run = rewarded
    last_line = run["stdout"].splitlines()[-1]
    assert last_line.startswith("spo-train: stopped: ") and "--spo.max_reward_failures 0.05" in last_line
    summary = run["summary"]
    assert (
        summary["reward_timeouts"] >= 4 and summary["rewards"] > summary["reward_timeouts"] and not summary["finished"]
    )
    assert summary["optimizer_steps"] == len(run["steps"]) - 1 and summary["skipped_steps"] == 1


def test_generated_samples_reach_the_logger(rewarded):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_dir, run = rewarded
    [folder] = (run_dir / "board").iterdir()
    board = EventAccumulator(str(folder))
    board.Reload()
    texts = board.Tensors("train/generated_samples/text_summary")
    assert len(texts) == len(run["steps"]) and b"Reward: " in texts[0].tensor_proto.string_val[0]
    assert b"Question" in texts[0].tensor_proto.string_val[0]
    assert {"train/policy_loss", "train/nonfinite_steps"} <= set(board.Tags()["scalars"])


def test_a_learning_rate_that_blows_up_ends_the_run_and_leaves_the_good_model(task, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("good")
    plugin = tmp_path / "any_rate.py"  # a rate that blows up at once is refused by itself
    plugin.write_text("from spo_rlhf.launch.bounds import BOUNDS\n\ndel BOUNDS['actor.adam.lr']\n")
    changes = dict(
        spo__plugin=plugin,
        actor__adam__lr=1e8,
        actor__max_norm=0,
        train__num_episodes=50,
        ckpt__save_steps=1,
        ckpt__save_hf=True,
    )
    process = stack.start(stack.options(task, tmp_path, **changes))
    run = stack.finish(process, tmp_path, status=1)
    last_line = run["stdout"].splitlines()[-1]
    assert last_line.startswith("spo-train: stopped: ") and "not finite" in last_line
    assert not run["summary"]["finished"] and (tmp_path / "model" / "model.safetensors").read_text() == "good"
    for folder in (tmp_path / "checkpoints").glob("*_hf"):
        assert all(torch.isfinite(tensor).all() for tensor in stack.weights(folder).values())


@pytest.fixture(scope="module")
def ranks(task, tmp_path_factory):
    """What two ranks came to, by stage, with bad batches and without: tests/e2e/deepspeed_guard.py."""
    folder = tmp_path_factory.mktemp("ranks")
    script = stack.ROOT / "tests" / "e2e" / "deepspeed_guard.py"
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [sys.executable, str(script), str(task), str(folder), *STAGES],
        capture_output=True,
        text=True,
        env={**stack.environment(), "PATH": path},
        cwd=stack.ROOT,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {path.stem: torch.load(path, weights_only=False) for path in folder.glob("*.pt")}


@pytest.mark.parametrize("stage", STAGES)
def test_what_one_rank_sees_all_ranks_leave_out(stage, ranks):
    bad = [ranks[f"{stage}-bad-{rank}"] for rank in range(2)]
    for name, number in (("nan", "advantage"), ("inf", "advantage"), ("large", "gradient norm")):
        for rank in bad:
            left_out, before = rank[name], rank["first"]
            assert left_out["made"] == [False] and left_out["lr"] == before["lr"]
            assert left_out["status"]["nonfinite_steps"] == 1 and left_out["status"]["optimizer_steps"] == 0
            assert torch.equal(left_out["weights"], before["weights"])
            pairs = zip(left_out["moments"], before["moments"], strict=True)
            assert left_out["moments"] and all(torch.equal(one, two) for one, two in pairs)
        assert {fault.number for fault in bad[0][name]["faults"]} == {number}
        assert bad[1][name]["faults"] == []


@pytest.mark.parametrize("stage", STAGES)
def test_after_a_step_that_was_left_out_training_goes_on_as_if_it_had_not_been(stage, ranks):
    for rank in range(2):
        bad, good = ranks[f"{stage}-bad-{rank}"], ranks[f"{stage}-good-{rank}"]
        assert bad["last"]["made"] == [True] and not torch.equal(bad["last"]["weights"], bad["first"]["weights"])
        assert not torch.equal(good["first"]["weights"], good["initial"]["weights"])
        assert torch.equal(bad["last"]["weights"], good["last"]["weights"])
        assert bad["last"]["status"]["actor_grad_norm"] == good["last"]["status"]["actor_grad_norm"]


@pytest.mark.parametrize("stage", STAGES)
def test_weights_that_are_not_finite_on_one_rank_stop_all(stage, ranks):
    for rank in range(2):
        assert "weights are not finite" in ranks[f"{stage}-bad-{rank}"]["stopped"]
        assert "stopped" not in ranks[f"{stage}-good-{rank}"]
