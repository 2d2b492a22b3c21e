"""What a run needs of each GPU, estimated from the model's configuration, and the engine's share that leaves room for it.

An estimate: kernels' workspaces, fragmentation and what the libraries hold are in two constants. Where policy and engines
share GPUs, two phases are told apart, and each must fit:

    sampling:  weights of policy, reference and reward model + engine + the tensor that weight sync copies at a time
               (the optimizer's states are away with --ds.enable_sleep)
    training:  policy with gradients, optimizer, activations, logits + reference, reward model (+ engine, without --vllm.enable_sleep)

Bytes throughout; P parameters, W GPUs that share the policy's states.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from spo_rlhf.upstream_logits import AFTER_THE_HEAD

GIB = 1 << 30
BF16, FP32 = 2, 4
#: Of each process on a GPU: CUDA's context, NCCL's buffers, libraries' workspaces.
PROCESS_BYTES = GIB
#: Of the engine beside weights and KV cache: activations of a step, CUDA graphs, sampler.
ENGINE_BYTES = 3 * GIB
#: Parameters of ZeRO's stage 3 that are gathered at a time (DeepSpeed's stage3_max_live_parameters).
STAGE3_LIVE = 10**9
#: Share of the GPU that stays free: fragmentation.
FREE_SHARE = 0.05
#: Of an engine's own GPU; of one that it shares: what is left there is the margin of the estimate.
LARGEST_SHARE, LARGEST_SHARED = 0.9, 0.6
#: Sequences of full length that the engine must have room for at least.
FEWEST_SEQUENCES = 4


@dataclass(frozen=True)
class ModelShape:
    """What memory depends on, of a dense decoder."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    whole_logits: bool = False  # it scales them, so they exist of all tokens at once (upstream_logits.py)

    @property
    def parameters(self) -> int:
        """Weights of a Llama-like decoder: embedding, head where it is not tied, and per layer attention and gated MLP."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return (1 if self.tied else 2) * self.vocabulary * self.hidden + self.layers * layer + self.hidden

    @property
    def scoring_parameters(self) -> int:
        """Weights of a reward model of this shape: a head for one number stands where that for the words was."""
        return replace(self, tied=True).parameters + self.hidden

    @property
    def largest_tensor(self) -> int:
        """Elements of the embedding or, where that is small, of a projection of the MLP."""
        return self.hidden * max(self.vocabulary, self.intermediate)

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token in bf16."""
        return 2 * self.layers * self.kv_heads * self.head_size * BF16

    @property
    def layer_bytes(self) -> int:
        """Activations of one token in one layer that backward needs, in bf16 (norms and residuals counted as such)."""
        return BF16 * (10 * self.hidden + 2 * (self.heads + self.kv_heads) * self.head_size + 4 * self.intermediate)


def model_shape(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape that a Hugging Face config.json tells; None for experts, or where it says too little."""
    text = config.get("text_config") or config
    if not isinstance(text, Mapping):
        return None
    if any(text.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return None
    try:
        heads = int(text["num_attention_heads"])
        return ModelShape(
            layers=int(text["num_hidden_layers"]),
            hidden=int(text["hidden_size"]),
            intermediate=int(text["intermediate_size"]),
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_size=int(text.get("head_dim") or text["hidden_size"] // heads),
            vocabulary=int(text["vocab_size"]),
            # transformers takes a head for tied where the file does not say
            tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", True))),
            whole_logits=any(text.get(name) not in (None, 1) for name in AFTER_THE_HEAD),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


@dataclass(frozen=True)
class Load:
    """What a run does with a GPU. `tokens`: of the largest micro-batch, padding included."""

    devices: int  # that share the policy's states
    tokens: int
    max_len: int
    logit_tokens: int  # whose logits exist at a time, in training or with the log-probs of a rollout
    zero_stage: int
    grad_bytes: int = FP32  # in which gradients of micro-batches add up
    adam_offload: bool = False
    checkpointing: bool = False
    reference: bool = True
    reward: int = 0  # parameters of a reward model beside the policy
    critic: bool = False
    tensor_parallel: int = 1
    together: bool = True  # policy and engine on the same GPUs
    engine_sleeps: bool = True
    policy_sleeps: bool = True
    bucket: int = 0  # bytes that weights go to the engines in; 0: parameter by parameter


@dataclass(frozen=True)
class MemoryPlan:
    """Estimated bytes per GPU, by name, and what follows from them."""

    parts: dict[str, int]
    sampling: int  # everything but the engine, while it samples
    training: int  # everything but the engine, while the policy is trained
    engine_least: int
    together: bool
    engine_sleeps: bool

    def share(self, total: int) -> float | None:
        """The engine's share of a GPU of `total` bytes: as much as the rest leaves. None where the run does not fit."""
        usable = int(total * (1 - FREE_SHARE))
        if not self.together:
            room = usable if self.training <= usable else 0
        elif self.engine_sleeps:
            room = usable - self.sampling if self.training <= usable else 0
        else:
            room = usable - max(self.sampling, self.training)
        share = min(LARGEST_SHARED if self.together else LARGEST_SHARE, math.floor(100 * room / total) / 100)
        return share if share * total >= self.engine_least else None

    def need(self, share: float, total: int) -> int:
        """Bytes of the larger phase with that share for the engine."""
        engine = int(share * total)
        if not self.together:
            return max(engine, self.training)
        return max(engine + self.sampling, self.training + (0 if self.engine_sleeps else engine))

    def lines(self) -> list[str]:
        """The estimate, as text."""
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self.parts.items() if size)
        sampling, training, least = (f"{size / GIB:.1f}" for size in (self.sampling, self.training, self.engine_least))
        return [
            f"memory of a GPU in GiB, estimated: {parts} (KV cache of {FEWEST_SEQUENCES} full sequences)",
            f"while sampling {sampling} and the engine, while training {training}; the engine needs {least} at least",
        ]


