"""A folder with a tiny model that has learned a few arithmetic problems by heart, for tests on the real engine. Run: tiny_model.py FOLDER."""

import json
import sys
from pathlib import Path

from spo_rlhf.tasks.arithmetic import PROMPT_TEMPLATE, generate
from spo_rlhf.tasks.small_model import build_model, build_tokenizer
from spo_rlhf.tasks.warm_up import WarmUpSettings, warm_up

PROBLEMS = 12


def main(folder: Path) -> None:
    rows = generate(seed=1, count=PROBLEMS, min_steps=2, max_steps=5)
    tokenizer = build_tokenizer([PROMPT_TEMPLATE.format(row["problem"]) + row["solution"] for row in generate(seed=2, count=300)])
    model = build_model(tokenizer, seed=0, hidden_size=64, layers=2)
    pairs = [(PROMPT_TEMPLATE.format(row["problem"]), row["solution"]) for row in rows]
    answers = [(PROMPT_TEMPLATE.format(row["problem"]), row["answer"]) for row in rows]
    warm_up(model, tokenizer, pairs, answers, WarmUpSettings(
        target_accuracy=0.6, max_steps=400, max_seconds=120, batch_size=PROBLEMS, learning_rate=5e-3, ramp_steps=10))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
