"""Three files of a generated task: held out, supervised, reinforcement learning. No problem is in two of them."""

import json
from collections.abc import Callable, Set
from pathlib import Path

#: (seed, count, texts of problems to leave out) -> `count` different problems with an `id` and a `problem`
Generate = Callable[[int, int, Set[str]], list[dict]]


def write_splits(
    directory: Path,
    task: str,
    generate: Generate,
    seed: int,
    train_count: int,
    test_count: int,
    sft_count: int,
    generate_supervised: Generate | None = None,
) -> dict[str, list[dict]]:
    """Write test.jsonl (held out), sft.jsonl (supervised) and train.jsonl (reinforcement learning); return their rows.

    The held-out problems do not depend on how many of the others are asked for, and neither they nor those of
    reinforcement learning on `generate_supervised`, which makes the supervised ones where it is given. The files number
    the problems anew: `id` is task/split/number.
    """
    held_out = generate(seed, test_count, frozenset())
    others = generate(seed + 1, sft_count + train_count, frozenset(row["problem"] for row in held_out))
    splits = {"test": held_out, "sft": others[:sft_count], "train": others[sft_count:]}
    if generate_supervised is not None:
        taken = frozenset(row["problem"] for row in (*held_out, *splits["train"]))
        splits["sft"] = generate_supervised(seed + 2, sft_count, taken)
    for name, rows in splits.items():
        lines = (json.dumps({**row, "id": f"{task}/{name}/{i}"}) for i, row in enumerate(rows))
        (directory / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return splits
