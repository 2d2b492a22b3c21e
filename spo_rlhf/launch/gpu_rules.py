"""What a run on GPUs cannot do, refused before it starts with the reason, and what it is given where the command says nothing.

No run waits for devices that will not come; memory is planned (memory_plan.py), and a run that cannot fit is refused.
"""

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

from spo_rlhf import upstream
from spo_rlhf.errors import UserError
from spo_rlhf.host import device, model_folder
from spo_rlhf.host.files import is_local
from spo_rlhf.launch import memory_plan
from spo_rlhf.launch.placement import num_devices, placement

#: torch's settings of its allocator: the name for CUDA, and that for all devices, which torch reads as well.
ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
SYNC_BACKENDS, GRAD_DTYPES = ("nccl", "gloo"), ("fp32", "bf16")
FALLBACK_SHARE = 0.4  # of a shared GPU for the engine, where nothing is known of GPU or model


def settle(args: SimpleNamespace, explicit: set[str]) -> list[str]:
    """Refuse what breaks; on GPUs settle what the command leaves open, in place. Returns lines to show. Raises UserError."""
    device.check_build()
    notes = [] if device.is_cpu() else settle_sleep(args, explicit)
    refuse_what_breaks(args)
    if not device.is_cpu():
        notes += settle_grad_accum(args, explicit)
        notes += settle_memory(args, explicit, device.gpu_memory_bytes())
    return notes


def settle_sleep(args: SimpleNamespace, explicit: set[str]) -> list[str]:
    """Engine and optimizer leave the GPU that they share while the other works, unless --no-spo.sleep. Returns lines to show."""
    flags, wanted = ("vllm.enable_sleep", "ds.enable_sleep"), args.spo.sleep
    if wanted is False and (given := [name for name in flags if name in explicit]):
        raise UserError(f"--no-spo.sleep says the opposite of --{given[0]}; leave one of them out")
    if not args.train.colocate_all:
        if wanted:
            raise UserError("--spo.sleep: nothing is shared without --train.colocate_all; leave it out")
        return []
    if wanted is False:
        return []
    notes = []
    for section in ("vllm", "ds"):
        group = getattr(args, section)
        if not group.enable_sleep and (section != "ds" or args.ds.zero_stage > 0):
            group.enable_sleep = True
            notes.append(f"--{section}.enable_sleep: policy and engine share GPUs; --no-spo.sleep leaves it out")
    return notes


def settle_memory(args: SimpleNamespace, explicit: set[str], total: int | None) -> list[str]:
    """The engine's share of a GPU of `total` bytes, None where unknown, from an estimate. Returns lines to show.

    Raises UserError where this machine's GPUs are too small by that estimate, unless the command gives the share itself.
    """
    given = "vllm.gpu_memory_utilization" in explicit
    shape = read_shape(args)
    if shape is None:
        share = args.vllm.gpu_memory_utilization if given else _share_without_plan(args)
        args.vllm.gpu_memory_utilization = share
        return [f"--vllm.gpu_memory_utilization {share:g}: the memory of this model cannot be estimated here"]
    load = load_of(args, shape)
    plan = memory_plan.plan(shape, load)
    notes = plan.lines()
    if total is None:
        if not given:
            args.vllm.gpu_memory_utilization = _share_without_plan(args)
        return [*notes, f"--vllm.gpu_memory_utilization {args.vllm.gpu_memory_utilization:g}: no GPU here to plan for"]
    gib, share = total / memory_plan.GIB, plan.share(total)
    if given or (
        share is None and os.environ.get("RAY_ADDRESS")
    ):  # the cluster's GPUs may be larger than this machine's
        if not given:
            args.vllm.gpu_memory_utilization = _share_without_plan(args)
        need = plan.need(args.vllm.gpu_memory_utilization, total) / memory_plan.GIB
        fits = "" if need <= gib else ": too much, by this estimate"
        return [*notes, f"needed with the given share: {need:.1f} of {gib:.1f} GiB{fits}"]
    if share is None:
        flags = memory_plan.remedies(shape, load, total)
        change = f"give {' '.join(flags)}" if flags else "use more or larger GPUs, or a smaller model"
        raise UserError(
            f"{args.actor.model_name_or_path} does not fit GPUs of {gib:.0f} GiB: {plan.training / memory_plan.GIB:.0f} GiB to "
            f"train, {plan.sampling / memory_plan.GIB:.0f} + {plan.engine_least / memory_plan.GIB:.0f} to sample, estimated; "
            f"{change}, or --vllm.gpu_memory_utilization to try nevertheless"
        )
    args.vllm.gpu_memory_utilization = share
    return [*notes, f"--vllm.gpu_memory_utilization {share:g}: what the rest leaves of {gib:.0f} GiB"]


def _share_without_plan(args: SimpleNamespace) -> float:
    return FALLBACK_SHARE if args.train.colocate_all else memory_plan.LARGEST_SHARE


