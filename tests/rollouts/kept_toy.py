"""What the tests of kept rollouts, their page and their report share: rollouts of the toy model, as rows and as a run folder."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spo_rlhf.core.partition import Cutpoint
from spo_rlhf.methods.base import Method
from spo_rlhf.methods.chain import Chain
from spo_rlhf.methods.group import Group
from spo_rlhf.methods.tree import Tree
from spo_rlhf.rollout.job import PromptJob, RolloutRequest
from spo_rlhf.rollout.records import Rollout
from spo_rlhf.rollout.toy_engine import ToyEngine, ToyGrader, ToyLanguageModel
from spo_rlhf.rollouts.rows import Keeping, packed
from spo_rlhf.rollouts.schema import Row
from spo_rlhf.rollouts.store import RolloutStore

PROMPT_IDS = [7, 7, 7]
THRESHOLD = 0.5
CHAIN = Chain(partition=Cutpoint(threshold=THRESHOLD, interval=1), mc_rollouts=3)
TREE = Tree(branching=(3, 2), segment_tokens=(2,))
METHODS = {"chain": CHAIN, "tree": TREE, "group": Group()}


def texts(token_ids: Sequence[int]) -> list[str]:
    return [f"<{token}>" for token in token_ids]


def keeping(name: str, prompts: int = 4, seed: int = 1) -> Keeping:
    method = METHODS[name]
    return Keeping(
        prompts=prompts,
        seed=seed,
        method=name,
        threshold=THRESHOLD,
        masked=name != "group",
        token_texts=texts,
        node_advantages=method.node_advantages,
    )


def rollout(method: Method, prompt: str = "1 + 1", slot: int = 1, samples: int = 4, max_tokens: int = 6) -> Rollout:
    """One prompt of the toy model, sampled as the method does."""
    model = ToyLanguageModel(3, max_tokens, lambda response: float(sum(response) % 2), slot)
    request = RolloutRequest(prompt, "2", slot, (1, "train", 0), samples, 9, None, 1.0, 1.0, -1, method)
    job = PromptJob(
        request=request,
        engine=ToyEngine(model, len(PROMPT_IDS)),
        grader=ToyGrader(model),
        prompt_ids=PROMPT_IDS,
        max_tokens=max_tokens,
        weight_version=5,
        graded=True,
        token_texts=texts,
        state_values={},
    )
    return asyncio.run(method.rollout(job))


def rows(name: str, *, steps: int = 2, prompts: int = 3) -> list[Row]:
    """The same prompts at every step."""
    made = [rollout(METHODS[name], f"{number} + 1", number) for number in range(prompts)]
    return [row for step in range(1, steps + 1) for row in keeping(name).rows(made, step, {})]


def write_run(run_dir: Path, kept: Sequence[Row]) -> Path:
    """A run folder that holds these rows."""
    store = RolloutStore(run_dir, 100, print)
    for step in np.unique([row["step"] for row in kept]):
        store.keep(int(step), packed([row for row in kept if row["step"] == step]))
    return run_dir
