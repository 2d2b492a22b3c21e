"""Everything that adapts the stack to a run without a GPU; whether a run has one is decided in host/device.py.

OpenRLHF, DeepSpeed and vLLM's Ray integration assume CUDA. Without one:

- Ray is told of *logical* GPUs (host/device.py), so that placement groups and fractional GPUs schedule as they do elsewhere;
- `adapt()` makes the calls into torch.cuda harmless, builds the device mesh on the CPU, and switches to float32 (vLLM's bfloat16
  kernels can die with an illegal instruction on CPUs, and float32 makes runs exactly repeatable);
- weights reach the engines through Ray's object store and a file in shared memory instead of NCCL (`broadcast_weights`,
  `load_weights`): vLLM's CPU build repacks linear layers, so it reloads a whole checkpoint rather than single tensors.

With a GPU none of this is used.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.command import PATIENT_THREADS
from spo_rlhf.host.device import is_cpu as is_cpu  # asked under this name wherever the stack is set up
from spo_rlhf.host.own_run import own_folder
from spo_rlhf.host.ray_calls import ask_all
from spo_rlhf.host.watcher import SHARED_MEMORY, remove_dead

DTYPE = "float32"
# vLLM's variable for the size of an engine's key-value cache, in GiB.
KV_CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"
DEFAULT_KV_CACHE_GIB = 1
# oneDNN keeps the last 1024 matrix products that it has prepared, about 0.1 MiB each, and an engine asks for others with every number of
# sequences: 90 MiB in 100 steps. With 64 an engine stays as large as it is after some steps, and samples as fast.
PREPARED_PRODUCTS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
# vLLM's CPU default of 128 tokens a block caches nothing of a short prompt; 32 is the smallest block it takes.
BLOCK_SIZE = 32
MIN_BATCHED_TOKENS = 8192


def worker_environment() -> dict[str, str]:
    """Environment variables of every Ray worker."""
    return {
        "DS_ACCELERATOR": "cpu",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
        KV_CACHE_SPACE: str(kv_cache_bytes() >> 30),
        # Ray gives an actor with a fraction of a CPU one OpenMP thread; training wants the whole machine, or what it was given.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1)),
        # A cluster's workers do not inherit it from the command.
        PATIENT_THREADS[0]: os.environ.get(*PATIENT_THREADS),
        PREPARED_PRODUCTS[0]: os.environ.get(*PREPARED_PRODUCTS),
        # Left to itself every engine ties its threads to the same cores, also beside another engine or another run.
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
    }


def settle_devices(flat: Any, explicit: set[str]) -> list[str]:
    """One device for each role unless the command says how many, not OpenRLHF's 8 GPUs, in place. Returns lines to show.

    Roles that it does not name get as many as the policy, which they may share with it.
    """
    options = vars(flat)
    flags = [f"{role}.num_gpus_per_node" for role in ("actor", "ref", "critic", "reward")]
    devices = options[flags[0]] if flags[0] in explicit else 1
    changed = [flag for flag in flags if flag not in explicit and options[flag] != devices]
    options.update(dict.fromkeys(changed, devices))
    return [f"--{flags[0]} {devices}: without a GPU, unless the command says otherwise"] if flags[0] in changed else []


def settle(args) -> list[str]:
    """Options that mean something else, or nothing, without a GPU: settle them in place. Returns lines to show."""
    kv_cache_bytes()  # a wrong size is refused before anything starts
    notes = [f"no GPU: logical devices, {DTYPE}, engines and training on the CPU", *settle_deepspeed(args)]
    for section in ("ds", "vllm"):
        if getattr(args, section).enable_sleep:
            getattr(args, section).enable_sleep = False
            notes.append(f"--{section}.enable_sleep off: there is no device memory to free")
    if args.spo.weight_bucket_mib:
        args.spo = dataclasses.replace(args.spo, weight_bucket_mib=0)
        notes.append("--spo.weight_bucket_mib 0: without a GPU an engine gets all weights at once")
    return notes


def settle_deepspeed(args) -> list[str]:
    """What `settle` does of DeepSpeed's options, for commands without engines."""
    notes = []
    if args.ds.zero_stage == 0:
        args.ds.zero_stage = 1
        notes.append("--ds.zero_stage 1: the same update as stage 0, which reports no gradient norm in float32")
    if args.ds.zero_stage == 3:
        # Seen with two gloo ranks: now and then the shards of the weights start out with what was in memory before.
        args.ds.zero_stage = 2
        notes.append(
            "--ds.zero_stage 2: the same update as stage 3, which loads weights wrongly now and then without a GPU"
        )
    if args.ds.adam_offload:
        args.ds.adam_offload = False
        notes.append("--ds.adam_offload off: the optimizer is on the CPU already")
    return notes


def kv_cache_bytes() -> int:
    """Of an engine: what vLLM's own variable says, or little, since engines share the memory with the training.

    Raises UserError.
    """
    text = os.environ.get(KV_CACHE_SPACE, str(DEFAULT_KV_CACHE_GIB))
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"{KV_CACHE_SPACE}={text}: give whole GiB, at least 1")
    return int(text) << 30


