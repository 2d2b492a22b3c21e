"""Model folders that are not whole, found without loading them."""

import json
import struct

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.host import model_folder

HEADER = json.dumps(
    {"__metadata__": {"format": "pt"}, "weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
).encode()
WHOLE = struct.pack("<Q", len(HEADER)) + HEADER + bytes(8)


@pytest.fixture
def refused(tmp_path):
    """Checks a folder with these files (name -> content); the one line that refuses it."""

    def check(files: dict[str, bytes], **options) -> str:
        for name, content in {"config.json": b"{}", **files}.items():
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            model_folder.check_folder(tmp_path, "--model", **{"with_weights": True, **options})
        assert str(caught.value).startswith(f"--model {tmp_path}: ") and "\n" not in str(caught.value)
        return str(caught.value)

    return check


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no whole safetensors file"),
        (WHOLE[:20], "is no whole safetensors file"),
        (WHOLE[:-1], f"has {len(WHOLE) - 1} bytes and its header says {len(WHOLE)}"),
        (WHOLE + b"\0", f"has {len(WHOLE) + 1} bytes and its header says {len(WHOLE)}"),
        (bytes(100), "has no readable header"),
        (struct.pack("<Q", 2) + b"[]", "has no readable header"),
        (struct.pack("<Q", 2**40) + HEADER, "is no whole safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8\n", "is a Git LFS pointer"),
    ],
)
def test_a_weights_file_that_is_not_whole(refused, content, says):
    assert f"model.safetensors {says}" in refused({"model.safetensors": content})


def test_a_shard_that_the_index_names_and_that_is_missing(refused):
    index = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
    assert "two.safetensors is missing" in refused({"model.safetensors.index.json": index, "one.safetensors": WHOLE})


@pytest.mark.parametrize("config", [b"{", b"[]"])
def test_a_configuration_that_is_no_object(refused, config):
    assert "config.json" in refused({"config.json": config, "model.safetensors": WHOLE})


def test_no_weights_are_refused_where_they_are_needed(refused, tmp_path):
    assert "it has no weights" in refused({})
    model_folder.check_folder(tmp_path, "--model", with_weights=False)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_whole_folders_pass(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(WHOLE)
    model_folder.check_folder(tmp_path, "--model", with_weights=True)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({}, None),
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 4096}}, 4096),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 2.0}}, 4096),
        ({"max_position_embeddings": 2048, "rope_scaling": None}, 2048),
        ({"max_position_embeddings": 2048, "rope_parameters": {"rope_theta": 1e6}}, 2048),
    ],
)
def test_positions_of_a_configuration(config, limit):
    assert model_folder.positions(config) == limit
