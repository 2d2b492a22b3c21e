"""Model folders that are not whole, found without loading them."""

import json
import math
import struct

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.host import model_folder
from spo_rlhf.host import weights as weights_module

HEADER = json.dumps(
    {"__metadata__": {"format": "pt"}, "weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
).encode()
WHOLE = struct.pack("<Q", len(HEADER)) + HEADER + bytes(8)


def weights(*tensors: tuple[str, str, list[int], bytes], shape: list[int] | None = None) -> bytes:
    """A safetensors file of (name, type, shape, data); with `shape` each says that it has this one."""
    header, data = {}, b""
    for name, dtype, own, content in tensors:
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape or own, "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


DECODER = weights(
    ("model.embed_tokens.weight", "F32", [4, 2], struct.pack("<8f", 1, *[0] * 7)),
    ("model.layers.0.norm.weight", "BF16", [2], bytes(4)),
)


@pytest.fixture
def refused(tmp_path):
    """Checks a folder with these files (name -> content); the one line that refuses it."""

    def check(files: dict[str, bytes], **options) -> str:
        for name, content in {"config.json": b"{}", **files}.items():
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            model_folder.check_folder(tmp_path, "--model", **options)
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
        (weights(), "holds no tensors"),
        (weights(("w", "F32", [2], bytes(8)), shape=[3]), ": w is 3 of F32 and has 8 bytes"),
        (weights(("w", "F32", [2], bytes(8)), shape=[-2]), "has no readable header"),
        (weights(("w", "F32", [2], struct.pack("<ff", 1, math.nan))), "has numbers that are not finite, in w"),
        (weights(("w", "F64", [1], struct.pack("<d", -math.inf))), "has numbers that are not finite, in w"),
        (weights(("w", "F16", [1], struct.pack("<e", math.nan))), "has numbers that are not finite, in w"),
        (weights(("w", "BF16", [1], struct.pack("<f", math.nan)[2:])), "has numbers that are not finite, in w"),
        (struct.pack("<Q", 2**40) + HEADER, "is no whole safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8\n", "is a Git LFS pointer"),
    ],
)
def test_a_weights_file_that_is_not_whole(refused, content, says):
    assert f"model.safetensors{'' if says[0] == ':' else ' '}{says}" in refused({"model.safetensors": content})


def test_a_shard_that_the_index_names_and_that_is_missing(refused):
    index = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
    assert "two.safetensors is missing" in refused({"model.safetensors.index.json": index, "one.safetensors": WHOLE})


def test_an_index_of_other_files_beside_weights_in_one_file(refused):
    index = json.dumps({"weight_map": {"a": "one.safetensors"}}).encode()
    files = {"model.safetensors.index.json": index, "one.safetensors": WHOLE, "model.safetensors": WHOLE}
    assert "it names other files, and model.safetensors is there too" in refused(files)


def test_a_generation_config_that_is_none(refused):
    for content in (b"{", b"[]"):
        told = refused({"generation_config.json": content, "model.safetensors": WHOLE})
        assert "generation_config.json is no JSON object" in told


@pytest.mark.parametrize("content", [[], {}, {"a": 1}, {"weight_map": "abc"}, {"weight_map": [1]}, {"weight_map": {}},
                                     {"weight_map": {"a": 1}}, {"weight_map": {"a": "../one.safetensors"}}])  # fmt: skip
def test_an_index_that_names_no_files(refused, content):
    assert "model.safetensors.index.json: " in refused({"model.safetensors.index.json": json.dumps(content).encode()})


@pytest.mark.parametrize(
    "config",
    [
        b"{",
        b"[]",
        b'{"max_position_embeddings": "abc"}',
        b'{"vocab_size": 0}',
        b'{"intermediate_size": "big"}',
        b'{"num_attention_heads": 4, "num_key_value_heads": 3}',
        b'{"hidden_size": 1.5}',
        b'{"rope_scaling": {"factor": "x"}}',
        b'{"rope_parameters": {"factor": -1}}',
        b'{"rope_scaling": "linear"}',
        b'{"text_config": [1]}',
        b'{"text_config": {"max_position_embeddings": "abc"}}',
    ],
)
def test_a_configuration_that_is_none(refused, config):
    assert "config.json: " in refused({"config.json": config, "model.safetensors": WHOLE})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"hidden_size": 3}, "config.json says hidden_size 3 and model.embed_tokens.weight is 4 x 2"),
        ({"vocab_size": 5}, "config.json says vocab_size 5 and model.embed_tokens.weight is 4 x 2"),
        ({"text_config": {"vocab_size": 5}}, "config.json says vocab_size 5"),
        ({"num_hidden_layers": 2}, "config.json says num_hidden_layers 2 and the weights have 1"),
    ],
)
def test_weights_of_another_size_than_the_configuration_says(refused, config, says):
    assert says in refused({"config.json": json.dumps(config).encode(), "model.safetensors": DECODER})


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("ends", [4, -1, [4, 5], "</s>", [1, "</s>"]])
def test_an_end_that_is_no_token(refused, file, ends):
    files = {"config.json": {"vocab_size": 4}, "model.safetensors": WHOLE}
    files[file] = {"vocab_size": 4, "eos_token_id": ends}
    files = {name: json.dumps(text).encode() if isinstance(text, dict) else text for name, text in files.items()}
    assert f"{file} says eos_token_id {ends} and the vocabulary has 4 tokens" in refused(files)


