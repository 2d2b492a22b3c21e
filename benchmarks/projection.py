"""From rates to a step: what a model of that shape takes on so many GPUs, shared or split, as far as its memory fits.

The arithmetic is in `Projector`, and docs/scaling.md goes through it; the rates, each with its source, are in `rates_of`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import common
import numpy as np
from scaling_model import Batch, EngineRate, Lengths, Workload, generation_s, overlap

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import read_json
from spo_rlhf.launch.memory_plan import BF16, ENGINE_BYTES, FP32, GIB, Load, ModelShape, plan

# As their config.json on the Hugging Face Hub has them.
MODELS = {
    "1.5b": ModelShape(28, 1536, 8960, 12, 2, 128, 151936, tied=True),  # Qwen2.5-1.5B
    "7b": ModelShape(28, 3584, 18944, 28, 4, 128, 152064, tied=False),  # Qwen2.5-7B
}
TENSORS_A_LAYER = 12  # of Qwen2: four projections, three with a bias, three of the MLP, two norms
NODE = 8  # GPUs of a machine
MICRO_TOKENS = 16384  # of a micro-batch, with gradient checkpointing
LOGIT_TOKENS = 1024  # whose logits exist at a time
FORWARDS = 2  # for the old log-probs and for those of the reference
WAYS = ("shared", "split", "one step off")

WORKLOADS = {
    # The recipe of docs/recipes/math-spo-tree.md; how long responses are is assumed.
    "tree": Workload("tree", 32, 120, Lengths(1600, 0.3, 1928), branching=(6, 6, 6), segment=600, most_samples=512),
    # docs/recipes/gsm8k-spo-chain.md's 128 x 4 with 4 continuations, and borders as that page expects them.
    "chain": Workload("chain", 128, 120, Lengths(800, 0.5, 1928), responses=4, boundaries=3, continuations=4),
    "group": Workload("group", 128, 120, Lengths(800, 0.5, 1928), responses=8),
}

MEASURED, PUBLISHED, ASSUMED, GIVEN = "measured", "published", "assumed", "given"


@dataclass(frozen=True)
class Value:
    """A number, and where it is from: kind, and what says so."""

    value: float
    kind: str
    source: str


@dataclass(frozen=True)
class Decoding:
    """What an iteration with one request takes, from speeds of two models: reading weights, and the rest."""

    bytes_s: float
    rest_s: float


def decoding(rates: Mapping[str, float]) -> Decoding:
    """Two models' tokens per second, one request at a time: what the larger takes longer, it reads more."""
    small, large = sorted(rates, key=lambda name: MODELS[name].parameters)
    read = {name: BF16 * read_parameters(MODELS[name]) for name in rates}
    bytes_s = (read[large] - read[small]) / (1 / rates[large] - 1 / rates[small])
    return Decoding(bytes_s, 1 / rates[small] - read[small] / bytes_s)


def read_parameters(shape: ModelShape) -> int:
    """Weights that an iteration reads: of an embedding that is no head too, single rows are looked up."""
    return shape.parameters - (0 if shape.tied else shape.vocabulary * shape.hidden)


H100 = "NVIDIA, H100 SXM data sheet"
QWEN = "Qwen2.5's speed benchmark: vLLM 0.6.3 on an A100, one request, 1.5B 183.33 and 7B 84.28 tokens/s"
QWEN_RATES = {"1.5b": 183.33, "7b": 84.28}
A100_BANDWIDTH = 2.039e12  # NVIDIA, A100 80GB SXM data sheet
HERE = "benchmarks/results/gpu-h100; other runs shared the GPU, so it is an upper bound"
#: What both overheads have in common. Bytes, seconds, shares; `_s` takes seconds, `_mfu` is a share of the peak.
RATES = {
    "memory": Value(79 * GIB, PUBLISHED, f"{H100}: 80 GB, as its driver shows them"),
    "flops": Value(989e12, PUBLISHED, f"{H100}: dense bfloat16"),
    "bandwidth": Value(3.35e12, PUBLISHED, f"{H100}: bytes of memory a second"),
    "link": Value(450e9, PUBLISHED, f"{H100}: NVLink, bytes a second in one direction"),
    "network": Value(50e9, ASSUMED, "400 Gbit/s a GPU between machines"),
    "host_link": Value(50e9, ASSUMED, "bytes a second to the host's memory, for states that make room"),
    "bandwidth_share": Value(
        decoding(QWEN_RATES).bytes_s / A100_BANDWIDTH,
        PUBLISHED,
        f"{QWEN}: what 7B takes longer, over what it reads more; taken over to the H100",
    ),
    "decode_mfu": Value(0.5, ASSUMED, "matrix products of an iteration of the engine"),
    "prefill_mfu": Value(0.5, ASSUMED, "prefixes of the engine"),
    "forward_mfu": Value(0.45, ASSUMED, "log-probs"),
    "training_mfu": Value(0.4, ASSUMED, "forward and backward, what checkpointing repeats not counted as work"),
    "sequences": Value(512, ASSUMED, "--spo.max_num_seqs"),
    "optimizer_steps": Value(4, ASSUMED, "of an iteration: 512 samples in batches of 128"),
}


