"""A Qwen2 model of about a million parameters and its tokenizer, from scratch, for tasks that make their own text."""

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

END_OF_TEXT, PADDING = "<|endoftext|>", "<|padding|>"
CONTEXT_LENGTH = 2048

# Each newline and each digit is a token of its own, so that a line ends where a token ends and numbers of any length
# are made of the same ten parts. Words and signs take the spaces around them along: fewer tokens, no lone spaces.
_PIECES = Regex(r"\n|[0-9]| ?\p{L}+ ?| ?[^\s\p{L}0-9]+ ?")
# The usual 0.02 is meant for models ten times as wide; with it the small one needs about twice the steps.
_INITIAL_STD = 0.06


def build_tokenizer(texts: Iterable[str], vocabulary_size: int = 512) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer. Any text comes back exactly; there is no beginning-of-text token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_PIECES, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        padding_side="left",
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, hidden_size: int = 128, layers: int = 3
) -> Qwen2ForCausalLM:
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
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)
