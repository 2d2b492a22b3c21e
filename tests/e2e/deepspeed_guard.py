"""Run by test_guard.py: the real policy actor on DeepSpeed, on two ranks, with numbers that are not finite on one of them.

For each ZeRO stage two actors: one trains on bad batches and then on a good one, the other on the good one alone. Each rank
writes what it came to into FOLDER. Run: deepspeed_guard.py TASK FOLDER STAGE ...
"""

import multiprocessing
import socket
import sys
from pathlib import Path

import deepspeed_splits
import torch
import transformers.models.qwen2.modeling_qwen2  # noqa: F401  (before forking)

from spo_rlhf import upstream, upstream_steps
from spo_rlhf.errors import RunStopped
from spo_rlhf.trainer.actor import SegmentPolicyActor

RANKS = 2
# Of the first sample, which rank 0 has. The last keeps the loss finite, but not the norm of its gradient.
BAD = {"nan": torch.nan, "inf": torch.inf, "large": 1e30}


def vector(actor) -> torch.Tensor:
    import deepspeed

    parameters = list(actor.actor.model.module.parameters())
    with deepspeed.zero.GatheredParameters(parameters, enabled=actor.strategy.args.ds.zero_stage == 3):
        return torch.cat([parameter.detach().flatten() for parameter in parameters]).clone()


def moments(actor) -> list[torch.Tensor]:
    """What Adam keeps, and how many steps it has counted."""
    states = actor.actor.model.optimizer.optimizer.state.values()
    return [torch.as_tensor(value).clone() for state in states for value in state.values()]


def fit(actor, rank: int, advantage: float | None) -> dict:
    """One iteration of one optimizer step; `advantage` is that of a token of the first sample."""
    samples = deepspeed_splits.batch("token")
    if advantage is not None:
        samples[0].advantages[0, -1] = advantage
    for sample in samples[rank::RANKS]:
        actor.append(sample)
    torch.manual_seed(0)  # of the order of the samples
    status = actor.fit(0.1)
    made, faults = actor.take_report()
    lr = actor.actor_scheduler.get_last_lr()[0]
    return {
        "status": status,
        "made": made,
        "faults": faults,
        "weights": vector(actor),
        "moments": moments(actor),
        "lr": lr,
    }


def one_rank(args, task: Path, rank: int, port: int, out: Path, bad: dict[str, float]) -> None:
    actor = SegmentPolicyActor(RANKS, rank, "127.0.0.1", port)
    actor.init_model_from_pretrained(upstream.get_strategy(args), str(task / "model"), 1, None)
    results = {"initial": {"weights": vector(actor)}}
    results["first"] = fit(actor, rank, None)
    for name, advantage in bad.items():
        results[name] = fit(actor, rank, advantage)
    results["last"] = fit(actor, rank, None)
    if bad and rank == 1:  # of which the other rank has to hear
        with torch.no_grad():
            next(iter(upstream_steps.engine_of(actor.actor).module.parameters())).data.flatten()[:1] = torch.nan
    actor.weights_are_finite = False
    try:
        actor.require_finite_weights(actor.strategy, actor.actor)
    except RunStopped as error:
        results["stopped"] = str(error)
    torch.save(results, out / f"{args.ds.zero_stage}-{'bad' if bad else 'good'}-{rank}.pt")


def main(task: Path, out: Path, stages: list[str]) -> None:
    torch.set_num_threads(1)  # a forked process could not use the threads of this one
    context = multiprocessing.get_context("fork")
    for stage in stages:
        args = deepspeed_splits.configuration(task, "token", RANKS, 2, out)
        args.ds.zero_stage = int(stage)
        for bad in (BAD, {}):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            processes = [
                context.Process(target=one_rank, args=(args, task, rank, port, out, bad)) for rank in range(RANKS)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join(300)
                assert process.exitcode == 0, (stage, bad, process.exitcode)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