def measured() -> dict[str, Value]:
    """Overheads from the figures of an H100 that are kept in the project, each an upper bound."""
    kept = read_json(common.ROOT / "benchmarks" / "results" / "gpu-h100" / "results.json")
    rate = float(np.median(kept["engine"]["tokens_per_s_unseeded"]))
    steps = kept["training"]["runs"]["group"]["steps"]
    training, broadcast = (
        float(np.median([step[f"timing/{name}"] for step in steps])) for name in ("ppo_train", "broadcast")
    )
    # 64 prompts x 4 samples were in flight; 16 prompts x 8 responses in micro-batches of 8; 24 layers.
    tensors = 24 * TENSORS_A_LAYER + 2
    return {
        "iteration_s": Value(
            256 / rate, MEASURED, f"256 requests at {rate:.0f} tokens/s, Qwen2.5-0.5B's shape, eager: {HERE}"
        ),
        "micro_batch_s": Value(
            training / 16,
            MEASURED,
            f"{training:.2f} s for 16 micro-batches of 8 short samples, 0.36 billion parameters: {HERE}",
        ),
        "tensor_s": Value(
            broadcast / tensors,
            MEASURED,
            f"{broadcast:.2f} s for {tensors} tensors, engine and policy on one GPU: {HERE}",
        ),
        "switch_s": Value(4.0, ASSUMED, "engine to sleep and awake; docs/gpu.md saw 2 s to sleep and kept no figure"),
    }


def published() -> dict[str, Value]:
    """Overheads that others report, or that are assumed where nobody was found who does."""
    return {
        "iteration_s": Value(decoding(QWEN_RATES).rest_s, PUBLISHED, f"{QWEN}: what is left without reading weights"),
        "micro_batch_s": Value(0.02, ASSUMED, "launches that a large micro-batch does not hide"),
        "tensor_s": Value(
            0.3 / (28 * TENSORS_A_LAYER + 3),
            PUBLISHED,
            "verl, docs/advance/one_step_off.md: weights of 7B in 0.3 s by NCCL",
        ),
        "switch_s": Value(2.0, ASSUMED, "engine to sleep and awake"),
    }


OVERHEADS = {"measured": measured, "published": published}


@dataclass(frozen=True)
class Placed:
    """GPUs of engines and of the actor; together: the same ones, in turn."""

    engines: int
    trainers: int
    together: bool

    @property
    def gpus(self) -> int:
        return self.engines if self.together else self.engines + self.trainers


@dataclass(frozen=True)
class Phases:
    """Seconds of each phase by itself; of sampling, log-probs and training in several steps, as lengths are drawn."""

    generation_S: list[float]
    experience_S: list[float]
    training_S: list[float]
    sync: float
    switch: float
    engine_balance: float  # mean of the engines over the slowest one


