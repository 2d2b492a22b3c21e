"""OpenRLHF's command line, run from its source: what it gives, and a source of another layout refused in one line."""

import json

import pytest
from letters import make_tokenizer

from spo_rlhf import upstream
from spo_rlhf.errors import UserError

AS_RELEASED = """
import argparse

def train(args):
    raise RuntimeError("must not be called")

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--actor.num_nodes", type=int, default=1)
    args = parser.parse_args()
    assert args.x > 0, "x must be positive"
    args.x += 1
    train(args)
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Puts a text in the place of OpenRLHF's command."""
    path = tmp_path / "train_ppo_ray.py"
    monkeypatch.setattr(upstream, "_cli_path", lambda cli: str(path))
    return path.write_text


def test_the_block_is_taken_apart_around_the_parsing(source):
    source(AS_RELEASED)
    parser = upstream.build_parser()
    assert vars(parser.parse_args([])) == {"actor.num_nodes": 1}
    _, validation = upstream._main_statements("train_ppo_ray")
    assert len(validation) == 2, "train(args) is left out"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('if __name__ == "__main__":', "if True:"),
        ("    args = parser.parse_args()", "    args, rest = parser.parse_known_args()"),
        ("    args = parser.parse_args()", "    args = parser.parse_args()\n    args = parser.parse_args()"),
        ("    args.x += 1\n    train(args)", "    train(args)\n    args.x += 1"),
        ("    train(args)\n", "    train(args)\n\nprint('one more statement')\n"),
        (AS_RELEASED, ""),
        (AS_RELEASED, "'''a module with a docstring alone'''"),
    ],
)
def test_another_layout_of_the_same_version_is_refused_in_one_line(source, old, new):
    assert old in AS_RELEASED
    source(AS_RELEASED.replace(old, new))
    with pytest.raises(UserError) as refusal:
        upstream.build_parser()
    message = str(refusal.value)
    assert "is not OpenRLHF 0.11.2 as released" in message and "pip install --force-reinstall" in message
    assert "\n" not in message and "train_ppo_ray.py" in message


@pytest.mark.parametrize("cli", ["train_ppo_ray", "train_sft", "train_dpo"])
def test_the_installed_commands_have_the_expected_layout(cli):
    building, validation = upstream._main_statements(cli)
    assert len(building) > 10 and validation
    assert upstream.build_parser(cli).parse_args([]) is not None


def test_a_name_it_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'PolicyLos'"):
        _ = upstream.PolicyLos


@pytest.mark.parametrize(
    ("listed", "plain"),
    [
        ("9.0a", "9.0"),
        ("8.0 9.0a+PTX", "8.0 9.0+PTX"),
        ("8.9;10.0f;12.0", "8.9;10.0;12.0"),
        ("8.0;9.0+PTX", "8.0;9.0+PTX"),
    ],
)
def test_deepspeed_gets_architectures_that_it_can_read(listed, plain):
    assert upstream.plain_architectures(listed) == plain
    for name in plain.replace(";", " ").split():  # as DeepSpeed's op builder sorts them
        assert [int(part.split("+")[0]) for part in name.split(".")]


def tiny_llama(*, tied: bool = True):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=tied, **sizes))


def save_as_openrlhf(model, tokenizer, folder) -> None:
    """Through what is changed of OpenRLHF's saving, with its copy of the weights."""

    class Strategy:
        def is_rank_0(self):
            return True

        def _unwrap_model(self, model):
            return model

        def save_model(self, model, tokenizer, output_dir, **kwargs):
            copies = {name: weight.clone() for name, weight in self._unwrap_model(model).state_dict().items()}
            model.save_pretrained(output_dir, state_dict=copies, **kwargs)
            tokenizer.save_pretrained(output_dir)

    upstream._save_sound_folders(Strategy)
    Strategy().save_model(model, tokenizer, folder)


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_layer_tied_to_the_embedding_is_saved_once(tied, tmp_path):
    from safetensors import safe_open
    from transformers import LlamaForCausalLM

    model = tiny_llama(tied=tied)
    save_as_openrlhf(model, make_tokenizer(), tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "model.embed_tokens.weight" in names
    assert ("lm_head.weight" in names) is not tied
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert all((again.state_dict()[name] == weight).all() for name, weight in model.state_dict().items())
    assert "save_pretrained" not in vars(model), "the model is as it was"


def test_a_tokenizer_that_was_told_to_cut_is_saved_whole(tmp_path):
    """OpenRLHF's supervised data sets set a longest length, which would go along into tokenizer.json."""
    tokenizer = make_tokenizer()
    tokenizer(["a b", "a"], truncation=True, max_length=2, padding=True)
    assert tokenizer.backend_tokenizer.truncation and tokenizer.backend_tokenizer.padding

    save_as_openrlhf(tiny_llama(), tokenizer, tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["truncation"] is None and saved["padding"] is None
    assert upstream.DeepspeedStrategy.save_model.__wrapped__, "OpenRLHF's own is not the one that is wrapped"
