"""What a run without a GPU needs of this machine's memory, estimated from the model's configuration; a run that cannot fit is refused.

All is float32, P parameters, N ranks of the policy. Bytes of each process, beside what it takes before it has a model:

    rank of the policy  weights 4 P, optimizer 12 P / N (weights and two moments), gradients: DeepSpeed's bucket 4 P, the rank's
                        part 4 P / N, and that again where gradients of several micro-batches add up; or, where that is more,
                        the activations and logits of a micro-batch, for which only the added gradients are there
    engine              weights 4 P (a tied output layer is a copy of the embedding), KV cache
    weight sync         rank 0: a copy 4 P; Ray's object store: 4 P; each engine: a file in shared memory 4 P, what is read of it 4 P

Where each comes from is told in docs/memory.md, and how near it is to what was measured.
"""

import os
from dataclasses import dataclass, replace
from types import SimpleNamespace

from spo_rlhf import cpu
from spo_rlhf.errors import UserError
from spo_rlhf.launch import gpu_rules
from spo_rlhf.launch.memory_plan import BF16, FP32, GIB, Load, ModelShape

#: Elements of DeepSpeed's bucket for gradients (reduce_bucket_size, its default).
BUCKET = 5 * 10**8
#: Of libraries, by process, measured with a model of no size: rank, engine and its core, and all else that a run starts.
RANK_BYTES, ENGINE_BYTES, RUN_BYTES = 3 * GIB // 4, 3 * GIB // 2, 3 * GIB // 2


@dataclass(frozen=True)
class CpuPlan:
    """Estimated bytes, by name. rank, engine: of each while it works; sync: of all, while weights go over; total: of the run."""

    ranks: int
    engines: int
    rank: dict[str, int]
    engine: dict[str, int]
    sync: dict[str, int]
    work: int  # of a rank, beside weights and optimizer
    training: int
    syncing: int

    @property
    def rank_peak(self) -> int:
        """Resident set of rank 0 at most; what it has put into the object store stays mapped."""
        kept = self.rank["weights"] + self.rank["optimizer"] + self.rank["libraries"]
        return kept + self.sync["object store"] + max(self.work, self.sync["rank 0"])

    @property
    def engine_peak(self) -> int:
        """Resident set at most of the process that takes an engine's requests and weights, and writes them out of the object store."""
        return self.sync["object store"]

    @property
    def core_peak(self) -> int:
        """Resident set at most of an engine's core without its KV cache: the weights that it has, the file of the new ones, and these before they are packed."""
        return self.engine["weights"] + self.sync["engines"] // self.engines

    @property
    def total(self) -> int:
        return max(self.training, self.syncing)

    def lines(self) -> list[str]:
        """The estimate, as text."""
        each = [
            f"{count} {name}{'s' if count > 1 else ''}{' of ' if count > 1 else ' '}{told(parts)}"
            for name, count, parts in (("policy rank", self.ranks, self.rank), ("engine", self.engines, self.engine))
        ]
        return [
            f"memory in GiB, estimated: {'; '.join(each)}",
            f"weight sync {told(self.sync)}; while training {self.training / GIB:.1f}, while weights go over {self.syncing / GIB:.1f} in all",
        ]


def told(parts: dict[str, int]) -> str:
    """The parts in GiB."""
    return "(" + ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size) + ")"


def plan(shape: ModelShape, load: Load, engines: int, *, accumulates: bool) -> CpuPlan:
    """Estimate a run: `load` as on GPUs, its `engines`; accumulates: an optimizer step has several micro-batches a rank."""
    weights, part = shape.parameters * FP32, shape.parameters * FP32 // load.devices
    added = part if accumulates else 0
    gradients = min(weights, BUCKET * FP32) + part + added
    wide = FP32 // BF16  # the shape counts bytes of bf16
    per_layer = shape.hidden * FP32 if load.checkpointing else wide * shape.layer_bytes
    activations = load.tokens * (shape.layers * per_layer + (wide * shape.layer_bytes if load.checkpointing else 0))
    # Logits, their log-softmax, and the gradient of each.
    logits = load.logit_tokens * shape.vocabulary * 4 * FP32
    head = shape.vocabulary * shape.hidden * FP32 if shape.tied else 0
    rank = {
        "weights": weights,
        "optimizer": 3 * part,
        "gradients": gradients,
        "activations": activations,
        "logits": logits,
        "libraries": RANK_BYTES,
    }
    engine = {"weights": weights + head, "KV cache": cpu.kv_cache_bytes(), "libraries": ENGINE_BYTES}
    sync = {"rank 0": weights, "object store": weights, "engines": engines * 2 * weights}
    reference = load.devices * (weights + RANK_BYTES) if load.reference else 0
    reward = load.devices * (load.reward * FP32 + RANK_BYTES) if load.reward else 0
    trained = 2 if load.critic else 1
    resting = load.devices * trained * (weights + 3 * part + RANK_BYTES)
    others = reference + reward + engines * sum(engine.values()) + RUN_BYTES
    work = max(gradients, added + activations + logits)
    training = resting + others + load.devices * work
    return CpuPlan(load.devices, engines, rank, engine, sync, work, training, resting + others + sum(sync.values()))


def smaller(load: Load, engines: int) -> list[tuple[str, Load, int]]:
    """What makes a run smaller, in the order in which it costs least, each with what is before it: (flags, load, engines)."""
    steps: list[tuple[str, Load, int]] = []
    flags, found = [], load
    tokens, logits = min(load.tokens, load.max_len), min(load.logit_tokens, load.max_len)
    for flag, change in (
        ("--actor.gradient_checkpointing_enable", {"checkpointing": True}),
        ("--train.micro_batch_size 1 --rollout.micro_batch_size 1", {"tokens": tokens, "logit_tokens": logits}),
    ):
        changed = replace(found, **change)
        if changed != found:
            flags, found = [*flags, flag], changed
            steps.append((" ".join(flags), found, engines))
    if engines > 1:
        steps.append((" ".join([*flags, "--vllm.num_engines 1"]), found, 1))
    return steps


def settle(args: SimpleNamespace, total: int) -> list[str]:
    """The estimate, for a dry run to show. Raises UserError where the run does not fit into `total` bytes."""
    shape = gpu_rules.read_shape(args)
    if shape is None:
        return ["memory: that of this model cannot be estimated here"] if args.dry_run else []
    # On devices of their own or not, offloaded or not, these two are in this machine's memory.
    reward = gpu_rules.reward_parameters(args, shape)
    load = replace(gpu_rules.load_of(args, shape), reference=args.algo.kl.init_coef > 0, reward=reward)
    accumulates = args.train.batch_size > args.train.micro_batch_size * load.devices
    found = plan(shape, load, args.vllm.num_engines, accumulates=accumulates)
    # Nodes of a cluster have a memory of their own each, which is not known here.
    if found.total > total and not os.environ.get("RAY_ADDRESS"):
        fitting = (
            flags
            for flags, less, engines in smaller(load, args.vllm.num_engines)
            if plan(shape, less, engines, accumulates=accumulates).total <= total
        )
        change = next((f"give {flags}" for flags in fitting), "use a smaller model, or a machine with more")
        raise UserError(
            f"{args.actor.model_name_or_path} does not fit the memory of this machine, {total / GIB:.1f} GiB: {found.training / GIB:.1f} "
            f"GiB to train, {found.syncing / GIB:.1f} while weights go to the engines, estimated; {change}"
        )
    return found.lines() if args.dry_run else []
