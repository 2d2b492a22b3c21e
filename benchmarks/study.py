"""What the learning-curve benchmark runs: workloads, methods, and one spo-train command per workload, method and seed."""

import json
import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.tasks.registry import TASKS

HELD_OUT = 512
MICRO_BATCH = 32


@dataclass(frozen=True)
class Workload:
    """A task of spo_rlhf/tasks at one size, a model that solves a part of it, and the batch that suits both.

    prepare: options of spo_rlhf.cli.prepare beside --task. prompt_tokens: of the longest prompt, at most. segment_tokens: of
    a tree's segments, about a third of a response. prompts_share: of a method's prompts in an iteration; less than 1 where
    responses are long, for a budget of some iterations. learning_rate: AdamW's, constant. optimizer_steps: of an iteration,
    times the method's. cutpoint_interval: of SPO-chain; one that leaves at most two segments a response. eval_temperature,
    eval_samples: of the responses to held-out problems; sampled where greedy ones do not show what training changes.
    diagnosed: options, and the batch, of the tree that spo-diagnose chose for this task's model.
    """

    task: str
    prompt_tokens: int
    segment_tokens: int
    prepare: tuple[str, ...] = ()
    prompts_share: float = 1.0
    learning_rate: float = 3e-4
    optimizer_steps: int = 1
    cutpoint_interval: int = 3
    eval_temperature: float = 0.0
    eval_samples: int = 1
    diagnosed: dict[str, Any] = field(default_factory=dict)


def diagnosed_tree(branching: str, *, cut: int, settled: float, prompts: int, nodes: int) -> dict[str, Any]:
    """Of two levels, cut at a token; prompts and trained nodes of a prompt in an iteration, before the workload's share."""
    shape = {"spo.tree_branching": branching, "spo.tree_segment_tokens": cut, "spo.tree_settled": settled}
    return {"prompts": prompts, "responses": nodes, **shape}


WORKLOADS = {
    "arithmetic-short": Workload(
        "arithmetic", prompt_tokens=96, segment_tokens=10, prepare=("--min-steps", "2", "--max-steps", "4")
    ),
    "arithmetic-long": Workload(
        "arithmetic",
        prompt_tokens=192,
        segment_tokens=24,
        prepare=(
            *("--min-steps", "8", "--max-steps", "12", "--target-accuracy", "0.7"),
            *("--warm-up-from", "2", "--warm-up-optimizer", "muon", "--warm-up-average", "50"),
        ),
        prompts_share=0.5,
        learning_rate=3e-5,  # 1e-4 undoes a part of the warm-up in the first steps, 3e-4 all of it
        optimizer_steps=4,
        eval_temperature=1.0,
        eval_samples=2,
    ),
    # The quickstart's; its folder runs/quickstart/task may be copied to OUTPUT/arithmetic/task.
    "arithmetic": Workload("arithmetic", prompt_tokens=160, segment_tokens=20),
    "knights_knaves": Workload(
        "knights_knaves",
        prompt_tokens=160,
        segment_tokens=48,
        prepare=("--people", "2"),
        prompts_share=0.5,
        optimizer_steps=4,
        cutpoint_interval=15,
        eval_temperature=1.0,
        eval_samples=2,
    ),
    # Settled by the first words, and by the last: half of the warm-up's demonstrations decide wrongly, so 50 % is their best.
    **{
        name: Workload(
            name,
            prompt_tokens=160,
            segment_tokens=25,
            prepare=(
                *("--changes", "6", "--warm-up-from", "2", "--warm-up-optimizer", "muon", "--warm-up-average", "20"),
                *("--max-seconds", "1200"),
            ),
            prompts_share=0.5,
            learning_rate=3e-5,  # 3e-4 loses what the warm-up taught within some steps
            optimizer_steps=4,
            cutpoint_interval=15,
            eval_temperature=1.0,
            eval_samples=2,
            diagnosed=diagnosed,
        )
        for name, diagnosed in (
            ("plan_first", diagnosed_tree("4,2", cut=28, settled=0.67, prompts=64, nodes=8)),
            ("check_last", diagnosed_tree("8,4", cut=56, settled=0.17, prompts=16, nodes=32)),
        )
    },
}


@dataclass(frozen=True)
class Method:
    """Options of spo-train, and the batch: prompts and responses (tree: trained nodes) per prompt in an iteration.

    diagnosed: the workload's tree, see `Workload.diagnosed`, which also has the batch where that is 0.
    """

    prompts: int
    responses: int
    options: dict[str, Any] = field(default_factory=dict)
    diagnosed: bool = False

    def with_options(self, changes: dict[str, Any]) -> "Method":
        """The same with other options; `prompts` and `responses` among them are the batch."""
        changes = dict(changes)
        batch = {name: int(changes.pop(name, getattr(self, name))) for name in ("prompts", "responses")}
        return replace(self, **batch, options={**self.options, **changes})

    def on(self, workload: Workload) -> "Method":
        """The same on a workload: its diagnosed tree, and its share of the prompts. Raises UserError where it has no such tree."""
        method = self
        if self.diagnosed and not workload.diagnosed:
            raise UserError(f"--methods spo_tree_diagnosed: no tree was diagnosed for the model of {workload.task}")
        if self.diagnosed:
            tree = Method(0, 0).with_options(workload.diagnosed)
            batch = {"prompts": self.prompts or tree.prompts, "responses": self.responses or tree.responses}
            method = replace(self, **batch, options={**tree.options, **self.options})
        return replace(method, prompts=max(1, round(method.prompts * workload.prompts_share)))


