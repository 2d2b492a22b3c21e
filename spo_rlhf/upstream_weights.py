"""New weights to the engines of a run on GPUs in buckets: in place of OpenRLHF's call per parameter, one per bucket.

A bucket is parameters one after the other as bytes. It goes where OpenRLHF sends single parameters: by CUDA IPC where policy and
engines share GPUs, else by a broadcast over the NCCL group that OpenRLHF made. upstream_worker.py takes it.

vLLM's own `pack_tensors` is not used to pack: it fills a bucket beyond its size, and holds all its parameters gathered at once.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from spo_rlhf import upstream
from spo_rlhf.host import ray_calls


@dataclass(frozen=True)
class Bucket:
    """`packed`: all bytes, uint8 (N,). `tensors`: name, type and shape of each parameter, in the order of their bytes."""

    packed: torch.Tensor
    tensors: list[tuple[str, torch.dtype, tuple[int, ...]]]


def buckets(
    named: Iterable[tuple[str, torch.Tensor]],
    limit: int,
    gathered: Callable[[torch.Tensor], contextlib.AbstractContextManager[Any]],
) -> Iterator[Bucket]:
    """Parameters packed in their order into buckets of at most `limit` bytes; a larger one has a bucket of its own.

    `gathered(parameter)` is the context in which a parameter is whole; one is at a time. A bucket is never written again, and
    is forgotten here before the next one is made: two exist at a time only where the caller keeps one.
    """
    packed, used, tensors = torch.empty(0), 0, []
    for name, parameter in named:
        with gathered(parameter):
            weight = parameter.data
            if tensors and used + weight.nbytes > limit:
                yield Bucket(packed[:used], tensors)
                packed, used, tensors = torch.empty(0), 0, []
            if not tensors:
                packed = torch.empty(max(limit, weight.nbytes), dtype=torch.uint8, device=weight.device)
            packed[used : used + weight.nbytes].copy_(weight.reshape(-1).view(torch.uint8))
            used += weight.nbytes
            tensors.append((name, weight.dtype, tuple(weight.shape)))
    if tensors:
        yield Bucket(packed[:used], tensors)


def broadcast(trainer: Any, limit: int, limit_s: float) -> None:
    """In place of ActorPPOTrainer.broadcast_to_vllm, in buckets of at most `limit` bytes; every rank of the policy calls it.

    By CUDA IPC, engines that die or do not answer within `limit_s` seconds are left in `failed_engines` of the trainer, by
    position, and the others go on. All else that goes wrong there is raised, as OpenRLHF does.
    """
    args, first = trainer.strategy.args, dist.get_rank() == 0
    engines = Engines(trainer.vllm_engines if first else [], limit_s, apart=trainer.use_cuda_ipc)
    forgotten = engines.begin("reset_prefix_cache") if args.vllm.enable_prefix_caching else ([], [])
    torch.cuda.empty_cache()
    model = trainer.actor.model.module
    # As OpenRLHF does it: what a model for images has frozen, its vision tower, stays as the engines have it.
    text_alone = getattr(trainer.actor, "is_vlm", False)
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad or not text_alone]
    gathered = functools.partial(gathered_parameter, args.ds, model)
    if trainer.use_cuda_ipc:
        for bucket in buckets(named, limit, gathered):
            engines.end(engines.begin("load_bucket", bucket.tensors, exported(bucket.packed)))
            wait_for_all()
            del bucket  # before there is another
    elif first:
        for bucket in buckets(named, limit, gathered):
            asked = engines.begin("load_bucket", bucket.tensors)
            if engines.living:  # the group is of no other processes
                stream = torch.cuda.current_stream()  # which has packed it
                trainer._model_update_group.broadcast(bucket.packed, src=0, stream=stream)
            engines.end(asked)
            del bucket
    else:
        for _, parameter in named:
            with gathered(parameter):
                pass
    engines.end(forgotten)
    if first:
        trainer.failed_engines = sorted(engines.failed)
    torch.cuda.empty_cache()
    wait_for_all()


class Engines:
    """Calls to the engines that are left. `apart`: each takes weights by itself, so the others can do without one that died."""

    def __init__(self, handles: list[Any], limit_s: float, *, apart: bool):
        self.handles, self.limit_s, self.apart = handles, limit_s, apart
        self.failed: set[int] = set()  # positions in `handles`

    @property
    def living(self) -> list[int]:
        return [position for position in range(len(self.handles)) if position not in self.failed]

    def begin(self, method: str, *args: Any) -> tuple[list[int], list[Any]]:
        """Call a method of all that are left: their positions, and what `end` waits for."""
        asked = self.living
        return asked, ray_calls.begin_each([self.handles[i] for i in asked], method, [args] * len(asked))

    def end(self, begun: tuple[list[int], list[Any]]) -> None:
        """Wait for what `begin` gave. Raises what an engine raised, and what has become of one that others cannot do without."""
        for position, result in zip(begun[0], ray_calls.answers(begun[1], self.limit_s), strict=True):
            if not isinstance(result, Exception):
                continue
            if not (self.apart and is_gone(result)):
                raise result
            self.failed.add(position)


def is_gone(error: Exception) -> bool:
    """The engine has died or is silent: its answer is no refusal."""
    return isinstance(error, (TimeoutError, *ray_calls.deaths(), upstream.engine_dead_error()))


def gathered_parameter(ds: Any, model: Any, parameter: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Context in which a parameter that is split among ranks is whole, as OpenRLHF makes it; every rank enters it."""
    if ds.tensor_parallel_size > 1:
        from deepspeed.module_inject.layers import GatherReplacedLayerParams

        return GatherReplacedLayerParams([parameter], model, enabled=True)
    if ds.zero_stage != 3:
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])


def exported(packed: torch.Tensor) -> dict[str, Any]:
    """GPU -> CUDA IPC handle of the bucket there, of all ranks; every rank calls it."""
    from openrlhf.trainer.ray.utils import get_physical_gpu_id
    from torch.multiprocessing.reductions import reduce_tensor

    torch.cuda.current_stream().synchronize()  # else it might be read before it is written
    handles: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(handles, (get_physical_gpu_id(), reduce_tensor(packed)))
    return dict(handles)


def wait_for_all() -> None:
    """Until every rank is here and its GPU has done all work."""
    dist.barrier()
    torch.cuda.synchronize()
