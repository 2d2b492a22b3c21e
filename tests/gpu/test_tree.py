"""A tree as one sequence with FlexAttention, whose backward no CPU has: log-probs and gradient of one sample per node."""

import itertools
import math

import pytest
import shapes
import torch

from spo_rlhf import upstream
from spo_rlhf.trainer.packed import PackedActor

pytestmark = pytest.mark.gpu
BRANCHING, SEGMENT, PROMPT, LAYERS, WORDS = (4, 4, 4), 48, 64, 4, 4096


def tree_rows(branching: tuple[int, ...], segment: int, prompt: int, words: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, T), padded on the right, and actions (B, T - 1), of one sample per node below the prompt."""
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> list[int]:
        return torch.randint(3, words, (count,), generator=generator).tolist()

    rows, front = [], [drawn(prompt)]
    for children in branching:
        front = [context + drawn(segment) for context in front for _ in range(children)]
        rows += front
    longest = max(map(len, rows))
    sequences = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
    place = torch.arange(1, longest)
    end = torch.tensor([len(row) for row in rows])[:, None]
    return sequences, (place >= end - segment) & (place < end)


def compare(device: str, attention: str, chunk: int, branching: tuple[int, ...] = BRANCHING) -> dict[str, float]:
    """Log-probs and gradient in float32, packed with `attention` and one sample per node with PyTorch's."""
    upstream.get_strategy  # noqa: B018  the first use of a name of `upstream` adapts the process
    from openrlhf.models import Actor
    from transformers import AutoModelForCausalLM

    configuration = shapes.config("qwen2.5-0.5b", vocabulary=WORDS)
    configuration.num_hidden_layers = LAYERS
    configuration.use_cache = False
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configuration, dtype=torch.float32, attn_implementation="sdpa").to(device)
    actor = Actor(model, temperature=0.7)
    actor.packing_samples = False
    sequences, actions = (part.to(device) for part in tree_rows(branching, SEGMENT, PROMPT, WORDS))
    weight = torch.randn(actions.shape, generator=torch.Generator().manual_seed(1)).to(device)
    plain, packed = actor.forward, PackedActor(actor, chunk_of=lambda words: chunk)

    def outcome(forward, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        found = []
        for some in torch.arange(len(sequences), device=device).split(rows):
            logp = forward(sequences[some], actions[some], (sequences[some] != 1).long())
            (logp * weight[some]).sum().backward()
            found.append(logp.detach())
        return torch.cat(found), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    logp, gradient = outcome(plain, 16)
    model.set_attn_implementation(attention)
    logp_packed, gradient_packed = outcome(packed, len(sequences))
    return {
        "logp_gap": float((logp_packed - logp).abs().max()),
        "gradient_gap": float((gradient_packed - gradient).norm() / gradient.norm()),
        "tokens": packed.unpacked,
        "packed_tokens": packed.forwarded,
    }


@pytest.mark.parametrize("chunk", [0, 512])
def test_a_packed_tree_has_the_gradient_of_its_nodes(chunk: int, figures: dict) -> None:
    figures |= {"chunk": chunk, **compare("cuda", "flex_attention", chunk)}
    nodes = sum(itertools.accumulate(BRANCHING, lambda count, children: count * children))
    # Each token once, but for the last one of a leaf, which predicts nothing.
    assert figures["packed_tokens"] == PROMPT + nodes * SEGMENT - math.prod(BRANCHING) < figures["tokens"]
    assert figures["logp_gap"] < 1e-3 and figures["gradient_gap"] < 1e-4
