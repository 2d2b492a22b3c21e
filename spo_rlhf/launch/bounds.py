"""Bounds of OpenRLHF's options, which its parser does not have: checked before anything divides by one or trains with it."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from spo_rlhf.core.options import COLDEST, HOTTEST, TEMPERATURE, Bounds, is_finite, shown
from spo_rlhf.core.seeds import LARGEST_SEED
from spo_rlhf.errors import UserError

POSITIVE, SHARE = Bounds(above=0), Bounds(at_least=0, at_most=1)
LARGE = 1e9  # far above all that is in use, and far below what float32 cannot hold
WIDEST = 1 << 20  # of a layer
COUNT, NOT_NEGATIVE, STEPS = Bounds(at_least=1), Bounds(at_least=0), Bounds(at_least=-1)

#: Per option of train_ppo_ray, train_sft or train_dpo what a value, or each of several, has to be. None stands for no value.
BOUNDS = {
    **dict.fromkeys(
        (
            *(f"{role}.{size}" for role in ("actor", "ref", "critic", "reward") for size in ("num_nodes", "num_gpus_per_node")),
            *("vllm.num_engines", "vllm.tensor_parallel_size", "ds.tensor_parallel_size", "ds.ring_attn_size"),
            *("rollout.batch_size", "rollout.micro_batch_size", "rollout.n_samples_per_prompt"),
            *("rollout.vllm_generate_batch_size", "rollout.max_new_tokens", "rollout.max_tokens_per_gpu"),
            *("train.batch_size", "train.micro_batch_size", "train.max_epochs", "train.num_episodes"),
            *("train.max_tokens_per_gpu", "data.max_len", "data.max_samples", "eval.n_samples_per_prompt"),
            *("ckpt.max_num", "algo.kl.horizon", "train.async_queue_size"),
            *("ds.zpg", "ds.ring_attn_head_stride"),
        ),
        COUNT,
    ),
    **dict.fromkeys(
        (
            *(f"{part}.lr" for part in ("actor.adam", "critic.adam", "actor.muon", "critic.muon", "adam", "muon")),
            *(f"{part}.eps" for part in ("actor.adam", "critic.adam", "adam")),
        ),
        Bounds(above=0, at_most=1),
    ),
    **dict.fromkeys(("actor.eps_clip", "model.beta"), Bounds(above=0, at_most=100)),
    # In the units of a reward, or of tokens.
    **dict.fromkeys(("critic.value_clip", "algo.kl.target", "reward.overlong_buffer_len"), Bounds(above=0, at_most=LARGE)),
    # The trainer divides by it, whatever the engine does.
    "rollout.temperature": Bounds(at_least=COLDEST, at_most=HOTTEST),
    "eval.temperature": TEMPERATURE,
    "ckpt.max_mem": POSITIVE,
    "actor.eps_clip_low_high": Bounds(at_most=100),  # what else they have to be the loss says
    "actor.dual_clip": Bounds(at_most=1000),
    **dict.fromkeys(
        (
            *(f"{part}.weight_decay" for part in ("actor.adam", "critic.adam", "adam")),
            *("algo.kl.init_coef", "actor.aux_loss_coef", "model.aux_loss_coef", "model.nll_loss_coef"),
        ),
        Bounds(at_least=0, at_most=100),
    ),
    # A norm, or weight, that bounds nothing is written as a large one.
    **dict.fromkeys(
        (
            *("actor.max_norm", "critic.max_norm", "max_norm", "spo.dpo_positive"),
            *("algo.advantage.is_correction_threshold", "reward.overlong_penalty_factor"),
        ),
        Bounds(at_least=0, at_most=LARGE),
    ),
    **dict.fromkeys(("data.dataloader_num_workers", "data.max_images_per_prompt"), Bounds(at_least=0, at_most=10_000)),
    "ds.lora.rank": Bounds(at_least=0, at_most=WIDEST),
    "ds.lora.alpha": Bounds(at_least=1, at_most=WIDEST),
    **dict.fromkeys(
        (
            *(f"{role}{name}" for role in ("actor.", "critic.", "") for name in ("lr_warmup_ratio", "min_lr_ratio")),
            *("algo.advantage.gamma", "algo.advantage.lambd", "ds.lora.dropout"),
        ),
        SHARE,
    ),
    # How much of a moving average stays: with 1 it never moves, and Adam divides by 1 - beta^t.
    **dict.fromkeys(
        (
            *(f"{part}.betas" for part in ("actor.adam", "critic.adam", "adam")),
            *(f"{part}.momentum" for part in ("actor.muon", "critic.muon", "muon")),
            "train.ema_beta",
        ),
        Bounds(at_least=0, below=1),
    ),
    **dict.fromkeys((f"{part}.ns_steps" for part in ("actor.muon", "critic.muon", "muon")), Bounds(at_least=1, at_most=100)),
    **dict.fromkeys(("rollout.top_p", "vllm.gpu_memory_utilization"), Bounds(above=0, at_most=1)),
    **dict.fromkeys(("eval.steps", "ckpt.save_steps", "critic.freezing_steps"), STEPS),
    "train.seed": Bounds(at_least=0, at_most=LARGEST_SEED),
    "actor.entropy_coef": Bounds(at_least=-1, at_most=1),
    "model.label_smoothing": Bounds(at_least=0, at_most=0.5),
    # Of a response that was cut: its reward times this, or this in its place where it is negative.
    "reward.stop_properly_penalty_coef": Bounds(at_least=-LARGE, at_most=1),
    "logger.logging_steps": NOT_NEGATIVE,
    "ds.zero_stage": Bounds(at_least=0, at_most=3),
}  # fmt: skip
#: Options with the two ends of a range, the lower one first.
RANGES = ("reward.clip_range", "algo.dynamic_filtering_range", "algo.advantage.is_correction_threshold")
#: The one number without an end that means something: checkpoints may take any room.
MAY_BE_INFINITE = {"ckpt.max_mem"}
#: Options that count steps, where 0 means never.
EVERY_STEPS = ("eval.steps", "ckpt.save_steps", "logger.logging_steps")
NEVER = sys.maxsize  # OpenRLHF takes the step modulo this


def check_bounds(flat: argparse.Namespace) -> None:
    """Every number on the command line is finite and, where it is OpenRLHF's, within its bounds; ranges have a width.

    Raises UserError.
    """
    for name, value in vars(flat).items():
        for number in _numbers(value):
            bounds = BOUNDS.get(name, Bounds())
            if not is_finite(number) and (number != number or name not in MAY_BE_INFINITE):
                raise UserError(f"--{name} {number}: must be a finite number {bounds}".rstrip())
            if not bounds.holds(number):
                raise UserError(f"--{name} {shown(number)}: must be {bounds}")
            if isinstance(number, int) and abs(number) > sys.maxsize:
                raise UserError(f"--{name} {number}: no whole number of this size can be used; give a smaller one")
    for name in RANGES:
        low_high = list(_numbers(vars(flat).get(name)))
        if len(low_high) == 2 and low_high[0] >= low_high[1]:
            told = " ".join(map(shown, low_high))
            raise UserError(f"--{name} {told}: give the lower end first, and a higher one behind it")


def _numbers(value: Any) -> Iterator[float]:
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(one, (int, float)) and not isinstance(one, bool):
            yield one


def settle_never(flat: argparse.Namespace) -> None:
    """0 steps between two evaluations, checkpoints or log lines means never, in place; OpenRLHF would divide by it."""
    options = vars(flat)
    for name in EVERY_STEPS:
        if options.get(name) == 0:
            options[name] = NEVER
