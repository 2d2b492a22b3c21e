"""What an engine sampled of one prompt, on its way to the controller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from spo_rlhf.core import tree as tree_core
from spo_rlhf.core.finite import Fault
from spo_rlhf.core.tree import TokenTree
from spo_rlhf.core.values import Prior, ValueEstimate
from spo_rlhf.rollout.protocol import Completion, Grade


@dataclass
class RolloutCounts:
    """What a rollout cost; summed over prompts. Each count is logged as ``rollout/<name>``."""

    responses: int = 0  # in a tree: its leaves
    response_tokens: int = 0  # in a tree: those of all nodes, each once
    mc_states: int = 0  # inner states of all responses
    mc_requests: int = 0  # of these, asked (states that responses share are asked once)
    mc_continuations: int = 0
    mc_tokens: int = 0
    mc_truncated: int = 0
    trees: int = 0
    nodes: int = 0  # below the prompts
    duplicate_siblings: int = 0  # nodes with the same tokens as an earlier sibling
    saved_tokens: int = 0  # what the leaves' responses would have cost more, had they been sampled one by one
    prompt_tokens: int = 0  # prefix tokens of all requests ...
    cached_tokens: int = 0  # ... and how many of them came from the prefix cache

    @property
    def generated_tokens(self) -> int:
        """All tokens that were sampled."""
        return self.response_tokens + self.mc_tokens

    def add(self, other: RolloutCounts) -> None:
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)


@dataclass
class Sample:
    """Tokens that the policy sampled after a context, and what is known of them: one row of a batch.

    `adv_T` (T,), where there is one, holds the advantage of each action; without it OpenRLHF computes one per response.
    """

    token_ids: list[int]  # context and actions
    action_ranges: list[tuple[int, int]]  # [start, end) of the actions; several in a conversation of several turns
    logprobs: list[float] | None  # of every token under the policy that sampled it, 0 where it is context
    truncated: bool
    reward: float | None  # None: a reward model grades it later
    score: float | None = None  # what dynamic filtering looks at
    logs: dict[str, float] = field(default_factory=dict)
    boundaries: list[int] = field(default_factory=list)  # (K + 1,) of its segments, [0, .., T]
    adv_T: list[float] | None = None
    weight: float = 1.0  # in the loss
    top_logprobs: list[float] | None = (
        None  # of the most likely token at every position, where those decide about the mask
    )
    estimates: list[ValueEstimate] = field(default_factory=list)  # (K,) at the starts of its segments, where known
    reward_logs: dict[str, float] = field(default_factory=dict)  # of `logs`, those of the reward function
    versions: list[int] = field(default_factory=list)  # (T,) of the weights of each action, where they may differ
    images: Any = None
    mm_train_inputs: Any = None

    @classmethod
    def after(cls, context: Sequence[int], completion: Completion, grade: Grade | None, **more: Any) -> Sample:
        """A completion behind its context."""
        assert completion.logprobs is not None, "a sample that is trained needs the log-probs of its policy"
        logs = {**(grade.logs if grade else {}), **more.pop("logs", {})}
        return cls(
            token_ids=[*context, *completion.token_ids],
            action_ranges=[(len(context), len(context) + len(completion.token_ids))],
            logprobs=[0.0] * len(context) + completion.logprobs,
            top_logprobs=None if (top_T := completion.top_logprobs) is None else [0.0] * len(context) + top_T,
            truncated=completion.truncated,
            versions=completion.versions or [],
            reward=grade.reward if grade else None,
            score=grade.score if grade else None,
            logs=logs,
            reward_logs=dict(grade.logs) if grade else {},
            **more,
        )


@dataclass
class Rollout:
    """What an engine sampled of one prompt: responses, with continuations where they are trained too, or a tree."""

    prompt: str
    label: str
    slot: int
    weight_version: int  # of the policy that sampled it
    counts: RolloutCounts
    samples: list[Sample] = field(default_factory=list)
    continuations: list[Sample] = field(default_factory=list)
    tree: TokenTree | None = None
    faults: list[Fault] = field(default_factory=list)  # numbers that were not finite; a 0 stands in their places
    weight: float = 1.0  # in the loss, of all its samples
    prior: Prior | None = None  # what was known of the prompt before it was sampled

    def outcomes(self) -> list[float]:
        """Rewards of the responses (of a tree, the values of the root's children); those not graded yet are left out."""
        if self.tree is None:
            return [float(one.reward) for one in self.samples if one.reward is not None]
        value_N = tree_core.values(self.tree.parent_N, self.tree.reward_N)
        return value_N[tree_core.children(self.tree.parent_N)[0]].tolist()
