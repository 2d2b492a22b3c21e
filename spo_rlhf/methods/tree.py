"""SPO-tree: from each prompt a tree of segments, of which every node with an advantage is trained once.

A node is a sample of its own, its prefix in the place of the prompt. Nodes may wait several iterations in a replay
buffer, which is part of the checkpoint.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from spo_rlhf.core import tree as core
from spo_rlhf.core.baselines import BASELINES, Baseline
from spo_rlhf.core.history import PromptHistory
from spo_rlhf.core.options import choice, name_of, option, whole_numbers
from spo_rlhf.core.partition import PARTITIONS
from spo_rlhf.core.tree import TokenTree, TreeShape
from spo_rlhf.core.tree_baselines import Shrunk, TreeAdvantage, level_weights
from spo_rlhf.core.tree_cuts import TREE_CUTS, AfterTokens, AtBoundaries
from spo_rlhf.core.tree_plan import TREE_SHAPES, FixedShape, Plan, PlannedShape, Planner
from spo_rlhf.core.units import needs_ids
from spo_rlhf.core.values import Prior
from spo_rlhf.errors import UserError
from spo_rlhf.host.files import read_json, replace_text
from spo_rlhf.methods.base import (
    BASELINE_HELP,
    PAPER_OPTIMIZER,
    PAPER_SEGMENTS,
    Experience,
    Method,
    PromptJob,
    SegmentMethod,
    SetOption,
    Supply,
    TrainerServices,
)
from spo_rlhf.methods.replay import NodeReplay
from spo_rlhf.rollout.records import Rollout, Sample
from spo_rlhf.rollout.tree import TreeRollout

# Iterations without an optimizer step, at least, and in lifetimes of a node: by then the buffer holds what it ever will.
IDLE_ITERATIONS, IDLE_LIFETIMES = 8, 4
PLAN_FILE = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Tree(SegmentMethod):
    """Segment advantages from a tree of responses, whose nodes are all trained.

    https://arxiv.org/abs/2505.23564
    """

    branching: tuple[int, ...] = option(
        (6, 6, 6),
        flag="tree_branching",
        parse=whole_numbers,
        default_text="6,6,6",
        metavar="B1,B2,..",
        help="children of a node by level",
    )
    segment_tokens: tuple[int, ...] | None = option(
        None,
        flag="tree_segment_tokens",
        parse=whole_numbers,
        default_text="none, required",
        metavar="M[,M2,..]",
        help="tokens of a segment, one number or one for each level but the last, which goes on to the end",
    )
    cuts: AfterTokens | AtBoundaries = choice("tree_cuts", TREE_CUTS, "tokens", help="where the segments of a tree end")
    shaping: FixedShape | PlannedShape = choice(
        "tree_shape", TREE_SHAPES, "fixed", help="whether branching and cuts stay what they are"
    )
    planned: TreeShape | None = None  # of one tree, by the controller
    advantage: core.NodeAdvantage = choice(
        "tree_advantage",
        core.ADVANTAGES,
        "mean",
        help="what the value of a node is compared with",
    )
    level_weights: bool = option(
        False,
        flag="tree_level_weights",
        help="weigh the nodes of a level by one over its places B1 x B2 x .., so that all levels count alike in the loss",
    )
    baseline: Baseline = choice("baseline", BASELINES, "group", help=BASELINE_HELP)
    # As in the official runs: 8 x 32 is about the 258 nodes of a 6-6-6 tree.
    replay_max_age: int = option(
        8, at_least=1, metavar="N", help="iterations that a node may wait to be trained; 1: no replay"
    )
    replay_per_prompt: int = option(
        32,
        at_least=0,
        metavar="N",
        help="nodes of one prompt in an iteration; 0: no limit. All prompts together: --rollout.batch_size x "
        "--rollout.n_samples_per_prompt",
    )

    presets = {
        "paper": {
            **PAPER_OPTIMIZER,
            **PAPER_SEGMENTS,
            "spo.tree_branching": (6, 6, 6),
            "spo.tree_segment_tokens": (600,),
            "spo.tree_advantage": "mean",
            "spo.replay_max_age": 8,
            "spo.replay_per_prompt": 32,
            "rollout.temperature": 0.6,
            "rollout.top_p": 1.0,
            "rollout.batch_size": 32,
            "rollout.n_samples_per_prompt": 16,
            "train.batch_size": 128,
            "train.max_epochs": 1,
        }
    }

    @cached_property
    def shape(self) -> TreeShape:
        """Raises ValueError for branching and segments that make no tree."""
        if self.planned is not None:
            return self.planned
        return TreeShape(self.branching, (1,) if self.partition_cuts else self.segment_tokens or ())

    @property
    def partition_cuts(self) -> AtBoundaries | None:
        """Where a partition ends the segments: what they are then cut by."""
        return self.cuts if isinstance(self.cuts, AtBoundaries) else None

    def refuse(self, options: Mapping[str, Any], explicit: set[str]) -> None:
        super().refuse(options, explicit)
        if "rollout.vllm_generate_batch_size" in explicit:
            raise UserError(
                "--rollout.vllm_generate_batch_size has no meaning with --spo.mode tree; set --rollout.batch_size"
            )
        if self.baseline.memory() is not None and not isinstance(self.advantage, TreeAdvantage):
            raise UserError(
                f"--spo.baseline {options['spo.baseline']} does not go with --spo.tree_advantage "
                f"{options['spo.tree_advantage']}, which looks at the siblings alone; use loo or shrunk"
            )
        if self.partition_cuts:
            if "spo.tree_segment_tokens" in explicit:
                raise UserError("--spo.tree_segment_tokens has no meaning with --spo.tree_cuts partition; leave it out")
        elif self.segment_tokens is None and len(self.branching) > 1:
            raise UserError(
                "--spo.mode tree needs --spo.tree_segment_tokens (tokens per segment, e.g. 600 for responses of 2000)"
            )
        try:
            self.shape  # noqa: B018
        except ValueError as error:
            given = f"--spo.tree_branching {','.join(map(str, self.branching))}"
            if self.segment_tokens is not None:
                given += f" --spo.tree_segment_tokens {','.join(map(str, self.segment_tokens))}"
            raise UserError(f"{given}: {error}") from None
        if isinstance(self.shaping, PlannedShape):
            self._refuse_planned(options)

    def _refuse_planned(self, options: Mapping[str, Any]) -> None:
        what = "--spo.tree_shape planned"
        if self.partition_cuts:
            raise UserError(f"{what} needs --spo.tree_cuts tokens: a partition has cuts of its own")
        if len(self.branching) != 2 or min(self.branching) < 2:
            given = ",".join(map(str, self.branching))
            raise UserError(f"{what} needs two levels of two or more children to begin with, as 4,2; not {given}")
        if not isinstance(self.advantage, TreeAdvantage) or not self.level_weights:
            raise UserError(
                f"{what} needs --spo.tree_advantage loo or shrunk, and --spo.tree_level_weights: else every shape would "
                "have another expected gradient"
            )

    def settle(self, options: Mapping[str, Any], explicit: set[str], set_option: SetOption) -> None:
        super().settle(options, explicit, set_option)
        if "rollout.n_samples_per_prompt" not in explicit:
            nodes = max(self.replay_per_prompt, 1)
            set_option("rollout.n_samples_per_prompt", nodes, "nodes trained per prompt and iteration")

    def check_batch(self, args: SimpleNamespace, policy_ranks: int) -> None:
        micro_batch, batch = args.rollout.micro_batch_size, args.train.batch_size
        if batch % (micro_batch * policy_ranks):
            raise UserError(
                f"--rollout.micro_batch_size {micro_batch} x {policy_ranks} policy ranks does not divide "
                f"--train.batch_size {batch}: an iteration of --spo.mode tree trains any multiple of the latter"
            )

    async def rollout(self, job: PromptJob) -> Rollout:
        sampler = TreeRollout(**job.sampler_options())
        tree = await sampler.grow(self.shape, self.partition_cuts, job.token_texts)
        return job.rollout(sampler.counts, tree=tree)

    def text_flag(self) -> str | None:
        cuts = self.partition_cuts
        return f"--spo.partition {name_of(PARTITIONS, cuts.partition)}" if cuts and cuts.partition.needs_text else None

    def memory(self) -> PromptHistory | None:
        return self.baseline.memory()

    def node_advantages(self, tree: TokenTree, prior: Prior | None) -> np.ndarray:
        value_N = core.values(tree.parent_N, tree.reward_N)
        return core.advantages(tree.parent_N, value_N, self.advantage_of(tree), prior)

    def advantage_of(self, tree: TokenTree) -> core.NodeAdvantage:
        """The advantage, for the shape that the tree has."""
        shape = tree.shape
        if shape is None or shape.settled is None or not isinstance(self.advantage, Shrunk):
            return self.advantage
        return replace(self.advantage, branching=shape.branching, settled=shape.settled)

    def supply(self, services: TrainerServices) -> "NodeSupply":
        return NodeSupply(self, services)


def node_samples(
    rollout: Rollout, advantage: core.NodeAdvantage, weight_L: Sequence[float] | np.ndarray | None = None
) -> list[Sample]:
    """The trained nodes of a tree, a sample each; ``weight_L``: what one counts in the loss, by level, 1 unless given.

    The tokens before the node's own are context: they are no actions and carry no log-probs. The reward is V of the
    node.
    """
    tree = rollout.tree
    assert tree is not None, "a rollout of this method is a tree"
    value_N = core.values(tree.parent_N, tree.reward_N)
    adv_N = core.advantages(tree.parent_N, value_N, advantage, rollout.prior)
    samples = [
        node_sample(rollout, tree, node, float(value_N[node]), float(adv_N[node])) for node in core.trained(adv_N)
    ]
    if weight_L is not None:
        for one in samples:
            one.weight = float(weight_L[int(one.logs["level"]) - 1])
    return samples


def node_sample(rollout: Rollout, tree: TokenTree, node: int, value: float, advantage: float) -> Sample:
    """A node as a sample: the tokens before its own are context, which is no action and carries no log-probs."""
    context, tokens = tree.prompt_ids + tree.prefix(node), tree.tokens(node)
    return Sample(
        token_ids=context + tokens,
        action_ranges=[(len(context), len(context) + len(tokens))],
        logprobs=[0.0] * len(context) + tree.logprobs(node),
        top_logprobs=None if (top_T := tree.top_logprobs(node)) is None else [0.0] * len(context) + top_T,
        truncated=tree.truncated_N[node],
        reward=value,
        logs={"weight_version": float(rollout.weight_version), "level": float(len(tree.path(node)))},
        boundaries=[0, len(tokens)],
        adv_T=[advantage] * len(tokens),
    )


def tree_metrics(rollouts: Sequence[Rollout], method: Tree) -> dict[str, float]:
    """Of the trees of one iteration: means over leaves, and the share of nodes that have nothing to teach."""
    known = [(one.tree, one.prior) for one in rollouts if one.tree]
    trees = [tree for tree, _ in known]
    leaves = [(tree, leaf) for tree in trees for leaf in tree.leaves()]
    adv_N = np.concatenate([method.node_advantages(tree, prior)[1:] for tree, prior in known])
    lengths = [len(tree.prefix(leaf)) + len(tree.tokens(leaf)) for tree, leaf in leaves]
    rewards = [tree.reward_N[leaf] for tree, leaf in leaves]
    return {
        "rollout/reward_mean": float(np.mean(rewards)),
        "rollout/reward_std": float(np.std(rewards)),
        "rollout/response_length_mean": float(np.mean(lengths)),
        "rollout/truncated_rate": float(np.mean([tree.truncated_N[leaf] for tree, leaf in leaves])),
        "tree/zero_advantage_nodes": float((adv_N == 0).mean()),
        "tree/nodes_per_tree": len(adv_N) / len(trees),
        "tree/leaves_per_tree": len(leaves) / len(trees),
    }


def told(before: TreeShape, made: Plan, iteration: int, trees: float) -> str:
    """A change of shape, for the user."""
    old, new = (
        f"{'-'.join(map(str, one.branching))} cut at token {one.segment_tokens[0]}" for one in (before, made.shape)
    )
    return (
        f"iteration {iteration}: trees {old} become {new}, predicted by {trees:.0f} trees to need {made.over_before:.2f} of "
        "the tokens for the same noise"
    )


class NodeSupply(Supply):
    """New trees in, nodes to train out; in between they wait in the replay buffer.

    A node gets the log-probs of the policy that sampled it, and of the reference, before it waits: they define its ratio
    and its mask, whenever it is trained.
    """

    def __init__(self, method: Tree, services: TrainerServices):
        super().__init__(method, services)
        self.replay = NodeReplay(method.replay_max_age, method.replay_per_prompt, self.args.train.seed)
        self.planner: Planner | None = None
        if isinstance(method.shaping, PlannedShape):
            self.planner = Planner(method.shaping, method.shape, self.args.train.seed)

    def exchange(self, rollouts: Sequence[Rollout], iteration: int) -> tuple[list[Experience], dict[str, float]]:
        """Trees of this iteration -> nodes to train now, and metrics.

        Raises UserError where iteration after iteration leaves nothing to train: it would go on like that for ever.
        """
        start, args, replay = time.monotonic(), self.args, self.replay
        nodes = [
            [self.services.to_experience(rollout, node) for node in self._samples(rollout)] for rollout in rollouts
        ]
        new = [one for made in nodes for one in made]
        if new:
            self.services.add_log_probs(new)
        for rollout, made in zip(rollouts, nodes, strict=True):
            replay.add(rollout.prompt, iteration, made)
        budget = args.rollout.batch_size * args.rollout.n_samples_per_prompt
        drawn, ages = replay.draw(iteration, budget, args.train.batch_size)
        self._check_idle(len(drawn), len(new), iteration)
        return drawn, {
            **(tree_metrics(rollouts, self.method) if rollouts else {}),
            **self._plan(rollouts, iteration),
            **{f"replay/age_{age}": ages[age] for age in range(replay.max_age)},
            "replay/new": len(new),
            "replay/trained": len(drawn),
            "replay/waiting": len(replay),
            "replay/expired": replay.expired,
            "timing/make_experience": time.monotonic() - start,
        }

    def method_of(self, slot: int, iteration: int) -> Method:
        if self.planner is None:
            return self.method
        return replace(self.method, planned=self.planner.shape_of(iteration, slot))

    def _samples(self, rollout: Rollout) -> list[Sample]:
        tree, method = rollout.tree, self.method
        assert tree is not None, "a rollout of this method is a tree"
        branching = method.branching if tree.shape is None else tree.shape.branching
        weight_L = level_weights(branching) if method.level_weights else None
        return node_samples(rollout, method.advantage_of(tree), weight_L)

    def _plan(self, rollouts: Sequence[Rollout], iteration: int) -> dict[str, float]:
        """Learn from the trees of this iteration for those of later ones; metrics."""
        if self.planner is None:
            return {}
        for one in rollouts:
            if one.tree:
                self.planner.learn(one.tree, self.args.spo.mask_threshold, one.prior.count if one.prior else 0.0)
        before, trees = self.planner.now, self.planner.profile.trees
        made = self.planner.end(iteration)
        if made and (made.shape.branching, made.shape.segment_tokens) != (before.branching, before.segment_tokens):
            self.services.reporter.note(told(before, made, iteration, trees))
        return self.planner.metrics()

    def _check_idle(self, drawn: int, new: int, iteration: int) -> None:
        batch_size = self.args.train.batch_size
        if self.replay.idle >= max(IDLE_ITERATIONS, IDLE_LIFETIMES * self.replay.max_age):
            raise UserError(
                f"--train.batch_size {batch_size}: not filled in {self.replay.idle} iterations, each with {new} nodes or so that "
                f"have an advantage; lower it, or raise --rollout.batch_size, --spo.replay_per_prompt or "
                f"--spo.replay_max_age"
            )
        if not drawn:
            self.services.reporter.note(
                f"iteration {iteration}: {len(self.replay)} nodes with an advantage do not fill a --train.batch_size of "
                f"{batch_size}; they wait"
            )

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.replay.save(folder)
        if self.planner:
            replace_text(folder / PLAN_FILE, json.dumps(self.planner.state()))

    def load(self, folder: Path) -> None:
        super().load(folder)
        if not self.replay.load(folder, self.services.from_fields):
            self.services.reporter.note(f"no replay buffer in {folder}: training goes on with new trees")
        if self.planner and (folder / PLAN_FILE).exists():
            self.planner.restore(read_json(folder / PLAN_FILE))
        elif self.planner:
            self.services.reporter.note(f"no plan of the trees in {folder}: it begins anew")
        # Those of a run with other options lack what these need, or have what others of their batch have not.
        spo = self.args.spo
        needed = {
            "top_log_probs": spo.by_state,
            "base_action_log_probs": self.args.algo.kl.init_coef > 0,
            "clip_scale": spo.entropy_clip > 0,
            "unit_ids": needs_ids(spo.ratio_level),
        }
        dropped = self.replay.keep(
            lambda sample: all((getattr(sample, name, None) is not None) == needs for name, needs in needed.items())
        )
        if dropped:
            self.services.reporter.note(f"{dropped} waiting nodes were sampled with other options and are left out")

    def report_end(self) -> None:
        replay = self.replay
        if replay.expired or len(replay):
            self.services.reporter.note(
                f"of {replay.added} nodes with an advantage {replay.drawn} were trained, {replay.expired} grew too old, "
                f"{len(replay)} were left: raise --rollout.n_samples_per_prompt or --spo.replay_per_prompt to train more"
            )
