"""SPO-chain on knights and knaves with the real stack: the task's own files, prompt and reward."""

import json
import math

import by_heart
import pytest
import stack
import torch

from spo_rlhf.tasks import knights_knaves, knights_knaves_reward

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
PROBLEMS = 8


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A few problems, and a model that knows them by heart: sampled, a third of its responses is right."""
    folder = tmp_path_factory.mktemp("task")
    splits = knights_knaves.write_task(folder, seed=0, train_count=PROBLEMS, test_count=1, sft_count=1, people=2)
    by_heart.learn(folder, splits["train"], knights_knaves.PROMPT_TEMPLATE, kind="roles")
    return folder


def test_two_steps_of_spo_chain(task, tmp_path):
    changes = dict(
        data__input_template=knights_knaves.PROMPT_TEMPLATE,
        reward__remote_url=knights_knaves_reward.__file__,
        data__max_len=512,
        rollout__max_new_tokens=240,
        spo__cutpoint_interval=10,
        rollout__batch_size=4,
        rollout__n_samples_per_prompt=4,
        train__batch_size=16,
        actor__adam__lr=1e-4,
    )
    run = stack.train(stack.options(task, tmp_path, **changes), tmp_path)
    assert run["summary"]["finished"] and len(run["steps"]) == 2
    for metrics in run["steps"]:
        assert 0 < metrics["rollout/reward_mean"] < 1 and metrics["rollout/mc_states"] > 0
        assert metrics["actor_grad_norm"] > 0 and math.isfinite(metrics["policy_loss"])
    before, after = stack.weights(task / "model"), stack.weights(tmp_path / "model")
    assert all(not torch.equal(before[name].float(), after[name].float()) for name in before)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["algo.advantage.estimator"] == "spo_chain"
