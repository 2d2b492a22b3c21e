"""spo-diagnose on the real engine: a model that knows its answers by heart, sampled hot."""

import json
import subprocess
import sys

import by_heart
import pytest
import stack

from spo_rlhf.tasks.arithmetic import PROMPT_TEMPLATE, generate

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
REWARD = stack.ROOT / "spo_rlhf" / "tasks" / "math_reward.py"


def test_a_diagnosis_of_a_model_that_is_often_wrong(tmp_path):
    problems = generate(seed=1, count=8, min_steps=2, max_steps=3)
    by_heart.learn(tmp_path, problems, PROMPT_TEMPLATE)
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems), encoding="utf-8")
    flags = {
        "--model": tmp_path / "model",
        "--data": tmp_path / "test.jsonl",
        "--input-key": "problem",
        "--label-key": "answer",
        "--template": PROMPT_TEMPLATE,
        "--reward": REWARD,
        "--temperature": 1.5,
        "--max-new-tokens": 36,
        "--prompts": 8,
        "--cuts": 2,
        "--output": tmp_path / "out",
    }
    arguments = [str(part) for pair in flags.items() for part in pair]
    command = [sys.executable, "-m", "spo_rlhf.cli.diagnose", *arguments]
    done = subprocess.run(command, cwd=stack.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "recommended: " in done.stdout and "<- the oracle ratio" in done.stdout
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert found["prompts"] == 8 and 0 < found["reward"]["value"] < 1 and len(found["cuts"]) == 2
    assert found["settings"]["temperature"] == 1.5 and found["continuation_tokens"] > found["response_tokens"] / 2
    shares = [one["value"] for one in (*found["energy_before"], *found["settled_before"], found["decided"])]
    assert all(0 <= share <= 1 for share in shares)
    assert len(found["choices"]) == 6 and found["choices"][found["recommended"]]["options"] in done.stdout
