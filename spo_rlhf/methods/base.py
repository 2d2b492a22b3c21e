"""What makes one method differ from another, and what a method can rely on.

A method is one file of this folder: a frozen dataclass whose fields are its options, with what it refuses, what it
settles, how it samples a prompt on the engine, what it trains, and what belongs into its checkpoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol

import numpy as np

from spo_rlhf.core import tree as core
from spo_rlhf.core.history import PromptHistory
from spo_rlhf.core.options import check
from spo_rlhf.core.tree import TokenTree
from spo_rlhf.core.values import Prior
from spo_rlhf.errors import UserError
from spo_rlhf.methods.memory import Memory
from spo_rlhf.rollout.job import PromptJob
from spo_rlhf.rollout.records import Rollout, Sample

# OpenRLHF's sample, `upstream.Experience`: to name it would load the stack.
Experience = Any


class SetOption(Protocol):
    """Settles an option of the command: its name without dashes, its value, and why, for the user to read."""

    def __call__(self, name: str, value: Any, why: str) -> None: ...


class Reports(Protocol):
    """Where lines for the user go."""

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class TrainerServices:
    """What the controller offers to a method's `Supply`."""

    args: SimpleNamespace  # of the run, `args.spo` its SpoConfig
    to_experience: Callable[[Rollout, Sample], Experience]
    add_log_probs: Callable[[list[Experience]], None]  # of the present policy and the reference, in place
    from_fields: Callable[[dict[str, Any]], Experience]  # a sample of what a checkpoint holds of it, `vars` of it
    reporter: Reports
    # Log-probs, by the present policy, of each of these lists of tokens behind its context: a forward pass, of no gradient.
    log_probs_of: Callable[[Sequence[tuple[list[int], list[int]]]], list[list[float]]] | None = None
    encode: Callable[[str], list[int]] | None = None  # a text that stands behind another


class Supply:
    """Rollouts in, what the next update trains on out. One per run, on the controller."""

    def __init__(self, method: Any, services: TrainerServices):
        self.method, self.services, self.args = method, services, services.args
        own = method.memory()
        history = self.args.spo.prompts.memory() if own is None else own
        self.memory = None if history is None else Memory(history)
        self.by_history = own is not None

    def judge(self, prompt: str, label: Any, iteration: int) -> tuple[float, Prior | None]:
        """Of a prompt that is about to be sampled: the probability to keep it, and what the method is to know of it."""
        if self.memory is None:
            return 1.0, None
        prior = self.memory.prior(prompt, label, iteration)
        return self.args.spo.prompts.keep_probability(prior), prior if self.by_history else None

    def method_of(self, slot: int, iteration: int) -> Any:
        """The `Method` that samples this place of the batch; what it is depends on earlier iterations alone."""
        return self.method

    def take(self, rollouts: Sequence[Rollout], iteration: int) -> tuple[list[Experience], dict[str, float]]:
        """`exchange`, and what the rollouts say of their prompts is remembered."""
        samples, metrics = self.exchange(rollouts, iteration)
        return samples, metrics | (self.memory.learn(rollouts, iteration) if self.memory else {})

    def exchange(self, rollouts: Sequence[Rollout], iteration: int) -> tuple[list[Experience], dict[str, float]]:
        """Rollouts of this iteration -> samples to train now, a multiple of --train.batch_size, and metrics."""
        samples = [self.services.to_experience(rollout, one) for rollout in rollouts for one in rollout.samples]
        return self.whole_steps(samples), {}

    def whole_steps(self, samples: list[Experience]) -> list[Experience]:
        """As many as fill optimizer steps: one that its samples do not fill would leak its gradient into the next."""
        batch_size = self.args.train.batch_size
        whole = len(samples) // batch_size * batch_size
        if whole < len(samples):
            self.services.reporter.note(
                f"{len(samples) - whole} of {len(samples)} samples do not fill a --train.batch_size of "
                f"{batch_size} and are not trained on"
            )
        return samples[:whole]

    def save(self, folder: Path) -> None:
        """Write what belongs into a checkpoint into its folder, nothing of it as a pickle."""
        if self.memory:
            self.memory.save(folder)

    def load(self, folder: Path) -> None:
        """Read it from the checkpoint that training goes on from."""
        if self.memory and not self.memory.load(folder):
            self.services.reporter.note(f"no history of the prompts in {folder}: it begins anew")

    def report_end(self) -> None:
        """Say what was sampled and not trained."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """How a prompt is sampled and what of it is trained; its fields are its options."""

    masks_by_default: ClassVar[bool] = False  # --spo.prob_mask, where the command does not say
    # --spo.preset NAME -> options, by their names in the command
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        check(self)

    @property
    def brings_advantages(self) -> bool:
        """Samples bring the advantages of their segments: there is no critic, no trajectory-level estimator."""
        return False

    @property
    def hidden_features(self) -> int:
        """Numbers that are kept of each hidden state of the forward pass for old log-probs; 0: nothing is."""
        return 0

    def memory(self) -> PromptHistory | None:
        """An empty memory of the run's prompts; None where nothing of earlier iterations enters the advantages."""
        return None

    def refuse(self, options: Mapping[str, Any], explicit: set[str]) -> None:
        """Raise UserError for options that contradict the method. `explicit`: those that the command names."""

    def settle(self, options: Mapping[str, Any], explicit: set[str], set_option: SetOption) -> None:
        """Settle what the method decides of OpenRLHF's options, before OpenRLHF validates them. Raises UserError."""

    def check_batch(self, args: SimpleNamespace, policy_ranks: int) -> None:
        """Raise UserError for batch sizes that the method cannot train; after OpenRLHF's validation."""

    def text_flag(self) -> str | None:
        """The option that needs the text of each token, as the command says it; None where none does."""
        return None

    @abstractmethod
    async def rollout(self, job: PromptJob) -> Rollout:
        """Sample one prompt, on its engine."""

    def node_advantages(self, tree: TokenTree, prior: Prior | None) -> np.ndarray:
        """Advantages (N,) of the nodes of a tree, where the method grows one: what kept rollouts show of it.

        ``prior``: what was known of the prompt.
        """
        return core.advantages(tree.parent_N, core.values(tree.parent_N, tree.reward_N))

    def supply(self, services: TrainerServices) -> Supply:
        """What builds the batches of a run."""
        return Supply(self, services)


