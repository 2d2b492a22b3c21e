"""Run by test_splits.py: one training iteration of the real policy actor on DeepSpeed, over several splits of the same batch.

Each layout (ranks, micro-batch size) is a set of forked processes joined by gloo; each rank writes the weights after the step and
its metrics to FOLDER/LEVEL. Run: deepspeed_splits.py TASK FOLDER LEVEL ...
"""

import itertools
import json
import multiprocessing
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import stack
import torch
import transformers.models.qwen2.modeling_qwen2  # noqa: F401  (before forking)

from spo_rlhf import upstream
from spo_rlhf.cli.train import parse
from spo_rlhf.trainer.actor import SegmentPolicyActor

LAYOUTS = [(1, 8), (1, 2), (2, 2), (4, 1)]
RESPONSES, PROMPT, LENGTH = 8, 5, 12
THRESHOLD = 0.5


def batch() -> list[upstream.Experience]:
    """Eight responses; the mask is empty for most of them, so some micro-batches and ranks have no trained token at all."""
    generator, units = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    samples = []
    for index in range(RESPONSES):
        length = LENGTH - index % 3
        action_mask = torch.zeros(1, length - 1, dtype=torch.bool)
        action_mask[:, PROMPT - 1 :] = True
        confident = index in (1, 3, 6, 7)
        rollout_logp = torch.full((1, length - 1), -0.01 if confident else -1.0)
        samples.append(
            upstream.Experience(
                sequences=torch.randint(2, 300, (1, length), generator=generator),
                attention_mask=torch.ones(1, length, dtype=torch.long),
                action_mask=action_mask,
                action_log_probs=-5 + torch.randn(1, length - 1, generator=generator) * 0.3,
                unit_ids=torch.randint(1, 4, (1, length - 1), generator=units).sort().values * action_mask,
                clip_scale=0.5 + torch.rand(1, length - 1, generator=units),
                base_action_log_probs=-5 + torch.randn(1, length - 1, generator=generator) * 0.3,
                rollout_log_probs=rollout_logp,
                advantages=torch.randn(1, length - 1, generator=generator),
                rewards=torch.ones(1),
                response_length=torch.tensor([float(length - PROMPT)]),
                total_length=torch.tensor([float(length)]),
                index=[index],
                prompts=[""],
                labels=[""],
                images=[None],
                mm_train_inputs=[None],
                info={"reward": torch.ones(1)},
            )
        )
    return samples


def configuration(task: Path, level: str, ranks: int, micro_batch: int, out: Path) -> SimpleNamespace:
    args, _ = parse(
        stack.options(
            task,
            out,
            rollout__batch_size=RESPONSES,
            rollout__n_samples_per_prompt=1,
            rollout__micro_batch_size=1,
            train__batch_size=RESPONSES,
            train__micro_batch_size=micro_batch,
            actor__num_gpus_per_node=ranks,
            ref__num_gpus_per_node=ranks,
            vllm__num_engines=ranks,
            spo__prob_threshold=THRESHOLD,
            algo__kl__init_coef=0.1,
            actor__max_norm=1e9,
            actor__lr_scheduler="constant",
            spo__ratio_level=level,
            algo__advantage__is_correction_level="off" if level == "token" else "seq",
            algo__advantage__is_correction_threshold=(0, 1e9),
        )
    )
    return args


def one_rank(args: SimpleNamespace, task: Path, ranks: int, rank: int, port: int, out: Path) -> None:
    actor = SegmentPolicyActor(ranks, rank, "127.0.0.1", port)
    actor.init_model_from_pretrained(upstream.get_strategy(args), str(task / "model"), 1, None)
    for sample in batch()[rank::ranks]:
        actor.append(sample)
    status = actor.fit(0.1)
    model = actor.actor.model.module
    vector = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    torch.save({"weights": vector, "status": status}, out / f"{ranks}-{args.train.micro_batch_size}-{rank}.pt")


def main(task: Path, out: Path, levels: list[str]) -> None:
    torch.set_num_threads(1)  # a forked process could not use the threads of this one
    context = multiprocessing.get_context("fork")
    for level, (ranks, micro_batch) in itertools.product(levels, LAYOUTS):
        (out / level).mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Checked here, so that what this loads is loaded once.
        args = configuration(task, level, ranks, micro_batch, out / level)
        processes = [
            context.Process(target=one_rank, args=(args, task, ranks, rank, port, out / level)) for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
            assert process.exitcode == 0, (level, ranks, micro_batch, process.exitcode)
        print(json.dumps({"level": level, "ranks": ranks, "micro_batch": micro_batch}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