def engine_kwargs(max_model_len: int) -> dict[str, Any]:
    """vLLM engine arguments that replace those meant for a GPU.

    Chunked prefill is off and a step takes at least one whole prompt: a seeded request whose prefill is split over steps kills the
    CPU engine ("CPU Generator does not use offset").

    The worker shares the process of the engine's core: in one of its own, vLLM's choice for the sake of tying threads to cores,
    both spin while they wait for each other, and the start takes one more round of imports. vLLM replaces the name "uni", not the class.
    """
    from spo_rlhf.host.engine_core import BoundExecutor

    return {
        "distributed_executor_backend": BoundExecutor,
        "dtype": DTYPE,
        "enforce_eager": True,
        "block_size": BLOCK_SIZE,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(MIN_BATCHED_TOKENS, max_model_len),
        "kv_cache_memory_bytes": kv_cache_bytes(),
        "enable_sleep_mode": False,
        "worker_extension_cls": "spo_rlhf.cpu.WorkerExtension",
    }


class WorkerExtension:
    """Methods that vLLM adds to its worker, called through `collective_rpc`."""

    model_runner: Any  # the worker's

    def load_weights_from(self, path: str) -> None:
        """Replace the weights by those of a safetensors file, named as in the Hugging Face checkpoint."""
        from safetensors.torch import load_file
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.model_runner.reload_weights(weights_iterator=iter(load_file(path).items()))
        # An output layer tied to the embedding is no tensor of the checkpoint, so the reload passes it by and it would go on
        # multiplying with the repacked copy of the old weights.
        for layer in self.model_runner.get_model().modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)


async def load_weights(llm, state: dict[str, Any]) -> None:
    """Give a vLLM engine new weights (name -> numpy array) and forget what its prefix cache held under the old ones."""
    from safetensors.numpy import save_file

    shared_memory = SHARED_MEMORY if os.path.isdir(SHARED_MEMORY) else None
    if shared_memory:  # an engine that was killed here has left a copy of all weights
        remove_dead({Path(shared_memory)})
    # Tensors would pass through collective_rpc as lists; a path does not.
    with own_folder(shared_memory) as folder:
        path = str(folder / "weights.safetensors")
        save_file(state, path)
        await llm.collective_rpc("load_weights_from", args=(path,))
    await llm.reset_prefix_cache()


def broadcast_weights(actor_trainer) -> None:
    """In place of ActorPPOTrainer.broadcast_to_vllm: rank 0 hands the gathered parameters to every engine.

    Engines that did not take them are left in `failed_engines` of the trainer, by position.
    """
    import deepspeed
    import ray
    import torch.distributed as dist

    limit_s = actor_trainer.strategy.args.spo.engine_timeout
    actor_trainer.failed_engines = []
    model = actor_trainer.actor.model.module
    named = list(model.named_parameters())
    sharded = actor_trainer.strategy.args.ds.zero_stage == 3
    with deepspeed.zero.GatheredParameters([p for _, p in named], enabled=sharded):
        if dist.get_rank() == 0:
            state_ref = ray.put({name: p.detach().float().numpy().copy() for name, p in named})
            results = ask_all(actor_trainer.vllm_engines, "load_weights", state_ref, limit_s=limit_s)
            actor_trainer.failed_engines = [i for i, result in enumerate(results) if isinstance(result, Exception)]
    dist.barrier()


def adapt() -> None:
    """Make this process's torch and OpenRLHF run without CUDA; once a process, after the flash-attn stand-in is in place."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _adapt_torch()
    _adapt_openrlhf()


def _current_device():
    import torch

    return torch.device("cpu")


def _adapt_torch() -> None:
    import torch
    import torch.distributed.device_mesh as device_mesh

    torch.cuda.current_device = _current_device
    for name in ("set_device", "synchronize", "empty_cache", "current_stream"):
        setattr(torch.cuda, name, lambda *args, **kwargs: None)

    cuda_mesh = device_mesh.init_device_mesh
    device_mesh.init_device_mesh = lambda device_type, *args, **kwargs: cuda_mesh("cpu", *args, **kwargs)


def _in_float32(ds_config):
    def ds_config_in_float32(*args, **kwargs):
        return ds_config(*args, **{**kwargs, "param_dtype": "fp32"})

    return ds_config_in_float32


def _adapt_openrlhf() -> None:
    import openrlhf.models.actor as actor
    import openrlhf.trainer.ppo_utils.replay_buffer as replay_buffer
    import openrlhf.trainer.ray.ppo_actor as ppo_actor
    import openrlhf.utils.deepspeed.deepspeed as strategy
    import openrlhf.utils.utils as utils
    import torch
    import torch.distributed.device_mesh as device_mesh

    # Compiled for the GPU's sake; here that would take a C++ compiler and half a minute.
    actor.compute_entropy = actor.compute_entropy._torchdynamo_orig_callable

    strategy.init_device_mesh = device_mesh.init_device_mesh

    # OpenRLHF knows bf16 and fp16 only; here every model and every DeepSpeed configuration is float32.
    utils.convert_to_torch_dtype = lambda param_dtype: torch.float32
    for name in ("get_train_ds_config", "get_eval_ds_config"):
        setattr(strategy, name, _in_float32(getattr(strategy, name)))

    ppo_actor.ActorPPOTrainer._init_vllm_sync_group = lambda self, backend: None
    ppo_actor.ActorPPOTrainer.broadcast_to_vllm = lambda self: broadcast_weights(self)

    original_init = replay_buffer.NaiveReplayBuffer.__init__

    def init_on_cpu(self, *args, **kwargs):
        # The constructor builds the device name "cuda:<index>": it needs a number for the moment.
        torch.cuda.current_device = lambda: 0
        try:
            original_init(self, *args, **kwargs)
        finally:
            torch.cuda.current_device = _current_device
        self.target_device = _current_device()

    replay_buffer.NaiveReplayBuffer.__init__ = init_on_cpu
