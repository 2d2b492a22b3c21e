"""From grown trees to samples: each node with an advantage is a sample of its own, its prefix in the place of the prompt."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spo_rlhf import upstream
from spo_rlhf.core import tree as core
from spo_rlhf.core.tree import TokenTree
from spo_rlhf.errors import UserError
from spo_rlhf.rollout.tree import GrownTree
from spo_rlhf.trainer.events import Reporter
from spo_rlhf.trainer.replay import NodeReplay

# Iterations without an optimizer step, at least, and in lifetimes of a node: by then the buffer holds what it will ever hold.
IDLE_ITERATIONS, IDLE_LIFETIMES = 8, 4


def node_responses(grown: GrownTree, kind: str) -> list[tuple[dict[str, Any], float]]:
    """Trained nodes as response dicts like those of the engine, each with its advantage (`kind`: core.tree.ADVANTAGES).

    The tokens before the node's own are context: they are no actions and carry no log-probs. `reward` is V of the node.
    """
    tree = grown.tree
    value_N = core.values(tree.parent_N, tree.reward_N)
    adv_N = core.advantages(tree.parent_N, value_N, kind)
    responses = []
    for node in core.trained(adv_N):
        context, tokens = tree.prompt_ids + tree.prefix(node), tree.tokens(node)
        response = {
            "prompt": grown.prompt,
            "label": grown.label,
            "observation_tokens": context + tokens,
            "action_ranges": [(len(context), len(context) + len(tokens))],
            "rollout_log_probs": [0.0] * len(context) + tree.logprobs(node),
            "truncated": tree.truncated_N[node],
            "reward": float(value_N[node]),
            "extra_logs": {"weight_version": float(grown.weight_version), "level": float(len(tree.path(node)))},
            "slot": grown.slot,
        }
        responses.append((response, float(adv_N[node])))
    return responses


def tree_metrics(trees: Sequence[TokenTree], kind: str) -> dict[str, float]:
    """Of the trees of one iteration: means over leaves, and the share of nodes that have nothing to teach."""
    leaves = [(tree, leaf) for tree in trees for leaf in tree.leaves()]
    adv_N = np.concatenate([core.advantages(t.parent_N, core.values(t.parent_N, t.reward_N), kind)[1:] for t in trees])
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


def fill_from(sample: upstream.Experience, batch: upstream.Experience, row: int) -> None:
    """Copy what the models computed for row `row` of a padded batch into the sample that the row came from."""
    actions = sample.action_mask.size(1)
    for name in ("action_log_probs", "base_action_log_probs", "kl", "clip_scale"):
        value = getattr(batch, name)
        setattr(sample, name, None if value is None else value[row : row + 1, :actions].clone())
    for name, value in batch.info.items():
        sample.info[name] = value[row : row + 1].clone() if isinstance(value, torch.Tensor) else value[row : row + 1]


class NodeSupply:
    """New trees in, nodes to train out; in between they wait in the replay buffer, which is part of the checkpoint.

    A node gets the log-probs of the policy that sampled it, and of the reference, before it waits: they define its ratio and
    its mask, whenever it is trained.
    """

    def __init__(self, samples_generator, experience_maker, reporter: Reporter):
        self.generator, self.maker, self.reporter = samples_generator, experience_maker, reporter
        self.args = samples_generator.args
        spo = self.args.spo
        self.kind = spo.tree_advantage
        self.replay = NodeReplay(spo.replay_max_age, spo.replay_per_prompt, self.args.train.seed)
        self.folder = Path(self.args.ckpt.path) / "_replay"
        self.idle = 0  # iterations since the last that had something to train

    def exchange(
        self, trees: Sequence[GrownTree], iteration: int
    ) -> tuple[list[upstream.Experience], dict[str, float]]:
        """Trees of this iteration -> samples to train now, a multiple of --train.batch_size, and metrics.

        Raises UserError where iteration after iteration leaves nothing to train: it would go on like that for ever.
        """
        start, args, replay = time.monotonic(), self.args, self.replay
        nodes = {grown: self.generator.nodes(grown) for grown in trees}
        new = [sample for samples in nodes.values() for sample in samples]
        if new:
            self.maker.add_log_probs(new)
        for grown, samples in nodes.items():
            replay.add(grown.prompt, iteration, samples)
        budget = args.rollout.batch_size * args.rollout.n_samples_per_prompt
        drawn, ages = replay.draw(iteration, budget, args.train.batch_size)
        self.idle = 0 if drawn else self.idle + 1
        if self.idle >= max(IDLE_ITERATIONS, IDLE_LIFETIMES * replay.max_age):
            raise UserError(
                f"--train.batch_size {args.train.batch_size}: not filled in {self.idle} iterations, each with {len(new)} nodes or so "
                f"that have an advantage; lower it, or raise --rollout.batch_size, --spo.replay_per_prompt or --spo.replay_max_age"
            )
        if not drawn:
            self.reporter.note(
                f"iteration {iteration}: {len(replay)} nodes with an advantage do not fill a --train.batch_size of "
                f"{args.train.batch_size}; they wait"
            )
        return drawn, {
            **tree_metrics([grown.tree for grown in trees], self.kind),
            **{f"replay/age_{age}": ages[age] for age in range(replay.max_age)},
            "replay/new": len(new),
            "replay/trained": len(drawn),
            "replay/waiting": len(replay),
            "replay/expired": replay.expired,
            "timing/make_experience": time.monotonic() - start,
        }

    def save(self, step: int) -> None:
        """Write the buffer of the checkpoint of `step`; called before the checkpoint is written, so that none lacks it."""
        NodeReplay.prune(self.folder, upstream.checkpoint_steps(self.args))
        self.replay.save(self.folder, step)

    def load(self, step: int) -> None:
        """Read the buffer of the checkpoint that training goes on from."""
        if not self.replay.load(self.folder, step):
            self.reporter.note(f"no replay buffer in {self.folder} for step {step}: training goes on with new trees")

    def report_end(self) -> None:
        """Say what was sampled and not trained."""
        replay = self.replay
        if replay.expired or len(replay):
            self.reporter.note(
                f"of {replay.added} nodes with an advantage {replay.drawn} were trained, {replay.expired} grew too old, "
                f"{len(replay)} were left: raise --rollout.n_samples_per_prompt or --spo.replay_per_prompt to train more of them"
            )
