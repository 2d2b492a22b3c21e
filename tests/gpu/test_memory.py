"""Log-probs of a large vocabulary: their logits exist in chunks, and the memory they take is that of a chunk."""

import pytest
import shapes
import torch

from spo_rlhf import upstream
from spo_rlhf.upstream_logits import chunk_logits

pytestmark = pytest.mark.gpu
ROWS, LENGTH, CHUNK = 4, 2048, 1024
FLOAT32 = 4


def peak_bytes(chunk: int) -> int:
    """Of forward and backward of a one-layer model with the words of Qwen2.5, beyond weights and gradients."""
    upstream.get_strategy  # noqa: B018  the first use of a name of `upstream` adapts the process
    from openrlhf.models import Actor
    from transformers import AutoModelForCausalLM

    configuration = shapes.config("qwen2.5-0.5b")
    configuration.num_hidden_layers = 1
    model = AutoModelForCausalLM.from_config(configuration, dtype=torch.bfloat16, attn_implementation="sdpa").cuda()
    actor = Actor(model, temperature=0.6)
    actor.packing_samples = False
    chunk_logits(actor, lambda words: chunk)
    sequences = torch.randint(3, configuration.vocab_size, (ROWS, LENGTH), device="cuda")
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    actor(
        sequences, torch.ones_like(sequences)[:, 1:].bool(), attention_mask=torch.ones_like(sequences)
    ).sum().backward()
    return torch.cuda.max_memory_allocated() - before


def test_logits_take_the_memory_of_a_chunk(figures: dict) -> None:
    words = shapes.config("qwen2.5-0.5b").vocab_size
    whole, chunked = ROWS * LENGTH * words * FLOAT32, CHUNK * words * FLOAT32
    figures |= {"peak_bytes": peak_bytes(CHUNK), "logits_bytes": whole, "chunk_bytes": chunked}
    # A few copies of a chunk, in either precision, and the activations; whole, one copy of the logits alone is twice as much.
    assert figures["peak_bytes"] < 6 * chunked < whole