GROUP = {"spo.mode": "group"}
CHAIN = {"spo.mode": "chain", "spo.mc_rollouts": 4}
HISTORY = {"spo.baseline": "history"}
# Two levels, cut at half of a response; what does not fill a batch waits for the next iteration.
SHRUNK_TREE = {
    "spo.mode": "tree",
    "spo.tree_advantage": "shrunk",
    "spo.tree_level_weights": True,
    "spo.replay_max_age": 2,
    "spo.replay_per_prompt": 0,
    "optimizer_steps": 2,
}
METHODS = {
    "grpo": Method(64, 8, {**GROUP, "algo.advantage.estimator": "group_norm"}),
    "grpo_mask": Method(64, 8, {**GROUP, "algo.advantage.estimator": "group_norm", "spo.prob_mask": True}),
    "rloo": Method(64, 8, {**GROUP, "algo.advantage.estimator": "rloo"}),
    "vineppo": Method(64, 4, {**CHAIN, "spo.partition": "newline", "spo.prob_mask": False}),
    "spo_chain": Method(64, 4, {**CHAIN, "spo.partition": "cutpoint"}),
    "spo_chain_continuations": Method(64, 4, {**CHAIN, "spo.partition": "cutpoint", "spo.train_continuations": True}),
    "spo_tree": Method(
        32,
        16,
        {
            "spo.mode": "tree",
            "spo.tree_branching": "4,3,2",
            "spo.replay_max_age": 2,  # what does not fill a batch waits for the next iteration
            "spo.replay_per_prompt": 0,
            "optimizer_steps": 2,  # at most: about half of the nodes have no advantage
        },
    ),
    # Half the responses of RLOO's groups, or one, and as many more prompts: the history is the rest of the baseline.
    "rloo_history": Method(128, 4, {**GROUP, **HISTORY}),
    "rloo_history_1": Method(512, 1, {**GROUP, **HISTORY}),
    "spo_chain_history": Method(128, 2, {**CHAIN, **HISTORY, "spo.partition": "cutpoint", "spo.mc_rollouts": 2}),
    "spo_tree_shrunk": Method(64, 8, {**SHRUNK_TREE, "spo.tree_branching": "4,2"}),
    "spo_tree_diagnosed": Method(0, 0, SHRUNK_TREE, diagnosed=True),
    "spo_tree_history": Method(128, 4, {**SHRUNK_TREE, **HISTORY, "spo.tree_branching": "2,2"}),
    "gspo": Method(64, 8, {**GROUP, "spo.ratio_level": "sequence", "spo.clip_low": 0.01, "spo.clip_high": 0.01}),
    "sspo": Method(
        64,
        8,
        {
            **GROUP,
            "spo.ratio_level": "subsentence",
            "spo.clip_low": 0.05,
            "spo.clip_high": 0.05,
            "spo.entropy_clip": 0.5,
        },
    ),
    "spo_chain_segment": Method(64, 4, {**CHAIN, "spo.partition": "cutpoint", "spo.ratio_level": "segment"}),
}
DEFAULT_METHODS = ("grpo", "grpo_mask", "rloo", "vineppo", "spo_chain", "spo_chain_continuations", "spo_tree")
# On top of every method: one optimizer step a batch, a constant learning rate, no reference model.
COMMON = {
    "train.num_episodes": 1000,  # the token budget ends the run
    "actor.lr_scheduler": "constant",
    "actor.lr_warmup_ratio": 0,
    "algo.kl.init_coef": 0,
    "actor.num_gpus_per_node": 1,
    "vllm.num_engines": 1,
    "data.input_key": "problem",
    "data.label_key": "answer",
    "ckpt.best_metric_key": "none",
    "ckpt.save_steps": -1,
}
# What a run without evaluations leaves out.
OF_EVALUATIONS = ("eval.dataset", "eval.temperature", "eval.n_samples_per_prompt", "eval.steps")
# A learning rate 10 times too high and two off-policy epochs, where GRPO is said to collapse.
STABILITY = {"actor.adam.lr": 3e-3, "train.max_epochs": 2, "optimizer_steps": 4}
STABILITY_WORKLOAD = "arithmetic"
STABILITY_METHODS = ("grpo", "gspo", "sspo", "spo_chain", "spo_chain_segment")


def prepare_command(workload: Workload, folder: Path, seconds: float) -> list[str]:
    """Makes data and model of a workload; a finished folder is left as it is."""
    options = ["--output", str(folder), "--train", "8192", "--test", str(HELD_OUT), "--max-seconds", str(seconds)]
    return [*program("prepare"), "--task", workload.task, *options, *workload.prepare]


