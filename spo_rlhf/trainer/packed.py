"""OpenRLHF's Actor with every shared prefix computed once: its rows packed into one sequence or few (core/packing.py).

What comes out has OpenRLHF's layout, a row for each sample, so the loss, its mask and its metrics do not know of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from spo_rlhf import upstream
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.log_probs import chunked_log_probs
from spo_rlhf.core.packing import Packed, cost, pack_apart, sees
from spo_rlhf.errors import UserError
from spo_rlhf.upstream_logits import cap_of, head_gives, plain_head

# Attention of transformers that takes a mask of our own: PyTorch's with a dense one, FlexAttention with a function.
ATTENTION = ("sdpa", "flex_attention")
SAVES = 0.8
# Kinds of models (`model_type`) whose layers are known to attend to all that stands before a token, at positions of our own.
# Others have windows, recurrences or biases by distance that their configuration does not always tell.
KINDS = {"gemma", "granite", "llama", "mistral", "olmo", "olmo2", "phi3", "qwen2", "qwen3"}
WINDOWED = f"the model is not one whose layers are known to attend to the whole prefix ({', '.join(sorted(KINDS))} without windows)"


class PackedActor:
    """In place of `Actor.forward`, for text models with full causal attention: same arguments, same results.

    Log-probs are computed where the action mask asks for them, so nothing else needs logits. With `only_if_it_saves`
    a batch that packed costs more than SAVES of what it costs padded is left to the Actor. Logits exist of `chunk_of(vocabulary)`
    tokens at a time, 0: of all; where the model goes on with them, of all (upstream_logits.py).
    """

    def __init__(self, actor: Any, *, only_if_it_saves: bool = False, chunk_of: Callable[[int], int] = lambda words: 0):
        self.actor, self.only_if_it_saves, self.chunk_of = actor, only_if_it_saves, chunk_of
        self.unpacked_forward = actor.forward
        self.forwarded = self.unpacked = 0  # tokens computed, and what they are one by one; since the last `take`

    def take(self) -> dict[str, float]:
        """The counts, and start anew."""
        counts = {"forwarded": float(self.forwarded), "unpacked": float(self.unpacked)}
        self.forwarded = self.unpacked = 0
        return counts

    def __call__(
        self,
        sequences: torch.Tensor,
        action_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        return_output: bool = False,
        return_entropy: bool = False,
        **others: Any,
    ) -> Any:
        """Log-probs (B, T - 1) of the actions, 0 elsewhere; with `return_output` also their entropies, where asked for."""
        assert action_mask is not None and attention_mask is not None, "the trainer always hands them in"
        row_N, column_N = wanted(action_mask)
        last_B = [int(column_N[row_N == row].max(initial=-1)) for row in range(len(sequences))]
        inputs = [sequences[row, : last + 1].tolist() for row, last in enumerate(last_B)]
        self.unpacked += sum(len(row) for row in inputs)
        packs, which = pack_apart(inputs, pair_cost_of(module_of(self.actor).config))
        longest = max(map(len, packs))
        if self.only_if_it_saves and not self._saves(len(packs), longest, *sequences.shape):
            self.forwarded += sum(len(row) for row in inputs)
            more = {"return_output": return_output, "return_entropy": return_entropy, **others}
            return self.unpacked_forward(sequences, action_mask, attention_mask, **more)
        self.forwarded += sum(map(len, packs))
        source_N = np.array([packs[which[row]].place[row][column] for row, column in zip(row_N, column_N, strict=True)])
        place_U, within_N = np.unique(source_N, return_inverse=True)
        index_N = np.array(which)[row_N] * len(place_U) + within_N
        rows, columns = (torch.from_numpy(part).to(sequences.device) for part in (row_N, column_N))
        index = torch.from_numpy(index_N).to(sequences.device)
        place = torch.from_numpy(place_U).to(sequences.device)
        logp_N, entropy_N = self._of_tokens(packs, longest, place, index, sequences[rows, columns + 1], return_entropy)
        logp = logp_N.new_zeros(action_mask.shape).index_put((rows, columns), logp_N) * action_mask.float()
        if not return_output:
            return logp
        output = SimpleNamespace()
        if entropy_N is not None:
            output.entropy = entropy_N.new_zeros(action_mask.shape).index_put((rows, columns), entropy_N)
        return logp, output

    def _saves(self, packs: int, longest_pack: int, rows: int, longest_row: int) -> bool:
        """Packed, the batch costs less than SAVES of what it costs padded."""
        pair_cost = pair_cost_of(module_of(self.actor).config)
        return packs * cost(longest_pack, pair_cost) < SAVES * rows * cost(longest_row, pair_cost)

    def _of_tokens(
        self,
        packs: list[Packed],
        longest: int,
        place_U: torch.Tensor,
        index_N: torch.Tensor,
        label_N: torch.Tensor,
        with_entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probs (N,) of tokens and, where asked for, entropies (N,), float32, at the sampling temperature.

        index_N: where each is predicted, among these places of every sequence (sequences x U).
        """
        head = plain_head(module_of(self.actor))
        chunk = 0 if head is None else self.chunk_of(head.out_features)
        if 0 < chunk < len(packs) * len(place_U):
            return self._in_chunks(packs, longest, place_U, index_N, label_N, head, chunk, with_entropy)
        logits_UV = self._output(packs, longest, place_U).flatten(0, 1).float() / self.actor.temperature
        # As PyTorch's log_softmax, without a second tensor of the logits' size.
        log_sum_U = logits_UV.logsumexp(-1)
        logp_N = logits_UV[index_N, label_N] - log_sum_U[index_N]
        if not with_entropy:
            return logp_N, None
        return logp_N, (log_sum_U - (logits_UV.softmax(-1) * logits_UV).sum(-1))[index_N]

    def _in_chunks(
        self,
        packs: list[Packed],
        longest: int,
        place_U: torch.Tensor,
        index_N: torch.Tensor,
        label_N: torch.Tensor,
        head: Any,
        chunk: int,
        with_entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same from the head's input, of `chunk` tokens at a time."""

        module = module_of(self.actor)
        cap = cap_of(module)

        def compute(hidden: torch.Tensor) -> torch.Tensor:
            if hidden.shape[1] != len(place_U):  # a model that computes all places
                hidden = hidden[:, place_U]
            logp_N, entropy_N = chunked_log_probs(
                hidden.flatten(0, 1)[index_N],
                head.weight,
                head.bias,
                label_N,
                temperature=self.actor.temperature,
                chunk=chunk,
                with_entropy=with_entropy,
                cap=cap,
            )
            return torch.stack([logp_N] if entropy_N is None else [logp_N, entropy_N], -1)

        with head_gives(module, compute) as check:
            column_N = check(self._output(packs, longest, place_U, sliced=True)).unbind(-1)
        return column_N[0], column_N[1] if with_entropy else None

    def _output(
        self, packs: list[Packed], longest: int, place_U: torch.Tensor, *, sliced: bool = False
    ) -> torch.Tensor:
        """What the head gives at these places of every sequence; `sliced`: it has taken the places itself."""
        model, module, device = self.actor.model, module_of(self.actor), place_U.device

        def padded(values: list[np.ndarray], fill: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.stack([np.append(one, fill[len(one) :]) for one in values])).to(device)

        zeros, itself = np.zeros(longest, dtype=np.int64), np.arange(1, longest + 1)
        end_P = padded([one.end_P for one in packs], itself)  # padding sees itself, and nothing sees it
        arguments: dict[str, Any] = {
            "attention_mask": attention(end_P, module.config._attn_implementation),
            "position_ids": padded([one.position_P for one in packs], zeros),
        }
        narrow = "logits_to_keep" in inspect.signature(module.forward).parameters
        if narrow:
            arguments["logits_to_keep"] = place_U
        output = model(padded([one.token_P for one in packs], zeros), **arguments)
        return output["logits"] if narrow or sliced else output["logits"][:, place_U]


def module_of(actor: Any) -> Any:
    """The Hugging Face model of an Actor, below DeepSpeed's engine."""
    return getattr(actor.model, "module", actor.model)


def pair_cost_of(config: Any) -> float:
    """What a pair of tokens costs, where all pairs are computed, of what a token costs without attention: about 1 / 6h.

    Of each layer a token takes 24 h² operations (h: hidden size; projections and a feed-forward of 4 h), a pair 4 h.
    FlexAttention computes the pairs that see each other alone, so there all rows are one sequence; else they are several,
    of one batch.
    """
    return 0.0 if config._attn_implementation == "flex_attention" else 1 / (6 * config.hidden_size)


def wanted(action_mask: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N,) and columns (N,) of the actions; one of another token where there is none, so that there is a graph."""
    row_N, column_N = action_mask.cpu().bool().numpy().nonzero()
    if not len(row_N):
        row_N = column_N = np.zeros(1, dtype=np.int64)
    return row_N, column_N


def attention(end_BP: torch.Tensor, implementation: str) -> Any:
    """The mask of packed sequences, as the model's attention takes it."""
    size = end_BP.shape[1]
    if implementation != "flex_attention":
        place_P = torch.arange(size, device=end_BP.device)
        return torch.stack([sees(end_P, place_P[:, None], place_P[None, :]) for end_P in end_BP])[:, None]
    from torch.nn.attention.flex_attention import create_block_mask

    def allowed(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return sees(end_BP[batch], query, key)

    return create_block_mask(allowed, len(end_BP), None, size, size, device=end_BP.device)


def obstacle(args: SimpleNamespace) -> str | None:
    """The option that rules packing out, with its value, as the command says it; None where nothing does."""
    options = {
        "ds.packing_samples": args.ds.packing_samples,  # dynamic batches and ring attention set it
        "ds.tensor_parallel_size": args.ds.tensor_parallel_size > 1,
        "ds.use_liger_kernel": args.ds.use_liger_kernel,
        "actor.aux_loss_coef": args.actor.aux_loss_coef > 0,  # experts are balanced over tokens as often as they occur
        "data.max_images_per_prompt": args.data.max_images_per_prompt > 0,
        "ds.attn_implementation": args.ds.attn_implementation not in ATTENTION,
    }
    name = next((name for name, stands in options.items() if stands), None)
    if name is None:
        return None
    section, option = name.split(".")
    return f"--{name} {getattr(getattr(args, section), option)}"


def attends_to_all(config: Mapping[str, Any]) -> bool:
    """By its config.json the model attends to the whole prefix: in a window or a recurrence ancestors are not those rows."""
    if config.get("model_type") not in KINDS:
        return False
    if layers := config.get("layer_types"):
        return set(layers) == {"full_attention"}
    return not (config.get("sliding_window") and config.get("use_sliding_window", True))


def install(actor: Any, spo: SpoConfig) -> PackedActor:
    """Let an OpenRLHF Actor compute packed rows from now on. Raises UserError for a model whose layers cannot."""
    if not attends_to_all(module_of(actor).config.to_dict()):
        raise UserError(f"--spo.pack_trees {spo.pack_trees}: {WINDOWED}; leave it out")
    actor.forward = PackedActor(actor, only_if_it_saves=spo.pack_trees == "auto", chunk_of=spo.chunk_of)
    return actor.forward


def metrics(counts: dict[str, float]) -> dict[str, float]:
    """What to log of training passes, from the sums over all ranks of `forwarded`, `unpacked` and `distinct` tokens."""
    if not counts["distinct"]:
        return {}
    return {
        "pack/tokens": counts["forwarded"],
        "pack/unpacked_tokens": counts["unpacked"],
        "pack/repeated": counts["forwarded"] / counts["distinct"],
    }


def input_rows(samples: Sequence[upstream.Experience]) -> list[list[int]]:
    """What a model computes of single samples: their tokens up to the one before the last action."""
    rows = []
    for sample in samples:
        sequence, actions = sample.sequences.flatten(), sample.action_mask.flatten()
        last = int(actions.nonzero()[-1]) if actions.any() else 0
        rows.append(sequence[: last + 1].tolist())
    return rows
