"""SPO-chain on knights and knaves with the real stack: the task's own files, prompt and reward."""

import json
import math

import pytest
import stack
import torch

from spo_rlhf.tasks import knights_knaves, knights_knaves_reward, small_model
from spo_rlhf.tasks.warm_up import WarmUpSettings, warm_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
PROBLEMS = 8


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A few problems, and a model that has learned half of them by heart."""
    folder = tmp_path_factory.mktemp("task")
    rows = knights_knaves.write_task(folder, seed=0, train_count=PROBLEMS, test_count=1, sft_count=1, people=2)["train"]
    prompts = [knights_knaves.PROMPT_TEMPLATE.format(row["problem"]) for row in rows]
    tokenizer = small_model.build_tokenizer(
        prompt + row["solution"] for prompt, row in zip(prompts, rows, strict=True) for _ in range(3)
    )
    model = small_model.build_model(tokenizer, seed=0, hidden_size=64, layers=2)
    examples = [(prompt, row["solution"]) for prompt, row in zip(prompts, rows, strict=True)]
    answers = [(prompt, row["answer"]) for prompt, row in zip(prompts, rows, strict=True)]
    settings = WarmUpSettings(0.5, max_steps=600, batch_size=PROBLEMS, evaluate_every=20, max_new_tokens=160)
    end = warm_up(model, tokenizer, examples, answers, settings, kind="roles")
    assert end.accuracy >= 0.5
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def test_two_steps_of_spo_chain(task, tmp_path):
    changes = dict(
        data__input_template=knights_knaves.PROMPT_TEMPLATE, reward__remote_url=knights_knaves_reward.__file__,
        data__max_len=512, rollout__max_new_tokens=160, rollout__batch_size=4, rollout__n_samples_per_prompt=4,
        train__batch_size=16,
    )  # fmt: skip
    run = stack.train(stack.options(task, tmp_path, **changes), tmp_path)
    assert run["summary"]["finished"] and len(run["steps"]) == 2
    for metrics in run["steps"]:
        assert 0 < metrics["rollout/reward_mean"] < 1 and metrics["rollout/mc_states"] > 0
        assert metrics["actor_grad_norm"] > 0 and math.isfinite(metrics["policy_loss"])
    before, after = stack.weights(task / "model"), stack.weights(tmp_path / "model")
    assert all(not torch.equal(before[name].float(), after[name].float()) for name in before)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["algo.advantage.estimator"] == "spo_chain"
