"""A folder with a tiny model that has learned a few arithmetic problems by heart, for tests on the real engine.
Run: tiny_model.py FOLDER.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from spo_rlhf.tasks.arithmetic import PROMPT_TEMPLATE, generate
from spo_rlhf.tasks.small_model import build_model, build_tokenizer

PROBLEMS, MAX_STEPS, LEARNING_RATE = 6, 600, 3e-3
# Learned well enough that greedy responses are mostly right and sampled ones often wrong.
TARGET_LOSS = 0.08


def main(folder: Path) -> None:
    torch.set_num_threads(1)  # faster for so small a model, also on a busy machine
    rows = generate(seed=1, count=PROBLEMS, min_steps=2, max_steps=4)
    tokenizer = build_tokenizer(
        [PROMPT_TEMPLATE.format(row["problem"]) + row["solution"] for row in generate(seed=2, count=300)]
    )
    tokenizer.save_pretrained(folder / "model")
    model = build_model(tokenizer, seed=0)
    model.config.save_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")  # as the engine will load it
    texts = [PROMPT_TEMPLATE.format(row["problem"]) + row["solution"] + tokenizer.eos_token for row in rows]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for step in range(MAX_STEPS):  # noqa: B007  told at the end
        logits = model(**batch).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        if loss.item() < TARGET_LOSS:
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print(f"{step} steps, loss {loss.item():.3f}")
    model.save_pretrained(folder / "model")
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