def train_command(
    workload: Workload, method: Method, folder: Path, run_dir: Path, *, seed: int, budget: int, points: int
) -> list[str]:
    """spo-train for one run on the prepared `folder`; about `points` evaluations, the first and last one included."""
    prepared = json.loads((folder / "prepare.json").read_text(encoding="utf-8"))
    new_tokens = prepared["warm_up"]["max_new_tokens"]
    method = method.on(workload)
    options = dict(method.options)
    optimizer_steps = workload.optimizer_steps * int(options.pop("optimizer_steps", 1))
    if options["spo.mode"] == "tree":
        thirds = 1 if options["spo.tree_branching"].count(",") > 1 else 1.5  # a tree of two levels is cut at half
        options.setdefault("spo.tree_segment_tokens", round(thirds * workload.segment_tokens))
    if options.get("spo.partition") == "cutpoint":
        options.setdefault("spo.cutpoint_interval", workload.cutpoint_interval)
    batch = method.prompts * method.responses // optimizer_steps
    values = {
        **COMMON,
        **_of_the_workload(workload, folder, new_tokens),
        "eval.steps": evaluation_interval(method, new_tokens, budget, points),
        "rollout.batch_size": method.prompts,
        "rollout.n_samples_per_prompt": method.responses,
        "rollout.micro_batch_size": min(MICRO_BATCH, batch),
        "train.batch_size": batch,
        "train.micro_batch_size": min(MICRO_BATCH, batch),
        "train.seed": seed,
        "spo.token_budget": budget,
        "spo.run_dir": run_dir,
        "ckpt.output_dir": run_dir / "model",
        "ckpt.path": run_dir / "checkpoints",
        **options,
    }
    # Engines that sample while the policy trains have devices of their own.
    return [
        *program("train"),
        *flags({"train.colocate_all": not options.get("train.async_enable") or None, **values}),
    ]


def program(name: str) -> list[str]:
    """The beginning of a command of spo_rlhf.cli."""
    return [sys.executable, "-W", "ignore", "-m", f"spo_rlhf.cli.{name}"]


def _of_the_workload(workload: Workload, folder: Path, new_tokens: int) -> dict[str, Any]:
    """Options of spo-train that every method has alike."""
    task = TASKS[workload.task]
    return {
        "actor.model_name_or_path": folder / "model",
        "actor.adam.lr": workload.learning_rate,
        "data.prompt_dataset": folder / "train.jsonl",
        "data.input_template": task.template,
        "data.max_len": workload.prompt_tokens + new_tokens,
        "eval.dataset": folder / "test.jsonl",
        "eval.temperature": workload.eval_temperature,
        "eval.n_samples_per_prompt": workload.eval_samples,
        "rollout.max_new_tokens": new_tokens,
        "reward.remote_url": task.reward,
    }


def flags(values: dict[str, Any]) -> list[str]:
    """Options by name as a command line; True and False are a switch, None is left out."""
    words = []
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", str(value)]
    return words


def evaluation_interval(method: Method, new_tokens: int, budget: int, points: int) -> int:
    """Steps between evaluations: a response takes about two thirds of the longest, a chain's Monte Carlo as much again or more."""
    responses = float(method.responses)
    if method.options["spo.mode"] == "chain":
        responses *= 2.5
    elif method.options["spo.mode"] == "tree":  # of its nodes, each a part of a response
        branching = [int(children) for children in method.options["spo.tree_branching"].split(",")]
        responses = sum(math.prod(branching[:level]) for level in range(1, len(branching) + 1)) / len(branching)
    steps = budget / (2 / 3 * new_tokens * method.prompts * responses)
    return max(1, round(steps / max(points - 1, 1)))


STEP_METRICS = ("rollout/reward_mean", "ppo_kl", "ppo_clip_ratio", "mask_density", "actor_grad_norm")


def read_run(run_dir: Path) -> dict[str, Any]:
    """Costs of a finished run and its accuracy over tokens and seconds of training, evaluation time left out."""
    with open(run_dir / "metrics.jsonl", encoding="utf-8") as lines:
        events = [json.loads(line) for line in lines]
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    tokens = seconds = trained_tokens = optimizer_steps = 0.0
    points, curve = [], []
    for event in events:
        metrics = event.get("metrics", {})
        if event["event"] == "step":
            tokens, seconds = metrics["rollout/total_tokens"], seconds + metrics["timing/step_total"]
            trained_tokens += metrics.get("trained_tokens", 0.0)
            optimizer_steps += metrics["optimizer_steps"]
            values = {name: metrics.get(name) for name in STEP_METRICS}
            curve.append({"step": event["step"], "tokens": tokens, "seconds": seconds, **values})
        elif event["event"] == "eval":
            accuracy = [value for name, value in metrics.items() if name.endswith("_pass1")]
            points.append({"step": event["step"], "tokens": tokens, "seconds": seconds, "accuracy": accuracy[0]})
    return {
        "generated_tokens": tokens,
        "mc_tokens": summary["mc_tokens"],
        "trained_tokens": trained_tokens,
        "optimizer_steps": optimizer_steps,
        "seconds_training": seconds,
        "seconds_by_phase": summary["seconds_by_phase"],
        "accuracy": points,
        "steps": curve,
    }
