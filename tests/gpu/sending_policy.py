"""The sending side of weights in buckets as a process of its own, without Ray: calls of the engine go through a pipe.

The same on a GPU (engine_check.py), with CUDA IPC, and without one, where gloo stands for NCCL and a file that both processes map
for CUDA IPC (tests/test_upstream_weights.py).
"""

import sys
import weakref
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from spo_rlhf import upstream_weights
from spo_rlhf.host import ray_calls

LIMIT_S = 120.0


class PipedEngine:
    """Handle of an engine that is behind a pipe: `engine.METHOD.remote(...)` is the call's number; it answers in their order."""

    def __init__(self, pipe: Any):
        self.pipe, self.calls, self.known = pipe, 0, []

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *args: self.call(method, args))

    def call(self, method: str, args: tuple) -> int:
        self.pipe.send((method, args))
        self.calls += 1
        return self.calls - 1

    def answers(self, calls: list[int], limit_s: float) -> list[Any]:
        """In place of ray_calls.answers."""
        while len(self.known) <= max(calls, default=-1):
            assert self.pipe.poll(limit_s), "no answer"
            self.known.append(self.pipe.recv())
        return [self.known[call] for call in calls]


class Gloo:
    """The broadcast of vLLM's PyNcclCommunicator, by gloo between two processes that a file joins; counts what it sends."""

    def __init__(self, path: str, rank: int):
        store = dist.FileStore(path, 2)
        self.group = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=LIMIT_S))
        self.rank, self.sizes = rank, []

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any) -> None:
        assert tensor.dtype == torch.uint8 and tensor.dim() == 1
        if self.rank == src:
            check_alone(tensor)
        self.sizes.append(tensor.numel())
        if tensor.numel():  # gloo sends no empty ones; NCCL does nothing with them
            self.group.broadcast(tensor, src).wait()


SENT: list[weakref.ref] = []  # buckets of the present weights


def check_alone(packed: torch.Tensor) -> None:
    """No bucket of before is left where the next one is sent."""
    assert not [one for one in SENT if one() is not None]
    SENT.append(weakref.ref(packed))


def open_mapped(path: str, size: int, *rest: Any) -> torch.Tensor:
    """The bytes of a file, without a copy; called as what opens a CUDA IPC handle, with the device as the last of seven."""
    assert len(rest) == 5 and rest[-1] == 0
    return torch.from_file(path, shared=True, size=size, dtype=torch.uint8) if size else torch.empty(0).byte()


def without_cuda(folder: str) -> None:
    """Let this process of a machine without a GPU send by CUDA IPC: a bucket becomes a file that the engine maps."""
    for name in ("synchronize", "empty_cache"):
        setattr(torch.cuda, name, lambda: None)
    torch.cuda.current_stream = lambda: SimpleNamespace(synchronize=lambda: None)
    utils: Any = ModuleType("openrlhf.trainer.ray.utils")
    utils.get_physical_gpu_id = lambda: "the GPU"
    sys.modules[utils.__name__] = utils

    def reduce_tensor(packed: torch.Tensor) -> tuple[Callable, tuple]:
        check_alone(packed)
        path = f"{folder}/bucket"
        if packed.numel():
            torch.from_file(path, shared=True, size=packed.numel(), dtype=torch.uint8).copy_(packed)
        return open_mapped, (path, packed.numel(), None, None, None, None, 5)  # 5: the device's number over here

    torch.multiprocessing.reductions.reduce_tensor = reduce_tensor


def trainer_of(model: torch.nn.Module, pipe: Any, *, group: Any = None, is_vlm: bool = False) -> Any:
    """What is read of an ActorPPOTrainer: of one rank, without ZeRO 3. `group` None: by CUDA IPC."""
    vllm, ds = SimpleNamespace(enable_prefix_caching=True), SimpleNamespace(tensor_parallel_size=1, zero_stage=2)
    return SimpleNamespace(
        strategy=SimpleNamespace(args=SimpleNamespace(vllm=vllm, ds=ds)),
        actor=SimpleNamespace(model=SimpleNamespace(module=model), is_vlm=is_vlm),
        vllm_engines=[PipedEngine(pipe)],
        use_cuda_ipc=group is None,
        _model_update_group=group,
    )


def be_alone(folder: str, backend: str) -> None:
    """Be the only rank of a policy."""
    dist.init_process_group(backend, store=dist.FileStore(f"{folder}/policy", 1), rank=0, world_size=1)


def send(trainer: Any, pipe: Any, limit: int) -> None:
    """The weights in buckets, calls going through the pipe; then that they are sent, or what was raised."""
    SENT.clear()
    [engine] = trainer.vllm_engines
    ray_calls.answers = engine.answers
    try:
        upstream_weights.broadcast(trainer, limit, LIMIT_S)
    except Exception as error:
        pipe.send(("raised", (repr(error),)))
    else:
        pipe.send(("sent", (trainer.failed_engines,)))
    assert len(engine.known) == engine.calls, "nobody waits for an answer"


def take(pipe: Any, call: Callable[[str, tuple], Any]) -> list[tuple[str, tuple]]:
    """On the engine's side: answer calls by `call(method, args)` until the weights are sent; all that came, the end included."""
    came = []
    while not came or came[-1][0] not in ("raised", "sent"):
        assert pipe.poll(LIMIT_S), "the policy says nothing"
        came.append(pipe.recv())
        if came[-1][0] not in ("raised", "sent"):
            try:
                pipe.send(call(*came[-1]))
            except Exception as error:
                pipe.send(error)
    return came


class Model(torch.nn.Module):
    """Tied and mixed shapes: a scalar, an empty one, one that is not contiguous, and one of 1.5 MiB in bfloat16."""

    def __init__(self, seed: int, dtype: torch.dtype):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shapes = {"empty": (0, 3), "embed": (1024, 768), "scale": (), "conv": (5, 2, 3), "norm": (7,), "up": (512, 400)}
        for name, shape in shapes.items():
            setattr(self, name, torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)))
        self.head = self.embed
        self.down = torch.nn.Parameter(torch.randn(300, 600, generator=generator).to(dtype).T)
        self.conv.requires_grad = False


def policy(pipe: Any, folder: str) -> None:
    """Process of a policy without a GPU: sends what the pipe asks for."""
    without_cuda(folder)
    be_alone(folder, "gloo")
    group = Gloo(f"{folder}/sync", rank=0)
    while asked := pipe.recv():
        seed, limit, dtype, ipc, is_vlm = asked
        model = Model(seed, dtype)
        trainer = trainer_of(model, pipe, group=None if ipc else group, is_vlm=is_vlm)
        group.sizes.clear()
        send(trainer, pipe, limit)
        pipe.send(group.sizes)
    assert not {"vllm", "openrlhf", "deepspeed"} & sys.modules.keys() - {"openrlhf.trainer.ray.utils"}
    pipe.send("done")


def policy_on_gpu(pipe: Any, folder: str, model: str, limit: int) -> None:
    """Process of a policy that shares the GPU with its engine: sends the weights of a model's folder once, by CUDA IPC."""
    from transformers import AutoModelForCausalLM

    torch.cuda.set_device(0)
    be_alone(folder, "nccl")
    weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).cuda()
    send(trainer_of(weights, pipe), pipe, limit)
