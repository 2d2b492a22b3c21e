"""OpenRLHF's Actor with every shared prefix computed once: its rows packed into one sequence (core/packing.py).

What comes out has OpenRLHF's layout, a row for each sample, so the loss, its mask and its metrics do not know of it.
"""

import inspect
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from spo_rlhf import upstream
from spo_rlhf.core.packing import Packed, dense_mask, pack, sees

# Attention of transformers that takes a mask of our own: PyTorch's with a dense one, FlexAttention with a function.
ATTENTION = ("sdpa", "flex_attention")


class PackedActor:
    """In place of `Actor.forward`, for text models with full causal attention: same arguments, same results.

    Log-probs are computed where the action mask asks for them, so nothing else needs logits.
    """

    def __init__(self, actor: Any):
        self.actor = actor
        self.forwarded = self.unpacked = 0  # tokens since the start: computed, and what they are without packing

    def __call__(
        self,
        sequences: torch.Tensor,
        action_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        return_output: bool = False,
        return_entropy: bool = False,
        **_: Any,
    ) -> Any:
        """Log-probs (B, T - 1) of the actions, 0 elsewhere; with `return_output` also their entropies, where asked for."""
        assert action_mask is not None and attention_mask is not None, "the trainer always hands them in"
        row_N, column_N = wanted(action_mask)
        last_B = [int(column_N[row_N == row].max(initial=-1)) for row in range(len(sequences))]
        inputs = [sequences[row, : last + 1].tolist() for row, last in enumerate(last_B)]
        self.unpacked += sum(len(row) for row in inputs)
        packed = pack(inputs)
        self.forwarded += len(packed)
        source_N = np.array([packed.place[row][column] for row, column in zip(row_N, column_N, strict=True)])
        place_U, index_N = np.unique(source_N, return_inverse=True)
        logits_UV = self._logits(packed, torch.from_numpy(place_U), sequences.device)
        rows, columns = (torch.from_numpy(part).to(sequences.device) for part in (row_N, column_N))
        index = torch.from_numpy(index_N).to(sequences.device)
        # As PyTorch's log_softmax, without a second tensor of the logits' size.
        logp_N = logits_UV[index, sequences[rows, columns + 1]] - logits_UV.logsumexp(-1)[index]
        logp = logp_N.new_zeros(action_mask.shape).index_put((rows, columns), logp_N) * action_mask.float()
        if not return_output:
            return logp
        output = SimpleNamespace()
        if return_entropy:
            entropy_U = logits_UV.logsumexp(-1) - (logits_UV.softmax(-1) * logits_UV).sum(-1)
            entropy_N = entropy_U[index]
            output.entropy = entropy_N.new_zeros(action_mask.shape).index_put((rows, columns), entropy_N)
        return logp, output

    def _logits(self, packed: Packed, place_U: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Logits (U, V) at these places, float32, at the sampling temperature."""
        model = self.actor.model
        module = getattr(model, "module", model)  # below DeepSpeed's engine
        arguments: dict[str, Any] = {
            "attention_mask": attention(packed, module.config._attn_implementation, device),
            "position_ids": torch.from_numpy(packed.position_P)[None].to(device),
        }
        narrow = "logits_to_keep" in inspect.signature(module.forward).parameters
        if narrow:
            arguments["logits_to_keep"] = place_U.to(device)
        output = model(torch.from_numpy(packed.token_P)[None].to(device), **arguments)
        logits_UV = output["logits"][0] if narrow else output["logits"][0, place_U.to(device)]
        return logits_UV.float() / self.actor.temperature


def wanted(action_mask: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N,) and columns (N,) of the actions; one of another token where there is none, so that there is a graph."""
    row_N, column_N = action_mask.cpu().bool().numpy().nonzero()
    if not len(row_N):
        row_N = column_N = np.zeros(1, dtype=np.int64)
    return row_N, column_N


def attention(packed: Packed, implementation: str, device: torch.device) -> Any:
    """The mask of packed rows, as the model's attention takes it."""
    if implementation != "flex_attention":
        return torch.from_numpy(dense_mask(packed.end_P))[None, None].to(device)
    from torch.nn.attention.flex_attention import create_block_mask

    end_P = torch.from_numpy(packed.end_P).to(device)
    return create_block_mask(
        lambda batch, head, query, key: sees(end_P, query, key), None, None, len(packed), len(packed), device=device
    )


def install(actor: Any) -> PackedActor:
    """Let an OpenRLHF Actor compute packed rows from now on."""
    actor.forward = PackedActor(actor)
    return actor.forward


def input_rows(samples: Sequence[upstream.Experience]) -> list[list[int]]:
    """What a model computes of single samples: their tokens up to the one before the last action."""
    rows = []
    for sample in samples:
        sequence, actions = sample.sequences.flatten(), sample.action_mask.flatten()
        last = int(actions.nonzero()[-1]) if actions.any() else 0
        rows.append(sequence[: last + 1].tolist())
    return rows
