"""Models of known shapes with random weights: time, memory and rounding depend on the shape, not on what was learned."""

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

# hidden, intermediate, layers, heads, key-value heads, vocabulary
SHAPES = {
    "tiny": (64, 128, 2, 4, 2, 512),
    "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 151936),
    "qwen2.5-1.5b": (1536, 8960, 28, 12, 2, 151936),
}


def config(shape: str, vocabulary: int | None = None) -> Qwen2Config:
    """The configuration of a shape, with another vocabulary perhaps."""
    hidden, intermediate, layers, heads, kv_heads, words = SHAPES[shape]
    return Qwen2Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary or words,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )


def save(folder: Path, configuration: Qwen2Config, device: str, seed: int = 0) -> Path:
    """Random bfloat16 weights as a Hugging Face folder."""
    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen2ForCausalLM(configuration)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    return folder
