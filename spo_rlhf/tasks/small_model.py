"""A Qwen2 model of about a million parameters and its tokenizer, from scratch, for tasks that make their own text."""

from collections.abc import Iterable

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

END_OF_TEXT, PADDING = "<|endoftext|>", "<|padding|>"
CONTEXT_LENGTH = 2048
# The usual 0.02 is meant for models ten times as wide; with it the small one needs about twice the steps.
_INITIAL_STD = 0.06


def build_tokenizer(texts: Iterable[str], vocabulary_size: int = 512) -> Qwen2Tokenizer:
    """Train a byte-level BPE tokenizer. Any text in Unicode's composed form (NFC) comes back exactly.

    Each digit is a token of its own, and so is each newline; nothing is put before a text. The rules that split text
    before BPE are Qwen2's: whatever a tokenizer file says, transformers applies those to every Qwen2 model.
    """
    blank = Qwen2Tokenizer(eos_token=END_OF_TEXT, pad_token=PADDING)
    # Line by line: a newline that training never sees is never merged with the sign before it.
    lines = (line for text in texts for line in text.splitlines())
    tokenizer = blank.train_new_from_iterator(lines, vocabulary_size, show_progress=False)
    tokenizer.padding_side, tokenizer.model_max_length = "left", CONTEXT_LENGTH
    return tokenizer


def build_model(tokenizer: Qwen2Tokenizer, seed: int, hidden_size: int = 128, layers: int = 3) -> Qwen2ForCausalLM:
    """Return a float32 model with random weights drawn from `seed`; other random streams are left as they were.

    `hidden_size` is a multiple of 64: heads of 32 (which the inference engine supports on CPUs too), two to each
    key-value head.
    """
    heads = hidden_size // 32
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        initializer_range=_INITIAL_STD,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]  any token's
        pad_token_id=tokenizer.pad_token_id,  # pyright: ignore[reportArgumentType]  attribute
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)
