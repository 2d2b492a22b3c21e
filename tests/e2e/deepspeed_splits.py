"""Run by test_splits.py: one training iteration of the real policy actor on DeepSpeed, over several splits of the same batch.

Each layout (ranks, micro-batch size) is a set of forked processes joined by gloo; each rank writes the weights after the step and
its metrics to FOLDER/CASE. A case is a level of the ratio, or one of two that compare their first layout with the others:

idle      no KL term, some samples without an advantage: every sample computed; those without a gradient left out
packed    nodes of a tree as samples: one by one; packed

Run: deepspeed_splits.py TASK FOLDER CASE ...
"""

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

LAYOUTS = {
    "token": [(1, 8), (1, 2), (2, 2), (4, 1)],
    "segment": [(1, 8), (1, 2), (2, 2), (4, 1)],
    "idle": [(1, 8), (1, 2), (2, 1)],
    "packed": [(1, 8), (1, 4), (2, 4)],
}
PLAIN = (1, 8)  # of "idle" and "packed", the layout that they are compared with
PACK_TOKENS = 20  # two packed sequences
#: Layouts whose logits come in chunks of fewer tokens than a micro-batch has.
IN_CHUNKS = {layout: dict(spo__logits_chunk_tokens=7) for layout in ((1, 2), (2, 2))}
RESPONSES, PROMPT, LENGTH = 8, 5, 12
THRESHOLD = 0.5


def batch(case: str) -> list[upstream.Experience]:
    """Eight responses; the mask is empty for half of them, so some micro-batches and ranks have no trained token at all.

    "idle": one more has no advantage. Of two ranks one has two samples with a gradient, the other has one.
    """
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
    if case == "idle":
        samples[0].advantages.zero_()
    if case == "packed":
        for index, sample in enumerate(samples):  # below one prompt 2 nodes, and below each of them 2
            sample.sequences[:, :PROMPT] = 12
            sample.sequences[:, PROMPT : PROMPT + 2] = 14 + (index & 1)
            sample.sequences[:, PROMPT + 2 : PROMPT + 4] = 16 + (index & 2)
    return samples


def configuration(task: Path, case: str, ranks: int, micro_batch: int, out: Path) -> SimpleNamespace:
    level = "segment" if case == "segment" else "token"
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
            algo__kl__init_coef=0 if case == "idle" else 0.1,
            actor__max_norm=1e9,
            actor__lr_scheduler="constant",
            spo__ratio_level=level,
            spo__pack_trees="on" if case == "packed" and (ranks, micro_batch) != PLAIN else "off",
            spo__pack_tokens=PACK_TOKENS,
            algo__advantage__is_correction_level="off" if level == "token" else "seq",
            algo__advantage__is_correction_threshold=(0, 1e9),
            **IN_CHUNKS.get((ranks, micro_batch), {}),
        )
    )
    return args


def one_rank(args: SimpleNamespace, task: Path, case: str, ranks: int, rank: int, port: int, out: Path) -> None:
    actor = SegmentPolicyActor(ranks, rank, "127.0.0.1", port)
    actor.init_model_from_pretrained(upstream.get_strategy(args), str(task / "model"), 1, None)
    if case == "idle" and (ranks, args.train.micro_batch_size) == PLAIN:
        actor.trainer.form.leaves_out = False
    # All samples on every rank: a log-prob pass of more tokens than a chunk has.
    whole = upstream.Experience.concat_experiences(batch(case), 0)
    log_probs = actor.forward(whole.sequences, whole.action_mask, whole.attention_mask)
    for sample in batch(case)[rank::ranks]:
        actor.append(sample)
    status = actor.fit(0.1)
    vector = torch.cat([parameter.detach().flatten() for parameter in actor.actor.model.module.parameters()])
    torch.save(
        {"weights": vector, "status": status, "log_probs": log_probs},
        out / f"{ranks}-{args.train.micro_batch_size}-{rank}.pt",
    )


def main(task: Path, out: Path, cases: list[str]) -> None:
    torch.set_num_threads(1)  # a forked process could not use the threads of this one
    context = multiprocessing.get_context("fork")
    layouts = [(case, *layout) for case in cases for layout in LAYOUTS[case]]
    for case, ranks, micro_batch in layouts:
        (out / case).mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Checked here, so that what this loads is loaded once.
        args = configuration(task, case, ranks, micro_batch, out / case)
        processes = [
            context.Process(target=one_rank, args=(args, task, case, ranks, rank, port, out / case))
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
            assert process.exitcode == 0, (case, ranks, micro_batch, process.exitcode)
        print(json.dumps({"case": case, "ranks": ranks, "micro_batch": micro_batch}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