BASELINE_HELP = "what the responses to a prompt are compared with (docs/credit.md)"
# Flags of OpenRLHF that shape a trajectory-level return, and so mean nothing where each segment has its own advantage.
SEGMENTS_REFUSE = {
    "algo.advantage.estimator": "the advantages are those of the segments",
    "algo.advantage.gamma": "segment values are undiscounted",
    "algo.advantage.lambd": "there is no critic to trace back",
    "algo.advantage.no_std_norm": "use --spo.advantage_norm",
    "algo.dynamic_filtering_enable": "segments of an all-right or all-wrong group can still differ in value",
    "reward.overlong_buffer_len": "the values of segments would not carry the penalty",
    "reward.stop_properly_penalty_coef": "a truncated response already has reward 0",
    "reward.clip_range": "the values of segments would not be clipped",
    "reward.model_name_or_path": "segment values are graded on the engine: use --reward.remote_url",
    "train.agent_func_path": "segments of a multi-turn response are not defined",
    "critic.model_name_or_path": "there is no critic",
}


@dataclass(frozen=True, kw_only=True)
class SegmentMethod(Method):
    """What methods with an advantage per segment have in common."""

    masks_by_default = True

    @property
    def brings_advantages(self) -> bool:
        return True

    def refuse(self, options: Mapping[str, Any], explicit: set[str]) -> None:
        refuse_shaped_returns(f"--spo.mode {options['spo.mode']}", options, explicit)

    def settle(self, options: Mapping[str, Any], explicit: set[str], set_option: SetOption) -> None:
        settle_kl_as_loss(options, explicit, set_option)
        set_option("vllm.enable_prefix_caching", True, "continuations share their prefix")


def refuse_shaped_returns(what: str, options: Mapping[str, Any], explicit: set[str]) -> None:
    """Raise UserError for what shapes a return, or grades it elsewhere. `what`: the option that brings own advantages."""
    for name in sorted(explicit & set(SEGMENTS_REFUSE)):
        raise UserError(f"--{name} has no meaning with {what} ({SEGMENTS_REFUSE[name]}); leave it out")
    if not options["reward.remote_url"]:
        raise UserError(f"{what} needs --reward.remote_url (a .py file with reward_func, or an HTTP address)")
    if options["data.max_images_per_prompt"] > 0:
        raise UserError(f"--data.max_images_per_prompt does not go with {what}: states are token ids only")


def settle_kl_as_loss(options: Mapping[str, Any], explicit: set[str], set_option: SetOption) -> None:
    """A KL penalty in the reward would be missing from Monte Carlo returns and earlier outcomes: it is a term of the loss."""
    if options["algo.kl.init_coef"] > 0:
        set_option("algo.kl.use_loss", True, "Monte Carlo returns carry no KL penalty, so it is a loss term")
        if "algo.kl.estimator" not in explicit:
            set_option("algo.kl.estimator", "k3", "the KL loss of the paper")


# The paper's runs: https://arxiv.org/abs/2505.23564, chain on GSM8K and tree on MATH, models of 1 to 1.5 billion
# parameters. docs/when-spo-pays.md says what they cost, and what to use for less.
PAPER_OPTIMIZER = {
    "actor.adam.lr": 1e-6,
    "actor.adam.betas": [0.9, 0.999],
    "actor.lr_scheduler": "linear",
    "actor.lr_warmup_ratio": 0.03,
    "actor.max_norm": 1.0,
    "actor.eps_clip": 0.2,
    "algo.kl.init_coef": 1e-4,
    "algo.kl.use_loss": True,
    "algo.kl.estimator": "k3",
}
PAPER_SEGMENTS = {
    "spo.prob_mask": True,
    "spo.prob_threshold": 0.9,
    "spo.kl_scope": "masked",
    "spo.advantage_norm": "batch",
}
PAPER_GSM8K = {
    **PAPER_OPTIMIZER,
    "rollout.temperature": 0.6,
    "rollout.top_p": 0.9,
    "rollout.batch_size": 64,
    "rollout.n_samples_per_prompt": 8,
    "train.batch_size": 64,
    "train.max_epochs": 2,
}
# What needed the fewest tokens for a gradient of the same precision (docs/when-spo-pays.md): RLOO, two responses a prompt,
# against what was known of it. Long responses have four updates a batch, as in the learning curves on them.
MEASURED_SHORT = {
    "spo.baseline": "history",
    "rollout.batch_size": 128,
    "rollout.n_samples_per_prompt": 2,
    "train.batch_size": 256,
    "train.max_epochs": 1,
}
MEASURED_LONG = {**MEASURED_SHORT, "train.batch_size": 64}
