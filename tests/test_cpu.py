"""Options that mean something else without a GPU are settled, and each is told."""

import asyncio
import os
from types import SimpleNamespace

import numpy
import pytest

from spo_rlhf import cpu
from spo_rlhf.config import SpoConfig
from spo_rlhf.errors import UserError
from spo_rlhf.host import watcher


@pytest.mark.parametrize(("stage", "settled"), [(0, 1), (1, 1), (2, 2), (3, 2)])
def test_stages_that_do_not_hold_without_a_gpu_become_one_that_does(stage: int, settled: int) -> None:
    args = SimpleNamespace(ds=SimpleNamespace(zero_stage=stage, adam_offload=False))
    notes = cpu.settle_deepspeed(args)
    assert args.ds.zero_stage == settled
    assert notes == [] if stage == settled else notes[0].startswith(f"--ds.zero_stage {settled}: ")


def test_an_optimizer_that_is_on_the_cpu_is_not_moved_there() -> None:
    args = SimpleNamespace(ds=SimpleNamespace(zero_stage=2, adam_offload=True))
    assert cpu.settle_deepspeed(args) == ["--ds.adam_offload off: the optimizer is on the CPU already"]
    assert not args.ds.adam_offload


def test_the_key_value_cache_has_the_size_of_vllms_variable(monkeypatch) -> None:
    monkeypatch.delenv(cpu.KV_CACHE_SPACE, raising=False)
    assert cpu.engine_kwargs(64)["kv_cache_memory_bytes"] == 1 << 30
    monkeypatch.setenv(cpu.KV_CACHE_SPACE, "6")
    assert cpu.engine_kwargs(64)["kv_cache_memory_bytes"] == 6 << 30
    assert cpu.worker_environment()[cpu.KV_CACHE_SPACE] == "6", "workers of a cluster do not inherit it"


def test_few_prepared_products_are_kept_unless_the_environment_says_otherwise(monkeypatch) -> None:
    name, few = cpu.PREPARED_PRODUCTS
    monkeypatch.delenv(name, raising=False)
    assert cpu.worker_environment()[name] == few
    monkeypatch.setenv(name, "1024")
    assert cpu.worker_environment()[name] == "1024"


@pytest.mark.parametrize("size", ["0", "1.5", "", "2GB"])
def test_a_size_that_is_none_is_refused_before_the_start(size: str, monkeypatch) -> None:
    monkeypatch.setenv(cpu.KV_CACHE_SPACE, size)
    with pytest.raises(UserError, match="give whole GiB"):
        cpu.settle(SimpleNamespace())


def test_weights_go_in_no_buckets_without_a_gpu() -> None:
    sections = {name: SimpleNamespace(enable_sleep=False, zero_stage=2, adam_offload=False) for name in ("ds", "vllm")}
    for given, noted in ((0, 0), (64, 1)):
        args = SimpleNamespace(**sections, spo=SpoConfig(weight_bucket_mib=given))
        notes = [note for note in cpu.settle(args) if note.startswith("--spo.weight_bucket_mib 0: without a GPU")]
        assert args.spo.weight_bucket_mib == 0 and len(notes) == noted


ROLES = ("actor", "ref", "critic", "reward")


@pytest.mark.parametrize(
    ("given", "settled", "noted"),
    [({}, [1, 1, 1, 1], True), ({"actor": 2}, [2, 2, 2, 2], False), ({"actor": 2, "ref": 1}, [2, 1, 2, 2], False)],
)
def test_without_a_gpu_each_role_has_one_device_unless_the_command_says_otherwise(given, settled, noted) -> None:
    flags = {role: f"{role}.num_gpus_per_node" for role in ROLES}
    flat = SimpleNamespace(**{flag: given.get(role, 8) for role, flag in flags.items()})
    notes = cpu.settle_devices(flat, {flags[role] for role in given})
    assert [vars(flat)[flags[role]] for role in ROLES] == settled
    assert [note.split(":")[0] for note in notes] == ["--actor.num_gpus_per_node 1"] * noted


def test_the_weights_that_a_killed_engine_left_in_shared_memory_go_when_the_next_ones_come(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "SHARED_MEMORY", str(tmp_path))
    (tmp_path / "spo-dead").mkdir()
    os.close(watcher.lock_folder(tmp_path / "spo-dead"))
    seen = []

    class Engine:
        async def collective_rpc(self, method, args):
            [folder] = tmp_path.iterdir()
            seen.append((method, args == (str(folder / "weights.safetensors"),)))

        async def reset_prefix_cache(self):
            pass

    asyncio.run(cpu.load_weights(Engine(), {"w": numpy.zeros(2, numpy.float32)}))
    assert seen == [("load_weights_from", True)] and not list(tmp_path.iterdir())