class Projector:
    """One model with one set of rates."""

    def __init__(self, shape: ModelShape, rates: Mapping[str, Value]):
        self.shape = shape
        self.rate = {name: one.value for name, one in rates.items()}

    def load(self, placed: Placed, longest: int) -> Load:
        """What the run does with a GPU, as `--dry-run` would plan it: stage 2, or 3 where that alone does not fit."""
        load = Load(
            devices=placed.trainers,
            tokens=MICRO_TOKENS,
            max_len=longest,
            logit_tokens=LOGIT_TOKENS,
            zero_stage=2,
            checkpointing=True,
            together=placed.together,
        )
        return load if self.fits(load) else replace(load, zero_stage=3)

    def fits(self, load: Load) -> bool:
        return plan(self.shape, load).share(int(self.rate["memory"])) is not None

    def engine(self, load: Load, work: Workload) -> EngineRate | None:
        """Its rate, with room for as many whole responses as the memory plan leaves; None where the run does not fit.

        A token reads keys and values of half a response, on the mean.
        """
        rate, shape = self.rate, self.shape
        share = plan(shape, load).share(int(rate["memory"]))
        if share is None:
            return None
        cache = share * rate["memory"] - shape.parameters * BF16 - ENGINE_BYTES
        read = read_parameters(shape)
        flops = 2 * read
        bandwidth = rate["bandwidth"] * rate["bandwidth_share"]
        return EngineRate(
            iteration_s=rate["iteration_s"] + read * BF16 / bandwidth,
            request_s=flops / (rate["flops"] * rate["decode_mfu"])
            + (work.prompt_tokens + work.lengths.mean / 2) * shape.kv_bytes / bandwidth,
            prefill_s=flops / (rate["flops"] * rate["prefill_mfu"]),
            max_in_flight=int(
                min(rate["sequences"], cache / ((work.prompt_tokens + work.lengths.mean) * shape.kv_bytes))
            ),
        )

    def passes_s(self, tokens: int, factor: int, mfu: float, trainers: int) -> float:
        """Seconds of `tokens` through the model, 2 x factor operations a parameter: whole micro-batches on each GPU."""
        rate = self.rate
        each = tokens / trainers
        batches = math.ceil(each / MICRO_TOKENS)
        work = 2 * factor * self.shape.parameters * each / (rate["flops"] * mfu)
        return batches * rate["micro_batch_s"] * factor / 3 + work

    def update_s(self, trainers: int) -> float:
        """Gradients added up over the GPUs in bfloat16, and weights back; the optimizer's own memory traffic."""
        rate, parameters = self.rate, self.shape.parameters
        link = rate["link"] if trainers <= NODE else rate["network"]
        exchanged = 2 * BF16 * parameters * (trainers - 1) / trainers / link
        return exchanged + 7 * FP32 * parameters / trainers / rate["bandwidth"]

    def phases(self, work: Workload, batches: Sequence[Batch], placed: Placed, *, packed: bool) -> Phases | None:
        """None where it does not fit."""
        rate, shape, trainers = self.rate, self.shape, placed.trainers
        load = self.load(placed, work.prompt_tokens + work.lengths.longest)
        engine = self.engine(load, work)
        if engine is None or engine.max_in_flight < 1:
            return None
        tokens_S = [batch.distinct_tokens if packed else batch.trained_tokens for batch in batches]
        update = rate["optimizer_steps"] * self.update_s(trainers)
        sampled = [generation_s(batch, placed.engines, engine) for batch in batches]
        tensors = TENSORS_A_LAYER * shape.layers + (2 if shape.tied else 3)
        link = rate["bandwidth"] if placed.together else rate["link" if placed.gpus <= NODE else "network"]
        # Optimizer and gradients leave and come back, as --ds.enable_sleep has it.
        states = (3 * FP32 + load.grad_bytes) * shape.parameters / trainers
        return Phases(
            generation_S=[seconds for seconds, _ in sampled],
            experience_S=[self.passes_s(FORWARDS * one, 1, rate["forward_mfu"], trainers) for one in tokens_S],
            training_S=[self.passes_s(one, 3, rate["training_mfu"], trainers) + update for one in tokens_S],
            sync=tensors * rate["tensor_s"] + shape.parameters * BF16 / link,
            switch=rate["switch_s"] + 2 * states / rate["host_link"] if placed.together else 0.0,
            engine_balance=float(np.mean([even for _, even in sampled])),
        )


def splits(gpus: int) -> Iterator[Placed]:
    """Ways to divide them between engines and actor: by eighths, or one by one where there are fewer."""
    unit = max(1, gpus // NODE)
    for engines in range(unit, gpus, unit):
        yield Placed(engines, gpus - engines, together=False)


def summary(phases: Phases, ahead: int) -> dict[str, float]:
    """Seconds of a step, of its phases (mean), and idle shares."""
    actor = [one + other for one, other in zip(phases.experience_S, phases.training_S)]
    spent = overlap(phases.generation_S, actor, phases.sync + phases.switch, ahead=ahead)
    return {
        "step_s": spent.step_s,
        "generation_s": float(np.mean(phases.generation_S)),
        "experience_s": float(np.mean(phases.experience_S)),
        "training_s": float(np.mean(phases.training_S)),
        "sync_s": phases.sync,
        "switch_s": phases.switch,
        "engine_idle": 1 - (1 - spent.engine_idle) * phases.engine_balance,
        "actor_idle": spent.actor_idle,
    }


def project(
    projector: Projector, work: Workload, batches: Sequence[Batch], gpus: int, *, packed: bool
) -> dict[str, dict[str, float] | None]:
    """The three ways on so many GPUs; None for one that does not fit, or needs two GPUs. Split: the fastest division."""
    shared = projector.phases(work, batches, Placed(gpus, gpus, together=True), packed=packed)
    ways: dict[str, dict[str, float] | None] = dict.fromkeys(WAYS)
    ways["shared"] = summary(shared, 0) if shared else None
    for placed in splits(gpus):
        phases = projector.phases(work, batches, placed, packed=packed)
        if phases is None:
            continue
        for way, ahead in (("split", 0), ("one step off", 1)):
            one, best = summary(phases, ahead) | {"engines": placed.engines}, ways[way]
            if best is None or one["step_s"] < best["step_s"]:
                ways[way] = one
    return ways


def rates_of(overhead: str, changes: Mapping[str, float]) -> dict[str, Value]:
    """RATES with one of OVERHEADS and what was given instead. Raises UserError for a name that is none."""
    rates = RATES | OVERHEADS[overhead]()
    for name, value in changes.items():
        if name not in rates:
            raise UserError(f"--set {name}: no such rate; choose one of {', '.join(rates)}")
        rates[name] = Value(value, GIVEN, "--set")
    return rates
