"""Weights that are not those of the model that a folder's configuration makes, and every whole folder there is."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from spo_rlhf.errors import UserError
from spo_rlhf.host.model_class import check_weights
from spo_rlhf.host.weights import read_pickle

SIZE = dict(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
)
UP = "model.layers.1.mlp.up_proj.weight"


def save(folder: Path, model=None, **options) -> Path:
    """A folder of the model, by default an untied Qwen2."""
    (model or Qwen2ForCausalLM(Qwen2Config(**SIZE))).save_pretrained(folder, **options)
    return folder


@pytest.fixture
def refused(tmp_path) -> Callable[..., str]:
    """Changes tensors and configuration of a whole folder; the one line that refuses it."""

    def check(change: Callable[[dict], None] = lambda _: None, **config) -> str:
        folder = save(tmp_path / "model")
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        told = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(told))
        with pytest.raises(UserError) as caught:
            check_weights(folder, "--model")
        assert str(caught.value).startswith(f"--model {folder}: ") and "\n" not in str(caught.value)
        return str(caught.value)

    return check


def test_tensors_that_the_model_needs_and_the_folder_lacks(refused):
    assert f"lack {UP}, which would be random" in refused(lambda tensors: tensors.pop(UP))
    assert "lack lm_head.weight," in refused(lambda tensors: tensors.pop("lm_head.weight"))

    def rename(tensors):
        for name in list(tensors):
            if ".layers.1." in name:
                tensors[name.replace("layers.1", "zzz.1")] = tensors.pop(name)

    assert "lack model.layers.1." in (says := refused(rename)) and " and 11 more" in says


def test_tensors_of_another_shape(refused):
    def turn(tensors):
        tensors[UP] = tensors[UP].T.contiguous()

    assert f"{UP} 64 x 32 there 32 x 64" in refused(turn)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (dict(intermediate_size=128), "down_proj.weight 32 x 128 there 32 x 64"),
        (dict(num_key_value_heads=2), "k_proj.bias 32 there 16"),
        (dict(num_attention_heads=1, head_dim=8), "k_proj.bias 8 there 16"),
        (dict(num_hidden_layers=3, layer_types=None), "lack model.layers.2."),
        (dict(hidden_act="no_such"), "make no model (KeyError: "),
    ],
)
def test_a_configuration_of_another_model(refused, config, says):
    assert says in refused(**config)


@pytest.mark.parametrize(
    "model",
    [
        BertForMaskedLM(BertConfig(**{name: size for name, size in SIZE.items() if "key_value" not in name})),
        T5ForConditionalGeneration(T5Config(vocab_size=48, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)),
    ],
)
def test_a_model_that_continues_no_prompt(tmp_path, model):
    with pytest.raises(UserError, match="reads text and writes none"):
        check_weights(save(tmp_path, model), "--model")


def test_a_bias_that_the_configuration_knows_nothing_of(refused):
    assert "its weights have model.layers.0.self_attn.k_proj.bias and 5 more" in refused(model_type="llama")


@pytest.mark.parametrize("named", ["BertModel", "Qwen2Model", "Qwen2ForSequenceClassification"])
def test_an_architecture_that_writes_no_text(refused, named):
    assert f"names the architecture {named}, which writes no text" in refused(architectures=[named])


def test_weights_under_a_name_that_transformers_does_not_look_for(tmp_path):
    folder = save(tmp_path)
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    assert check_weights(folder, "--model") == [], "the engine takes any"
    with pytest.raises(UserError, match="have other names than model.safetensors"):
        check_weights(folder, "--model", trains=True)


@pytest.mark.parametrize("first", ["model.safetensors", "pytorch_model.bin"])
def test_weights_of_which_transformers_would_load_some_files_alone(tmp_path, first):
    folder = save(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    some = {name: tensor for name, tensor in tensors.items() if ".layers.1." not in name}
    (folder / "model.safetensors").unlink()
    if first == "model.safetensors":
        save_file(some, folder / first, metadata={"format": "pt"})
        save_file({name: tensors[name] for name in tensors.keys() - some.keys()}, folder / "rest.safetensors")
    else:
        torch.save(some, folder / first)
        save_file(tensors, folder / "rest.safetensors")
    with pytest.raises(UserError, match=r"transformers passes over rest.safetensors of its weights"):
        check_weights(folder, "--model", trains=True)
    assert check_weights(folder, "--model") == [], "the engine takes all"


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_whole_numbers_that_no_quantization_explains(refused, dtype):
    assert f"{UP} is of whole numbers" in refused(lambda tensors: tensors.update({UP: tensors[UP].to(dtype)}))


def test_two_matrices_where_the_configuration_says_that_they_are_one(refused, tmp_path):
    tied = dict(tie_word_embeddings=True)
    assert "says tie_word_embeddings, and lm_head.weight is not model.embed" in refused(**tied)
    folder = save(tmp_path / "copied", Qwen2ForCausalLM(Qwen2Config(**SIZE, tie_word_embeddings=True)))
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert check_weights(folder, "--model", trains=True) == []


def test_tensors_that_the_model_does_not_take_are_told(tmp_path):
    folder = save(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "zzz.weight": torch.zeros(2), "zzz.bias": torch.zeros(2)}, folder / "model.safetensors")
    [note] = check_weights(folder, "--model")
    assert "takes zzz.bias and 1 more of the weights" in note


QWEN3 = Qwen3ForCausalLM(Qwen3Config(**SIZE, head_dim=16))
WHOLE = {
    "qwen2": Qwen2ForCausalLM(Qwen2Config(**SIZE)),
    "qwen2 tied": Qwen2ForCausalLM(Qwen2Config(**SIZE, tie_word_embeddings=True)),
    "llama": LlamaForCausalLM(LlamaConfig(**SIZE)),
    "llama tied": LlamaForCausalLM(LlamaConfig(**SIZE, tie_word_embeddings=True)),
    "qwen3": QWEN3,
    "bfloat16": Qwen2ForCausalLM(Qwen2Config(**SIZE)).bfloat16(),
    # Of merged experts in memory, and of separate ones in the file.
    "mixtral": MixtralForCausalLM(MixtralConfig(**SIZE, num_local_experts=4)),
    "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=48, n_embd=32, n_layer=2, n_head=2)),
}


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "20KB"}], ids=["one file", "several"])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_folders_pass(tmp_path, name, options):
    folder = save(tmp_path, WHOLE[name], **options)
    assert len(list(folder.glob("*.safetensors"))) > 1 or not options
    assert check_weights(folder, "--model", trains=True) == []
    AutoModelForCausalLM.from_pretrained(folder)


def test_old_names_and_what_an_old_version_saved_beside_pass(tmp_path):
    folder = save(tmp_path, WHOLE["gpt2"])
    tensors = load_file(folder / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64) for layer in range(2)}
    save_file({name: tensor for name, tensor in old.items() if name != "lm_head.weight"}, folder / "model.safetensors")
    assert check_weights(folder, "--model") == []
    folder = save(tmp_path / "llama", WHOLE["llama"])
    tensors = load_file(folder / "model.safetensors")
    rotary = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(2)}
    save_file(tensors | rotary, folder / "model.safetensors")
    assert check_weights(folder, "--model") == []


def test_files_of_torch_are_read_and_run_nothing(tmp_path):
    folder = save(tmp_path, WHOLE["qwen2 tied"])
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(tensors, file)
    assert check_weights(folder, "--model") == []
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    assert check_weights(folder, "--model") == []
    torch.save({name: tensor for name, tensor in tensors.items() if name != UP}, file)
    with pytest.raises(UserError, match="lack model"):
        check_weights(folder, "--model")
    embedding = {"model.embed_tokens.weight": tensors["model.embed_tokens.weight"] * 0}
    for changed, says in (
        (tensors | embedding, "all numbers of model.embed_tokens.weight are 0"),
        ({"w": torch.zeros(2, 2), "v": torch.ones(2)}, "all numbers of its matrices are 0"),
    ):
        torch.save(changed, file)
        with pytest.raises(UserError, match=says):
            check_weights(folder, "--model")
    torch.save({"w": torch.zeros(2, 2, device="meta")}, file)
    with pytest.raises(UserError, match="holds no tensors"):
        check_weights(folder, "--model")
    torch.save(tensors | {UP: tensors[UP] * torch.nan}, file)
    with pytest.raises(UserError, match="not finite"):
        check_weights(folder, "--model")
    for content in (b"PK\x03\x04 and more", b"\x80\x02and more", file.read_bytes()[:-100]):
        file.write_bytes(content)
        with pytest.raises(UserError, match="pytorch_model.bin cannot be read"):
            check_weights(folder, "--model")
    torch.save({"a": Run()}, file)
    with pytest.raises(UserError, match="pytorch_model.bin cannot be read"):
        check_weights(folder, "--model")


@pytest.mark.parametrize(
    "matrix",
    [
        torch.ones(4, 4).to(torch.float8_e4m3fn),  # torch knows no finite numbers of it
        torch.zeros(4, 4, dtype=torch.int8),
        torch.eye(4).to_sparse(),
        torch.empty(0, 4),
    ],
    ids=["8 bits", "whole numbers", "sparse", "empty"],
)
def test_files_of_torch_may_hold_what_has_no_plain_numbers(tmp_path, matrix):
    torch.save({"w": matrix, "v": torch.zeros(2, 2), "model.embed_tokens.weight": torch.ones(2, 2)}, tmp_path / "w.bin")
    assert read_pickle(tmp_path / "w.bin")["w"] == tuple(matrix.shape)


class Run:
    """What a hostile file holds: unpickled, it would end the test."""

    def __reduce__(self):
        return pytest.exit, ("it ran",)


def test_models_with_another_head(tmp_path):
    folder = save(tmp_path / "body", Qwen2Model(Qwen2Config(**SIZE)))
    assert check_weights(folder, "--critic", role="critic") == []
    with pytest.raises(UserError, match=r"names the architecture Qwen2Model"):
        check_weights(folder, "--model")
    with pytest.raises(UserError, match=r"lack score.weight"):
        check_weights(folder, "--reward", role="reward")
    tensors = load_file(folder / "model.safetensors")
    save_file({f"model.{name}": tensor for name, tensor in tensors.items()} | {"score.weight": torch.ones(1, 32)},
              folder / "model.safetensors")  # fmt: skip
    assert check_weights(folder, "--reward", role="reward") == []


def test_a_model_that_transformers_does_not_know_is_left_to_the_engine(tmp_path):
    folder = save(tmp_path)
    shutil.copy(folder / "model.safetensors", tmp_path / "kept")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    for kind in ({"model_type": "no_such"}, {}, {"model_type": "no_such", "auto_map": {"AutoConfig": "c.C"}}):
        (folder / "config.json").write_text(json.dumps(kind))
        assert check_weights(folder, "--model") == []
    quantized = Qwen2Config(**SIZE).to_dict() | {"quantization_config": {"quant_method": "awq"}}
    (folder / "config.json").write_text(json.dumps(quantized))
    assert check_weights(folder, "--model") == []
