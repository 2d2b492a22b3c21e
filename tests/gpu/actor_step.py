"""OpenRLHF's actor under DeepSpeed in bfloat16 with the segment loss: optimizer steps, norms, seconds, memory; prints JSON.

python tests/gpu/actor_step.py --model DIR --zero 2 [--grad-accum fp32] [--rows 4] [--length 1024] [--steps 3]
"""

import argparse
import gc
import json
import math
import os
import time
from types import SimpleNamespace

import torch

from spo_rlhf import upstream
from spo_rlhf.core.loss import Clip, policy_mask, spo_loss

MICRO_BATCHES = 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--zero", type=int, choices=(0, 1, 2, 3), required=True)
    parser.add_argument("--grad-accum", choices=("bf16", "fp32"))
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--port", default="29517")
    return parser.parse_args()


def strategy_of(options: argparse.Namespace):
    """OpenRLHF's DeepSpeed strategy, from the part of its options that it reads."""
    upstream.get_strategy  # noqa: B018  the first use of a name of `upstream` adapts the process
    from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy

    ds = SimpleNamespace(
        param_dtype="bf16",
        adam_offload=False,
        zpg=1,
        use_universal_ckpt=False,
        grad_accum_dtype=options.grad_accum,
        overlap_comm=False,
        deepcompile=False,
        tensor_parallel_size=1,
        ring_attn_size=1,
        zero_stage=options.zero,
    )
    return DeepspeedStrategy(
        seed=1,
        max_norm=1.0,
        micro_train_batch_size=options.rows,
        train_batch_size=options.rows * MICRO_BATCHES,
        zero_stage=options.zero,
        args=SimpleNamespace(local_rank=-1, ds=ds, train=SimpleNamespace(dynamic_batch_enable=False)),
    )


class Batches:
    """Micro-batches of random tokens, the same for every run: (sequences, actions, advantages, engine's log-probs)."""

    def __init__(self, rows: int, length: int, vocabulary: int):
        self.rows, self.length, self.vocabulary = rows, length, vocabulary

    def __call__(self, number: int) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(number)
        size = (self.rows, self.length - 1)
        sequences = torch.randint(3, self.vocabulary, (self.rows, self.length), generator=generator)
        actions = torch.ones(size)
        actions[:, : self.length // 4] = 0
        adv = torch.randn(size, generator=generator)
        engine_logp = -torch.rand(size, generator=generator)
        return tuple(tensor.cuda() for tensor in (sequences, actions, adv, engine_logp))


def loss_of(forward, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    sequences, actions, adv, engine_logp = batch
    mask = policy_mask(engine_logp, actions, 0.9)
    logp = forward(sequences, actions)
    return spo_loss(logp, logp.detach(), adv, mask, clip=Clip(), normalizer=mask.sum(), action_mask=actions).loss


def float32_norm(model: str, batches: Batches) -> float:
    """The gradient norm of the first optimizer step by plain autograd in float32."""
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa").cuda().train()
    plain.gradient_checkpointing_enable()

    def forward(sequences: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        rows = []
        for row, after in zip(sequences, sequences.roll(-1, 1)):  # the logits of all rows at once are large in float32
            logits = plain(row[None], use_cache=False).logits
            rows.append(torch.log_softmax(logits, -1).gather(2, after[None, :, None])[..., 0])
        return torch.cat(rows)[:, :-1] * actions

    for number in range(MICRO_BATCHES):
        (loss_of(forward, batches(number)) / MICRO_BATCHES).backward()
    return math.sqrt(sum(float(p.grad.double().norm() ** 2) for p in plain.parameters() if p.grad is not None))


def main() -> None:
    options = arguments()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=options.port, RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    strategy = strategy_of(options)
    from openrlhf.models.actor import Actor

    strategy.setup_distributed()
    start = time.monotonic()
    actor = Actor(
        options.model,
        attn_implementation="sdpa",
        param_dtype="bf16",
        ds_config=strategy.get_ds_train_config(),
        packing_samples=False,
        temperature=1.0,
    )
    actor.gradient_checkpointing_enable()
    schedule = dict(lr_scheduler="constant", lr_warmup_ratio=0.0, min_lr_ratio=0.1, scheduler_steps=10, max_norm=1.0)
    adam = dict(lr=1e-6, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    actor, optimizer, scheduler = strategy.prepare((actor, dict(optim="adam", muon={}, adam=adam, **schedule)))
    ready_s = time.monotonic() - start
    batches = Batches(options.rows, options.length, actor.model.module.config.vocab_size)

    def forward(sequences: torch.Tensor, actions: torch.Tensor, actor=actor) -> torch.Tensor:
        return actor(sequences, actions, attention_mask=torch.ones_like(sequences), return_output=False)

    norms, losses, seconds = [], [], []
    for step in range(options.steps):
        torch.cuda.synchronize()
        start = time.monotonic()
        for micro in range(MICRO_BATCHES):
            loss = loss_of(forward, batches(100 * step + micro))
            strategy.backward(loss, actor, optimizer)
            strategy.optimizer_step(optimizer, actor, scheduler)
            losses.append(float(loss.detach()))
        torch.cuda.synchronize()
        seconds.append(time.monotonic() - start)
        norms.append(float(strategy.get_grad_norm(actor)))
    peak_gib = torch.cuda.max_memory_allocated() / 2**30
    del actor, optimizer, scheduler, forward
    gc.collect()
    torch.cuda.empty_cache()
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    figures = dict(
        zero=options.zero,
        grad_accum=options.grad_accum,
        norms=norms,
        losses=losses,
        ready_s=ready_s,
        step_s=seconds,
        tokens_per_s=MICRO_BATCHES * options.rows * options.length / min(seconds),
        peak_gib=peak_gib,
        float32_norm=float32_norm(options.model, batches),
    )
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