def read_shape(args: SimpleNamespace) -> memory_plan.ModelShape | None:
    """The policy's shape from its config.json; a dry run asks no hub. None where it does not say."""
    return _shape_of(args.actor.model_name_or_path, ask_hub=not args.dry_run)


def reward_parameters(args: SimpleNamespace, shape: memory_plan.ModelShape) -> int:
    """Parameters of the run's reward model; it is taken for as large as the policy, of `shape`, where its config.json does not say."""
    name = args.reward.model_name_or_path
    if not name or args.reward.remote_url:
        return 0
    return (_shape_of(name, ask_hub=not args.dry_run) or shape).scoring_parameters


def _shape_of(name: str, *, ask_hub: bool) -> memory_plan.ModelShape | None:
    from transformers import PretrainedConfig

    try:
        if is_local(name):
            config = model_folder.read_config(Path(name))
        else:
            config, _ = PretrainedConfig.get_config_dict(name, local_files_only=not ask_hub)
    except Exception:  # a model that cannot be read is refused by the check of the model, in its words
        return None
    return memory_plan.model_shape(config)


def load_of(args: SimpleNamespace, shape: memory_plan.ModelShape) -> memory_plan.Load:
    """What the run does with each of the policy's GPUs."""
    longest = args.data.max_len
    if args.train.dynamic_batch_enable:
        trained, scored = args.train.max_tokens_per_gpu, args.rollout.max_tokens_per_gpu
    elif args.spo.packs:
        trained = scored = max(args.spo.pack_tokens, longest)
    else:
        trained, scored = args.train.micro_batch_size * longest, args.rollout.micro_batch_size * longest
    chunk = 0 if shape.whole_logits else args.spo.chunk_of(shape.vocabulary)
    return memory_plan.Load(
        devices=upstream.policy_ranks(args),
        tokens=trained,
        max_len=longest,
        logit_tokens=min(max(trained, scored), chunk) if chunk else max(trained, scored),
        zero_stage=args.ds.zero_stage,
        grad_bytes=memory_plan.FP32 if args.ds.grad_accum_dtype == "fp32" else memory_plan.BF16,
        adam_offload=args.ds.adam_offload,
        checkpointing=args.actor.gradient_checkpointing_enable,
        reference=args.algo.kl.init_coef > 0
        and not args.ref.offload
        and (args.train.colocate_all or args.train.colocate_actor_ref),  # else it has GPUs of its own
        reward=reward_parameters(args, shape) if args.train.colocate_all and not args.reward.offload else 0,
        critic=bool(args.critic.model_name_or_path) and args.train.colocate_all,
        tensor_parallel=args.vllm.tensor_parallel_size,
        together=args.train.colocate_all,
        engine_sleeps=args.vllm.enable_sleep,
        bucket=args.spo.weight_bucket_mib << 20,
        policy_sleeps=args.ds.enable_sleep or args.ds.adam_offload,
    )


def refuse_what_breaks(args: SimpleNamespace) -> None:
    """Options that OpenRLHF takes and that end a training minutes later, with the reason. Raises UserError."""
    version = upstream.OPENRLHF_VERSION
    if args.ds.lora.rank:
        raise UserError(
            f"--ds.lora.rank {args.ds.lora.rank}: the engines get no adapter's weights from OpenRLHF {version} "
            "(its issue 1349); train all weights, or merge an adapter first"
        )
    if args.ds.load_in_4bit:
        raise UserError(
            f"--ds.load_in_4bit: OpenRLHF {version} sends the engines the packed weights, and they take bfloat16 alone; leave it out"
        )
    if args.ds.param_dtype == "fp16":
        raise UserError("--ds.param_dtype fp16: OpenRLHF's engines are bfloat16 and refuse other weights; use bf16")
    if args.vllm.sync_backend not in SYNC_BACKENDS:
        raise UserError(f"--vllm.sync_backend {args.vllm.sync_backend}: give {' or '.join(SYNC_BACKENDS)}")
    if args.vllm.sync_with_ray and args.spo.weight_bucket_mib:
        raise UserError(
            "--spo.weight_bucket_mib does not go with --vllm.sync_with_ray, whose transfers are of single parameters; "
            "leave one of them out"
        )
    if args.vllm.sync_backend == "gloo" and args.train.colocate_all:
        raise UserError(
            "--vllm.sync_backend gloo does not go with --train.colocate_all: policy and engine share a device there; leave it out"
        )
    if args.ds.zero_stage == 0 and args.ds.enable_sleep:
        raise UserError("--ds.zero_stage 0 has no states that --ds.enable_sleep could move away; use stage 1, 2 or 3")
    if args.ds.ring_attn_size > 1 and importlib.util.find_spec("ring_flash_attn") is None:
        raise UserError(
            f"--ds.ring_attn_size {args.ds.ring_attn_size} needs ring-flash-attn, which is not installed; leave it out"
        )
    if not device.is_cpu():
        _refuse_on_gpus(args)


