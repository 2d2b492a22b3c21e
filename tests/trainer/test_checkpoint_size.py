"""Bytes of a checkpoint before there is one, by the formula and by one that was written."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from spo_rlhf.host import model_folder
from spo_rlhf.trainer.checkpoint_size import checkpoint_bytes
from spo_rlhf.trainer.checkpoints import ROOM_TO_SPARE
from spo_rlhf.trainer.saving import Saver

SHAPES = [(10, 4), (6,)]  # 46 numbers


@pytest.mark.parametrize(
    ("number_bytes", "options", "expected"),
    [
        (2, {}, 14 * 46),
        (4, {}, 16 * 46),
        (2, {"averages": 3}, (14 + 6) * 46),
        (2, {"exported": True}, 16 * 46),
        (2, {"states": False}, 0),
        (2, {"states": False, "exported": True}, 2 * 46),
        (2, {"lora_rank": 5}, 2 * (46 + 5 * 14) + 12 * 5 * 14),
    ],
)
def test_weights_their_float32_and_two_moments(number_bytes, options, expected):
    assert checkpoint_bytes(SHAPES, number_bytes, **options) == expected
    assert checkpoint_bytes([], number_bytes, **options) == 0


def test_what_was_measured_of_a_checkpoint_without_gpu():
    """797,824 numbers in float32: model states of 3,201,573 and optimizer states of 9,573,961 bytes."""
    estimate = checkpoint_bytes([(797_824,)], 4)
    assert estimate == pytest.approx(3_201_573 + 9_573_961, rel=0.002)


@pytest.mark.parametrize(("dtype", "times"), [(torch.bfloat16, 7), (torch.float32, 3.5)])
def test_the_type_of_the_file_is_read_from_its_header(tmp_path, dtype, times):
    save_file(
        {"a": torch.zeros(1000, 40, dtype=dtype), "b": torch.zeros(60, dtype=dtype)}, tmp_path / "model.safetensors"
    )
    shapes = model_folder.parameter_shapes(str(tmp_path))
    assert sorted(shapes) == [(60,), (1000, 40)]
    assert checkpoint_bytes(shapes, 2) == pytest.approx(times * model_folder.weights_size(str(tmp_path)), rel=0.01)


@pytest.mark.parametrize(("told", "numbers"), [("float32", 100), ("bfloat16", 200), (None, 200)])
def test_of_a_pickled_file_the_configuration_tells_the_type(tmp_path, told, numbers):
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(400))
    (tmp_path / "config.json").write_text("{}" if told is None else f'{{"torch_dtype": "{told}"}}')
    assert model_folder.parameter_shapes(str(tmp_path)) == [(numbers,)]


def test_a_model_that_is_not_here_has_none(tmp_path):
    assert model_folder.parameter_shapes("owner/name") == [] == model_folder.parameter_shapes(str(tmp_path))


@pytest.mark.parametrize(
    ("cpu", "stage", "ema", "critic", "a_number"),
    [
        (True, 2, False, False, 16),
        (False, 2, False, False, 14),
        (False, 2, False, True, 28),
        (False, 2, True, True, 28 + 2 * 6),
        (False, 3, True, False, 14 + 2),
    ],
)
def test_a_run_expects_what_its_options_make_of_it(tmp_path, monkeypatch, cpu, stage, ema, critic, a_number):
    monkeypatch.setattr("spo_rlhf.host.device.is_cpu", lambda: cpu)
    save_file({"a": torch.zeros(1000, 40, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    args = SimpleNamespace(
        actor=SimpleNamespace(model_name_or_path=str(tmp_path), num_nodes=3, num_gpus_per_node=2),
        critic=SimpleNamespace(model_name_or_path=str(tmp_path) if critic else None),
        ds=SimpleNamespace(zero_stage=stage, lora=SimpleNamespace(rank=0)),
        train=SimpleNamespace(enable_ema=ema),
        ckpt=SimpleNamespace(path=str(tmp_path), save_hf=False, disable_ds=False),
        damaged=[],
    )
    assert Saver(args, [], None, None).expected_bytes() == int(ROOM_TO_SPARE * a_number * 40_000)
