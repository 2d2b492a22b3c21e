"""Nodes of SPO-tree that wait to be trained: a tree's nodes may be spread over several iterations."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spo_rlhf.core.seeds import derive_seed

FILE = "replay.pt"


@dataclass
class Entry:
    """One sample, and when and for which prompt it was made."""

    prompt: str
    iteration: int
    sample: Any


class NodeReplay:
    """Holds each sample until it is drawn, once, or has grown too old; what is dropped is counted.

    Args:
        max_age: a sample made in iteration i can be drawn in the iterations i .. i + max_age - 1.
        per_prompt: most samples of one prompt in a draw; 0: no limit.
        seed: of the draws; each also depends on its iteration alone, so a resumed run draws what an unbroken one does.
    """

    def __init__(self, max_age: int, per_prompt: int, seed: int):
        self.max_age, self.per_prompt, self.seed = max_age, per_prompt, seed
        self.entries: list[Entry] = []
        self.added = self.drawn = self.expired = 0  # since the start of the run
        self.idle = 0  # draws since the last that was not empty

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, prompt: str, iteration: int, samples: Sequence[Any]) -> None:
        """Take the samples of one prompt."""
        self.entries += [Entry(prompt, iteration, sample) for sample in samples]
        self.added += len(samples)

    def draw(self, iteration: int, budget: int, multiple: int) -> tuple[list[Any], Counter[int]]:
        """Remove at most `budget` samples, a multiple of `multiple`, at random; the samples, and how many had which age.

        Before the draw, samples that are too old are dropped; those left over stay for the next draw.
        """
        rng = random.Random(derive_seed(self.seed, "replay", iteration))
        alive = [entry for entry in self.entries if iteration - entry.iteration < self.max_age]
        self.expired += len(self.entries) - len(alive)
        by_prompt: dict[str, list[int]] = {}
        for number, entry in enumerate(alive):
            by_prompt.setdefault(entry.prompt, []).append(number)
        candidates = [
            number
            for numbers in by_prompt.values()
            for number in rng.sample(numbers, min(len(numbers), self.per_prompt or len(numbers)))
        ]
        count = min(len(candidates), budget) // multiple * multiple
        chosen = rng.sample(candidates, count)
        left = set(chosen)
        self.entries = [entry for number, entry in enumerate(alive) if number not in left]
        self.drawn += count
        self.idle = 0 if count else self.idle + 1
        return [alive[number].sample for number in chosen], Counter(iteration - alive[n].iteration for n in chosen)

    def save(self, folder: Path) -> None:
        """Write the buffer into the folder of a checkpoint. Samples are records of tensors, numbers, texts and lists of them."""
        import torch  # here, for the options of the methods are read by commands that do not load it

        counts = {name: getattr(self, name) for name in ("added", "drawn", "expired", "idle")}
        entries = [{**vars(entry), "sample": dict(vars(entry.sample))} for entry in self.entries]
        torch.save({"counts": counts, "entries": entries}, folder / FILE)

    def load(self, folder: Path, make: Callable[[dict[str, Any]], Any]) -> bool:
        """Read the buffer of a checkpoint; False if there is none. `make`: a sample of its fields."""
        import torch

        if not (folder / FILE).exists():
            return False
        state = torch.load(folder / FILE, weights_only=True)
        self.entries = [Entry(**{**entry, "sample": make(entry["sample"])}) for entry in state["entries"]]
        vars(self).update(state["counts"])  # those of earlier versions have no `idle`
        return True

    def keep(self, fits: Callable[[Any], bool]) -> int:
        """Drop the samples that do not fit; how many."""
        before = len(self.entries)
        self.entries = [entry for entry in self.entries if fits(entry.sample)]
        return before - len(self.entries)
