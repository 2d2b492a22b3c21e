"""The recipe of docs/recipes/reasoning-gym.md with the real stack: the package's problems as data, its scorer as the reward."""

import importlib.util

import by_heart
import pytest
import stack
import torch

from spo_rlhf.host.files import read_jsonl
from spo_rlhf.tasks import gym_tasks

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("reasoning_gym") is None,
        reason="reasoning-gym is not installed (pip install --target FOLDER reasoning-gym, and FOLDER on PYTHONPATH)",
    ),
]
SETTINGS = stack.ROOT / "examples" / "settings" / "gym.yaml"
TEMPLATE = "Question: {}\nAnswer:\n"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A few problems, and a model that knows them by heart: sampled, a part of its responses is right."""
    folder = tmp_path_factory.mktemp("legs")
    options = ["--task", "leg_counting", "--train", "12", "--test", "2", "--settings", '{"max_animals": 3}']
    assert gym_tasks.main([*options, "--output", str(folder)]) == 0
    rows = [
        {**row, "solution": f"<answer>{row['answer']}</answer>\n#### {row['answer']}"}
        for row in read_jsonl(folder / "train.jsonl")
    ]
    by_heart.learn(folder, rows, TEMPLATE)
    return folder


def test_two_steps_of_the_recipe(task, tmp_path):
    changes = {
        "actor.model_name_or_path": task / "model",
        "data.prompt_dataset": task / "train.jsonl",
        "eval.dataset": task / "test.jsonl",
        "reward.remote_url": gym_tasks.__file__,
        "spo.reward_timeout": 60,  # the first of each process imports the package
        "rollout.batch_size": 4,
        "rollout.micro_batch_size": 4,
        "rollout.max_new_tokens": 32,
        "train.batch_size": 16,
        "train.micro_batch_size": 4,
        "actor.adam.lr": 1e-4,
        "actor.lr_warmup_ratio": 0,
        "spo.run_dir": tmp_path / "run",
        "ckpt.output_dir": tmp_path / "model",
        "ckpt.path": tmp_path / "checkpoints",
    }
    flags = [part for name, value in changes.items() for part in (f"--{name}", str(value))]
    run = stack.train(["--config", str(SETTINGS), "--vllm.enforce_eager", *flags], tmp_path)
    assert run["summary"]["finished"] and len(run["steps"]) == 2
    for metrics in run["steps"]:
        assert 0 < metrics["rollout/reward_mean"] <= 1 and metrics["rollout/reward_timeouts"] == 0
    assert any(metrics["actor_grad_norm"] > 0 for metrics in run["steps"])
    before, after = stack.weights(task / "model"), stack.weights(tmp_path / "model")
    assert any(not torch.equal(before[name].float(), after[name].float()) for name in before)
