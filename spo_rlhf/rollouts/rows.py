"""From what the engines sampled to rows, and which prompts of a step are kept."""

import gzip
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spo_rlhf.core import tree as core
from spo_rlhf.core.partition import below_threshold
from spo_rlhf.core.values import Prior, ValueEstimate
from spo_rlhf.methods.tree import node_sample
from spo_rlhf.rollout.records import Rollout, Sample
from spo_rlhf.rollouts.schema import SCHEMA, Row

# Digits behind the point: what a reader can tell apart, at a third of the room.
DIGITS = 6
SAME_VALUE = 1e-4  # float32 against float64
# (position of the first action, token ids of context and actions): tells the samples of a batch from one another.
Key = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Trained:
    """What the update made of a sample: an advantage per token behind the context, and the reward."""

    adv_T: list[float]
    reward: float


@dataclass(frozen=True)
class Keeping:
    """How the rollouts of a run become rows.

    Args:
        prompts: prompts a step; 0: none.
        seed: that of the run.
        method: its name.
        threshold: below which probability a token is a cutpoint.
        masked: the loss is that of the cutpoints alone.
        token_texts: what each of the given tokens adds to the text.
        node_advantages: of a tree and what was known of its prompt, (N,).
    """

    prompts: int
    seed: int
    method: str
    threshold: float
    masked: bool
    token_texts: Callable[[Sequence[int]], list[str]]
    node_advantages: Callable[[core.TokenTree, Prior | None], np.ndarray]

    def choose(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Those that are kept, in the order of their slots: a draw that depends on the seed and the prompts alone.

        Each prompt has a rank of its own for the whole run, so that one that comes again is kept again.
        """
        ranked = sorted(rollouts, key=lambda one: (_digest(str(self.seed), one.prompt, str(one.label)), one.slot))
        return sorted(ranked[: self.prompts], key=lambda one: one.slot)

    def rows(self, rollouts: Sequence[Rollout], step: int, trained: Mapping[Key, Sequence[Trained]]) -> list[Row]:
        """The rows of these prompts; `trained` holds the samples of the update of `step`."""
        return [row for one in rollouts for row in (self._nodes if one.tree else self._responses)(one, step, trained)]

    def _responses(self, rollout: Rollout, step: int, trained: Mapping[Key, Sequence[Trained]]) -> list[Row]:
        return [
            self._row(rollout, step, sample, next(iter(trained.get(key(sample), ())), None), sample=number)
            for number, sample in enumerate(rollout.samples, 1)
        ]

    def _nodes(self, rollout: Rollout, step: int, trained: Mapping[Key, Sequence[Trained]]) -> list[Row]:
        tree = rollout.tree
        assert tree is not None
        value_N, adv_N = core.values(tree.parent_N, tree.reward_N), self.node_advantages(tree, rollout.prior)
        estimate_N = core.estimates(tree.parent_N, value_N)
        made: list[Row] = []
        for node in range(1, len(tree)):
            reward, parent = tree.reward_N[node], tree.parent_N[node]
            sample = node_sample(rollout, tree, node, float(value_N[node]), float(adv_N[node]))
            sample.reward = None if math.isnan(reward) else reward
            sample.estimates = [estimate_N[parent]]
            # Siblings of the same tokens are told apart by what became of them: V is the reward of a node's sample.
            same = [one for one in trained.get(key(sample), ()) if abs(one.reward - value_N[node]) < SAME_VALUE]
            row = self._row(rollout, step, sample, same[0] if same else None, sample=node, end=estimate_N[node])
            row["parent"], row["level"] = parent, len(tree.path(node))
            made.append(row)
        return made

    def _row(
        self,
        rollout: Rollout,
        step: int,
        one: Sample,
        trained: Trained | None,
        *,
        sample: int,
        end: ValueEstimate | None = None,
    ) -> Row:
        start, _ = key(one)
        token_ids, logp_T = one.token_ids[start:], (one.logprobs or [])[start:]
        length = len(token_ids)
        action_T = np.zeros(length, dtype=bool)
        for first, last in one.action_ranges:
            action_T[first - start : last - start] = True
        deciding_T = one.top_logprobs[start:] if one.top_logprobs else logp_T
        cut_T = below_threshold(np.exp(np.asarray(deciding_T, dtype=np.float64)), self.threshold) & action_T
        segment_adv_T = one.adv_T or [0.0] * length
        reward = one.reward
        if reward is None and trained and rollout.tree is None:
            reward = trained.reward
        adv_T = trained.adv_T if trained else segment_adv_T
        boundary_K = one.boundaries or [0, length]
        adv_K = [segment_adv_T[first] for first in boundary_K[:-1]] if one.adv_T else _one_for_all(adv_T)
        estimates = list(one.estimates)
        if estimates:
            estimates.append(end or ValueEstimate(float(reward or 0.0), 0.0, 1))
        text_T = self.token_texts(token_ids)
        parts = {} if reward is None else {"reward": reward, **({} if one.score is None else {"score": one.score})}
        return {
            "schema": SCHEMA,
            "step": step,
            "method": self.method,
            "slot": rollout.slot,
            "prompt_id": _digest(rollout.prompt, str(rollout.label))[:12],
            "prompt": rollout.prompt,
            "label": str(rollout.label),
            "sample": sample,
            "parent": 0,
            "level": 1,
            "response": "".join(text_T),
            "token_ids": list(token_ids),
            "token_texts": text_T,
            "logprobs": _numbers(logp_T),
            "mask": (cut_T if self.masked else action_T).astype(int).tolist(),
            "cuts": cut_T.astype(int).tolist(),
            "advantages": _numbers(adv_T),
            "trained": trained is not None,
            "boundaries": list(boundary_K),
            "segment_advantages": _numbers(adv_K),
            "values": _numbers([estimate.mean for estimate in estimates]),
            "value_stderrs": _numbers([estimate.stderr for estimate in estimates]),
            "value_counts": [estimate.count for estimate in estimates],
            "reward": None if reward is None else _number(reward),
            "reward_parts": [
                {"name": name, "value": _number(value)} for name, value in {**parts, **one.reward_logs}.items()
            ],
            "truncated": bool(one.truncated),
            "weight_version": rollout.weight_version,
            "token_versions": list(one.versions),
        }


def key(sample: Sample) -> Key:
    """What a sample is recognised by in the batch of an update."""
    start = sample.action_ranges[0][0] if sample.action_ranges else len(sample.token_ids)  # an agent may not have acted
    return start, tuple(sample.token_ids)


def keys(rollouts: Sequence[Rollout]) -> set[Key]:
    """Those of all samples that can be trained."""
    found = {key(sample) for one in rollouts for sample in one.samples}
    for tree in (one.tree for one in rollouts if one.tree):
        paths = ((tree.prompt_ids + tree.prefix(node), tree.tokens(node)) for node in range(1, len(tree)))
        found |= {(len(context), (*context, *tokens)) for context, tokens in paths}
    return found


def marked(rows: Sequence[Row]) -> tuple[str, float]:
    """The first row with an advantage as text, that of each segment in front of it, and its reward, or V."""
    row = next((row for row in rows if any(row["segment_advantages"])), rows[0])
    pieces = ["".join(row["token_texts"][first:last]) for first, last in zip(row["boundaries"], row["boundaries"][1:])]
    advs = row["segment_advantages"] or [None] * len(pieces)
    text = "".join(piece if adv is None else f"[{adv:+.2f}|{piece}]" for adv, piece in zip(advs, pieces))
    reward = row["reward"] if row["reward"] is not None else (row["values"] or [0.0])[-1]
    return f"{row['prompt']}{text}", reward


def packed(rows: Sequence[Row]) -> bytes:
    """The rows as the content of a file; the same bytes for the same rows."""
    lines = "".join(json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n" for row in rows)
    return gzip.compress(lines.encode(), compresslevel=6, mtime=0)


def _digest(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _one_for_all(adv_T: Sequence[float]) -> list[float]:
    """The advantage of a whole response, where all its tokens have one; a critic or a KL penalty gives each its own."""
    return [float(adv_T[0])] if adv_T and max(adv_T) - min(adv_T) < 1e-6 * max(1.0, abs(adv_T[0])) else []


def _number(value: Any) -> float:
    """JSON has no infinities: the log-prob of a token that was forced, or a reward gone wrong, is bounded."""
    value = float(value)
    return round(min(max(value, -1e9), 1e9), DIGITS) if value == value else 0.0


def _numbers(values: Sequence[Any]) -> list[float]:
    return [_number(value) for value in values]