@pytest.mark.parametrize("ends", [0, 3, [3, 7], None, []])
def test_ends_that_are_tokens_pass(tmp_path, ends):
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 4, "eos_token_id": ends}))
    (tmp_path / "model.safetensors").write_bytes(WHOLE)
    model_folder.check_folder(tmp_path, "--model")


def test_weights_of_the_size_of_the_configuration_pass(tmp_path):
    for config in (
        {"hidden_size": 2, "vocab_size": 4, "num_hidden_layers": 1},
        {"hidden_size": 8, "embedding_size": 2},
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes(DECODER)
        model_folder.check_folder(tmp_path, "--model")


def test_a_large_file_is_not_read_but_for_its_vectors(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "READ_WHOLE", 8)
    nan = struct.pack("<f", math.nan)
    (tmp_path / "config.json").write_text("{}")
    held = weights(("w", "F32", [1, 1], nan), ("mask", "F32", [1], nan), ("x", "F32", [1, 1], struct.pack("<f", 1)))
    (tmp_path / "model.safetensors").write_bytes(held)
    model_folder.check_folder(tmp_path, "--model")
    assert "not finite, in norm" in refused({"model.safetensors": weights(("norm", "F32", [1], nan))})


ZERO, ONE = bytes(8), struct.pack("<ff", 0, 1)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([("model.embed_tokens.weight", ZERO), ("w", ONE)], "all numbers of model.embed_tokens.weight are 0"),
        ([("model.embed_tokens.weight", ONE), ("lm_head.weight", ZERO)], "all numbers of lm_head.weight are 0"),
        ([("lm_head.weight", struct.pack("<ff", -0.0, 0)), ("w", ONE)], "all numbers of lm_head.weight are 0"),
        ([("w", ZERO), ("v", ZERO)], "all numbers of its matrices are 0"),
        ([("model.embed_tokens.weight", ONE), ("w", ZERO)], None),  # a layer may begin with a matrix of 0
        ([("w", ZERO), ("v", ONE)], None),
        ([("w", struct.pack("<ff", 0, 1e-44))], None),
    ],
)
@pytest.mark.parametrize("read_whole", [True, False])
def test_weights_that_are_0_throughout(refused, tmp_path, monkeypatch, read_whole, tensors, says):
    monkeypatch.setattr(weights_module, "READ_WHOLE", 1 << 20 if read_whole else 8)
    content = weights(*((name, "F32", [2, 1], data) for name, data in tensors))
    if says:
        assert says in refused({"model.safetensors": content})
        return
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(content)
    model_folder.check_folder(tmp_path, "--model")


@pytest.mark.parametrize(
    ("at", "number", "says"),
    [
        (0, math.nan, "not finite"),
        (200, math.inf, "not finite"),
        (399, 1.0, "are 0"),
        (3, math.nan, "are 0"),
        (300, 1.0, None),
    ],
)
def test_of_an_embedding_in_a_large_file_samples_are_read(refused, tmp_path, monkeypatch, at, number, says):
    """Four places of two numbers, at 0, 100, 200 and 300 of 400."""
    monkeypatch.setattr(weights_module, "READ_WHOLE", 8)
    monkeypatch.setattr(weights_module, "SAMPLES", 4)
    monkeypatch.setattr(weights_module, "SAMPLE", 8)
    numbers = [0.0] * 400
    numbers[at] = number
    content = weights(("wte.weight", "F32", [200, 2], struct.pack("<400f", *numbers)))
    if says:
        assert says in refused({"model.safetensors": content})
    else:
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "model.safetensors").write_bytes(content)
        model_folder.check_folder(tmp_path, "--model")


@pytest.mark.parametrize("content", [b"", b"not found", b"version https://git-lfs.github.com/spec/v1"])
def test_a_file_of_torch_that_holds_no_weights(refused, content):
    assert "pytorch_model.bin is " in refused({"pytorch_model.bin": content})


@pytest.mark.parametrize("name", ["none", "optimizer.pt", "adapter_model.safetensors", "rng_state.pth"])
def test_no_weights_are_refused(refused, name):
    assert "it has no weights" in refused({name: WHOLE})


def test_an_adapter_beside_a_model_is_refused(refused):
    """transformers would load the adapter, and the model that it is for from wherever it says; the engine this model."""
    assert "an adapter lies beside" in refused({"model.safetensors": WHOLE, "adapter_config.json": b"{}"})


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_whole_folders_pass(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(WHOLE if name.endswith(".safetensors") else b"PK\x03\x04 and more")
    model_folder.check_folder(tmp_path, "--model")


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
