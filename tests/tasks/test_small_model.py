"""The tokenizer and the model: exact text, one digit a token, and what is saved is what is loaded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from spo_rlhf.tasks.arithmetic import MAX_STEPS, PROMPT_TEMPLATE, generate
from spo_rlhf.tasks.small_model import CONTEXT_LENGTH, END_OF_TEXT, PADDING, build_model, build_tokenizer

GSM8K_LIKE = """\
Janet’s café sells 1,234.50 € worth of “tea”; that is 15% more than in May… How much did she sell in May?

She sold $<<1234.5/1.15=1073.48>>1,073.48 — rounded.\r\n\tSo 東京 🫖 \n\n\n#### 1073"""
PROBLEMS = generate(0, 600)


@pytest.fixture(scope="module")
def built():
    texts = [PROMPT_TEMPLATE.format(row["problem"]) + row["solution"] for row in PROBLEMS]
    tokenizer = build_tokenizer(texts)
    return tokenizer, build_model(tokenizer, seed=0)


@pytest.fixture(scope="module")
def loaded(built, tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    for part in built:
        part.save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)


def test_text_comes_back(loaded):
    tokenizer, _ = loaded
    for text in (GSM8K_LIKE, *(row["problem"] + "\n" + row["solution"] for row in PROBLEMS)):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_any_ascii_text_comes_back(loaded, text):
    tokenizer, _ = loaded
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_and_newlines_are_tokens_of_their_own(loaded):
    tokenizer, _ = loaded
    for text in (GSM8K_LIKE, PROMPT_TEMPLATE.format(PROBLEMS[0]["problem"]) + PROBLEMS[0]["solution"]):
        for token in map(tokenizer.decode, tokenizer(text)["input_ids"]):
            assert len(token) == 1 or not set(token) & set("0123456789\n"), repr(token)


def test_the_task_needs_few_tokens(loaded):
    tokenizer, _ = loaded
    prompts = [len(tokenizer(PROMPT_TEMPLATE.format(row["problem"]))["input_ids"]) for row in PROBLEMS]
    responses = [len(tokenizer(row["solution"])["input_ids"]) + 1 for row in PROBLEMS]
    assert sum(prompts) / len(prompts) < 60 and sum(responses) / len(responses) < 45
    assert max(responses) <= 64


def test_the_longest_problems_fit_the_context(loaded):
    tokenizer, _ = loaded
    for row in generate(0, 20, min_steps=MAX_STEPS, max_steps=MAX_STEPS):
        text = PROMPT_TEMPLATE.format(row["problem"]) + row["solution"]
        assert len(tokenizer(text)["input_ids"]) < CONTEXT_LENGTH


def test_a_prompt_ends_where_a_token_ends(loaded):
    tokenizer, _ = loaded
    for row in PROBLEMS[:100]:
        prompt = PROMPT_TEMPLATE.format(row["problem"])
        parts = (prompt, row["solution"], END_OF_TEXT)
        assert tokenizer("".join(parts))["input_ids"] == sum((tokenizer(part)["input_ids"] for part in parts), [])


def test_special_tokens(loaded):
    tokenizer, model = loaded
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (END_OF_TEXT, PADDING, None)
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert tokenizer.decode(tokenizer(f"1{END_OF_TEXT}")["input_ids"], skip_special_tokens=True) == "1"


def test_what_is_saved_is_what_is_loaded(built, loaded):
    for row in PROBLEMS[:50]:
        assert built[0](row["problem"])["input_ids"] == loaded[0](row["problem"])["input_ids"]
    ids = torch.arange(60).reshape(2, 30)
    with torch.no_grad():
        torch.testing.assert_close(built[1](ids).logits, loaded[1](ids).logits, rtol=0, atol=0)


def test_the_model_is_small_float32_and_fits_the_inference_engine(loaded):
    tokenizer, model = loaded
    assert model.config.architectures == ["Qwen2ForCausalLM"]
    assert 0.5e6 < model.num_parameters() < 5e6
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.hidden_size // model.config.num_attention_heads % 32 == 0
    assert model.config.vocab_size == len(tokenizer) and model.config.max_position_embeddings == CONTEXT_LENGTH
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_weights_follow_the_seed_and_leave_the_random_stream_alone(built):
    tokenizer, model = built
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again, other = build_model(tokenizer, seed=0), build_model(tokenizer, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, again.model.layers[0].mlp.up_proj.weight)
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, other.model.layers[0].mlp.up_proj.weight)
