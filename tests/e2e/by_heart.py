"""A small model that has learned a few problems by heart: right when greedy, sometimes wrong when sampled."""

from pathlib import Path

from spo_rlhf.tasks import small_model
from spo_rlhf.tasks.warm_up import WarmUpSettings, warm_up


def learn(folder: Path, rows: list[dict], template: str, kind: str = "math") -> int:
    """Write the model and its tokenizer to `folder`/model; return the length of the longest solution in tokens.

    `rows` have `problem`, `solution` and `answer`.
    """
    examples = [(template.format(row["problem"]), row["solution"]) for row in rows]
    answers = [(template.format(row["problem"]), row["answer"]) for row in rows]
    tokenizer = small_model.build_tokenizer(prompt + solution for prompt, solution in examples for _ in range(3))
    model = small_model.build_model(tokenizer, seed=0)
    longest = max(len(tokenizer(solution)["input_ids"]) for _, solution in examples)
    settings = WarmUpSettings(1.0, max_steps=400, batch_size=len(rows), evaluate_every=20, max_new_tokens=longest + 8)
    end = warm_up(model, tokenizer, examples, answers, settings, kind=kind)
    assert end.accuracy == 1.0, f"solves {end.accuracy:.0%} after {end.step} steps"
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return longest