def _refuse_on_gpus(args: SimpleNamespace) -> None:
    over_nccl = not args.train.colocate_all and args.vllm.sync_backend == "nccl"  # colocated, weights take another way
    if args.vllm.sync_with_ray and over_nccl and importlib.util.find_spec("cupy") is None:
        raise UserError(
            "--vllm.sync_with_ray: Ray sends weights over NCCL by cupy, which is not installed; leave it out, or install cupy"
        )
    for name in ALLOCATOR_VARIABLES if args.train.colocate_all else ():
        if "expandable_segments:True" in os.environ.get(name, "").replace(" ", ""):
            raise UserError(
                f"{name}=expandable_segments:True: memory allocated that way cannot be handed to an engine on "
                "the same GPU (CUDA IPC), as --train.colocate_all does; unset it"
            )
    if not os.environ.get("RAY_ADDRESS") and (count := device.gpu_count()):
        check_devices(args, None, count)
        check_compiler()


def check_compiler() -> None:
    """DeepSpeed can compile its optimizer on this machine. Raises UserError."""
    if fault := compiler_fault():
        raise UserError(f"DeepSpeed compiles its optimizer at the first start and {fault}")


def compiler_fault() -> str | None:
    """What keeps DeepSpeed from compiling its optimizer, as it finds out itself at the first start; None where nothing does."""
    import torch
    from deepspeed.git_version_info import installed_ops
    from deepspeed.ops.op_builder import builder

    if installed_ops.get("fused_adam"):  # a DeepSpeed that was built with it
        return None
    wanted = torch.version.cuda
    try:
        builder.assert_no_cuda_mismatch()
    except builder.MissingCUDAException:
        return f"finds no nvcc: install the CUDA {wanted} toolkit, or set CUDA_HOME"
    except builder.CUDAMismatchException:
        found = ".".join(map(str, builder.installed_cuda_version()))
        return (
            f"finds the nvcc of CUDA {found}, while torch is built for {wanted}: install that toolkit, or set CUDA_HOME"
        )
    return None


def refuse_grad_accum(args: SimpleNamespace) -> None:
    """What DeepSpeed makes of --ds.grad_accum_dtype beside bf16 weights. Raises UserError."""
    if args.ds.grad_accum_dtype not in (None, *GRAD_DTYPES):
        raise UserError(f"--ds.grad_accum_dtype {args.ds.grad_accum_dtype}: give {' or '.join(GRAD_DTYPES)}")
    if args.ds.grad_accum_dtype != "fp32":
        return
    if args.ds.zero_stage == 0:
        raise UserError(
            "--ds.grad_accum_dtype fp32: DeepSpeed's stage 0 accumulates in the type of the weights alone; use --ds.zero_stage 2 or 3"
        )
    if args.ds.zero_stage == 1 and getattr(args.ds, "enable_sleep", False) and not args.ds.adam_offload:
        raise UserError(
            "--ds.grad_accum_dtype fp32: DeepSpeed's optimizer for it at stage 1 cannot move its states away, as "
            "--ds.enable_sleep wants; use --ds.zero_stage 2"
        )


def settle_grad_accum(args: SimpleNamespace, explicit: set[str]) -> list[str]:
    """Gradients of micro-batches add up in float32 where DeepSpeed can: in bf16 what is small is lost. Returns lines to show."""
    if args.ds.param_dtype == "bf16" and "ds.grad_accum_dtype" not in explicit and args.ds.grad_accum_dtype is None:
        sleeps = getattr(args.ds, "enable_sleep", False) and not args.ds.adam_offload
        if args.ds.zero_stage >= 2 or (args.ds.zero_stage == 1 and not sleeps):
            args.ds.grad_accum_dtype = "fp32"
            return ["--ds.grad_accum_dtype fp32: gradients of micro-batches would add up in bf16"]
        return []
    refuse_grad_accum(args)
    return []


def check_devices(args: SimpleNamespace, address: str | None, offered: float) -> None:
    """There are as many GPUs, logical ones included, as the run needs: Ray would wait for them forever. Raises UserError."""
    needed = num_devices(placement(args))
    if offered >= needed:
        return
    where = f"RAY_ADDRESS {address}: the cluster" if address else "this machine"
    remedy = "add nodes or ask for fewer" if address else "ask for fewer, or set RAY_ADDRESS"
    if not args.train.colocate_all:
        policy = args.actor.num_nodes * args.actor.num_gpus_per_node
        remedy = (
            "give --train.colocate_all, which lets policy, reference and engines share them"
            if policy <= offered
            else f"{remedy}; with --train.colocate_all policy, reference and engines share theirs"
        )
    elif args.actor.num_gpus_per_node > offered:
        remedy = (
            f"{remedy} (--actor.num_gpus_per_node is {args.actor.num_gpus_per_node}; --ref.num_gpus_per_node and "
            "--vllm.num_engines go with it)"
        )
    raise UserError(f"{where} has {offered:g} GPUs and the run needs {needed}; {remedy}")