def plan(shape: ModelShape, load: Load) -> MemoryPlan:
    """Estimate what `load` does with a model of `shape`."""
    weights = shape.parameters * BF16
    sharded = load.devices if load.zero_stage == 3 else 1
    # Stage 3 holds a part, and at work what it has gathered besides.
    gathered = min(shape.parameters, STAGE3_LIVE) * BF16 if sharded > 1 else 0
    resident = weights // sharded
    states = 1 if load.zero_stage == 0 else load.devices
    grad_shards = load.devices if load.zero_stage >= 2 else 1
    gradients = shape.parameters * load.grad_bytes // grad_shards
    if load.zero_stage < 2 and load.grad_bytes != BF16:
        gradients += shape.parameters * BF16  # of one micro-batch, before they are added
    optimizer = 0 if load.adam_offload else shape.parameters * 3 * FP32 // states  # weights in float32, two moments
    step = 0 if load.adam_offload else shape.parameters * FP32 // states  # gradients in float32, for the optimizer
    per_layer = shape.hidden * BF16 if load.checkpointing else shape.layer_bytes
    activations = load.tokens * (shape.layers * per_layer + (shape.layer_bytes if load.checkpointing else 0))
    # Logits as the model gives them, in float32, their softmax and its gradient.
    logits = load.logit_tokens * shape.vocabulary * (BF16 + 3 * FP32)
    trained = 2 if load.critic else 1
    processes = PROCESS_BYTES * (trained + load.reference + (load.reward > 0) + (1 if load.together else 0))
    work = max(activations + logits, step)
    cache = FEWEST_SEQUENCES * load.max_len * shape.kv_bytes // load.tensor_parallel
    engine_least = weights // load.tensor_parallel + cache + ENGINE_BYTES
    # Tensors go to the engines one by one: a copy of each in turn (CUDA IPC), or what the engine receives it in (NCCL). A bucket is
    # a copy in any case.
    copied = max(shape.largest_tensor * BF16, load.bucket)
    sync = copied if load.together or load.bucket else 0
    parts = {  # of the policy, and of a critic with it
        "weights": trained * (resident + gathered),
        "reference": (resident if load.reference else 0),
        "reward model": load.reward * BF16 // sharded,
        "gradients": trained * gradients,
        "optimizer": trained * optimizer,
        "activations": activations,
        "logits": logits,
        "weight sync": sync,
        "KV cache": cache,
        "processes": processes,
    }
    fixed = trained * resident + parts["reference"] + parts["reward model"] + processes
    training = fixed + trained * (gathered + gradients + optimizer) + work
    away = trained * (gradients + optimizer) if load.policy_sleeps else 0
    sampling = fixed + trained * (gradients + optimizer) - away + sync
    return MemoryPlan(parts, sampling, training, engine_least, load.together, load.engine_sleeps)


#: What makes a run smaller, in the order in which it costs least: flag, and the change of the load.
SMALLER = (
    ("--actor.gradient_checkpointing_enable", {"checkpointing": True}),
    ("--train.micro_batch_size 1", {}),
    ("--ds.zero_stage 3", {"zero_stage": 3}),
    ("--ds.adam_offload", {"adam_offload": True}),
    ("--ref.offload", {"reference": False}),
    ("--reward.offload", {"reward": 0}),
)


def remedies(shape: ModelShape, load: Load, total: int) -> list[str]:
    """Flags that together make the run fit a GPU of `total` bytes, none of them without need; empty where none do."""

    def fits(steps: list[tuple[str, dict[str, Any]]]) -> bool:
        changed = load
        for _, change in steps:
            changed = replace(changed, **change)
        return plan(shape, changed).share(total) is not None

    steps: list[tuple[str, dict[str, Any]]] = []
    for flag, change in SMALLER:
        if flag.startswith("--train.micro"):
            change = {"tokens": min(load.tokens, load.max_len)}
            if (logits := min(load.logit_tokens, load.max_len)) < load.logit_tokens:
                flag, change = f"{flag} --rollout.micro_batch_size 1", {**change, "logit_tokens": logits}
        # Sharding changes nothing on one GPU.
        if replace(load, **change) == load or (flag == "--ds.zero_stage 3" and load.devices == 1):
            continue
        steps.append((flag, change))
        if fits(steps):
            for step in steps[:-1]:  # a later one may make it needless
                without = [one for one in steps if one is not step]
                steps = without if fits(without) else steps
            return [flag for flag, _ in steps]
    return []
