"""A tree of random tokens as one sample per node, one per path, or packed; and its forward and backward by a random model."""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from spo_rlhf.core.packing import distinct_tokens, plan
from spo_rlhf.trainer.packed import PackedActor

# hidden, intermediate, layers, heads, key-value heads, vocabulary
MODELS = {
    "tiny": (64, 128, 2, 4, 2, 64),
    "small": (128, 512, 4, 4, 4, 256),
    "medium": (512, 2048, 2, 8, 8, 256),
    "qwen2.5-1.5b": (1536, 8960, 28, 12, 2, 151936),
}
LAYOUTS = ("node", "path", "packed")
MIB = 2**20


@dataclass(frozen=True)
class Rows:
    """Samples: tokens, and the weight of each token's log-prob in the loss, 0 where it is context."""

    token_B: list[list[int]]
    weight_B: list[list[float]]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.token_B))


def grown(branching: tuple[int, ...], prompt: int, segment: int, vocabulary: int, seed: int) -> dict[str, Rows]:
    """A tree of this shape as samples: one per node, and one per path with each node trained in the first of them."""
    generator = np.random.default_rng(seed)
    nodes: list[tuple[int, list[int], float]] = [(-1, generator.integers(0, vocabulary, prompt).tolist(), 0.0)]
    front = [0]
    for children in branching:
        first = len(nodes)
        for parent in front:
            for _ in range(children):
                tokens = generator.integers(0, vocabulary, segment).tolist()
                nodes.append((parent, tokens, float(generator.normal())))
        front = list(range(first, len(nodes)))
    leaves, done = set(front), set()
    rows = {name: Rows([], []) for name in ("node", "path")}
    for node in range(1, len(nodes)):
        path = [node]
        while nodes[path[-1]][0] >= 0:
            path.append(nodes[path[-1]][0])
        path.reverse()
        for name in ("node", *(["path"] if node in leaves else [])):
            trained = {node} if name == "node" else set(path) - done
            rows[name].token_B.append([token for one in path for token in nodes[one][1]])
            rows[name].weight_B.append([nodes[one][2] * (one in trained) for one in path for _ in nodes[one][1]])
        done |= set(path) if node in leaves else set()
    return rows


class Padded:
    """The model on rows padded on the right; logits where a weight asks for them, as for packed rows."""

    def __init__(self, model: Any):
        self.model = model

    def __call__(self, sequences: torch.Tensor, wanted: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        hidden = self.model.model(input_ids=sequences, attention_mask=attention, use_cache=False).last_hidden_state
        logits = self.model.lm_head(hidden[:, :-1][wanted]).float()
        logp = logits.gather(1, sequences[:, 1:][wanted][:, None])[:, 0] - logits.logsumexp(-1)
        return logp.new_zeros(wanted.shape).index_put(wanted.nonzero(as_tuple=True), logp)


def batches(rows: Rows, layout: str, tokens: int) -> list[list[int]]:
    """Rows that are computed together: packed ones by the plan, others by length, as many as fill `tokens` with padding."""
    if layout == "packed":
        return plan([row[:-1] for row in rows.token_B], tokens)
    groups: list[list[int]] = []
    for number in sorted(range(len(rows.token_B)), key=lambda number: -len(rows.token_B[number])):
        longest = len(rows.token_B[groups[-1][0]]) if groups else 0
        if not groups or longest * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(number)
    return groups


def train(
    forward: Callable[..., torch.Tensor],
    rows: Rows,
    groups: list[list[int]],
    device: str,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Forward, in `around`, and backward of every group: the gradient of the weighted sum of the trained log-probs."""
    total = sum(weight != 0 for row in rows.weight_B for weight in row)
    for group in groups:
        longest = max(len(rows.token_B[number]) for number in group)
        sequences, weights = torch.zeros(len(group), longest, dtype=torch.long), torch.zeros(len(group), longest)
        for row, number in enumerate(group):
            sequences[row, : len(rows.token_B[number])] = torch.tensor(rows.token_B[number])
            weights[row, : len(rows.token_B[number])] = torch.tensor(rows.weight_B[number])
        lengths = torch.tensor([len(rows.token_B[number]) for number in group])
        attention = (torch.arange(longest) < lengths[:, None]).long().to(device)
        weights = weights[:, 1:].to(device)
        with around():
            logp = forward(sequences.to(device), weights != 0, attention)
        (-(logp * weights).sum() / total).backward()


class Activations:
    """Bytes that a forward keeps for its backward, the weights left out; the largest of all forwards."""

    def __init__(self, model: Any):
        self.weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
        self.largest = 0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Context of one forward."""
        bytes_of: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.weights:
                bytes_of[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield
        self.largest = max(self.largest, sum(bytes_of.values()))


def build(name: str, device: str, longest: int) -> Any:
    """A random Qwen2 of this size; in bfloat16 and with gradient checkpointing on a GPU."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    hidden, intermediate, layers, heads, kv_heads, vocabulary = MODELS[name]
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        max_position_embeddings=longest,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    if device == "cuda":
        model.gradient_checkpointing_enable()
    model.config.use_cache = False
    return model.train()


class Subject:
    """One tree in its three layouts."""

    def __init__(self, model: Any, args: argparse.Namespace, branching: tuple[int, ...], prompt: int, segment: int):
        self.model, self.device = model, args.device
        rows = grown(branching, prompt, segment, model.config.vocab_size, args.seed)
        self.rows = {"node": rows["node"], "path": rows["path"], "packed": rows["node"]}
        self.groups = {name: batches(self.rows[name], name, args.pack_tokens) for name in LAYOUTS}
        inputs = [row[:-1] for row in rows["node"].token_B]
        self.tokens = {name: rows[name].tokens for name in ("node", "path")}
        self.tokens["packed"] = 0  # counted by `prepare`: a group may be several sequences
        self.distinct = distinct_tokens(inputs)

    def run(self, layout: str) -> tuple[float, float]:
        """Seconds of forward and backward of the whole tree, and MiB at their highest on a GPU; the gradient stays."""
        on_gpu = self.device == "cuda"
        self.model.zero_grad()
        if on_gpu:
            self.model.set_attn_implementation("flex_attention" if layout == "packed" else "sdpa")
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if on_gpu else 0
        clock = time.perf_counter if on_gpu else time.process_time
        start = clock()
        train(self.forward(layout), self.rows[layout], self.groups[layout], self.device)
        if on_gpu:
            torch.cuda.synchronize()
        return clock() - start, (torch.cuda.max_memory_allocated() - before) / MIB if on_gpu else 0.0

    def prepare(self, layout: str) -> float:
        """One run that is not timed; MiB that its largest forward keeps."""
        self.run(layout)
        forward, kept = self.forward(layout), Activations(self.model)
        self.model.zero_grad()
        train(forward, self.rows[layout], self.groups[layout], self.device, kept.kept)
        if isinstance(forward, PackedActor):
            self.tokens["packed"] = forward.forwarded
        return kept.largest / MIB

    def forward(self, layout: str) -> Any:
        actor = SimpleNamespace(model=self.model, temperature=1.0, forward=None)
        return PackedActor(actor) if layout == "packed" else Padded(self.model)

    def gradient(self) -> torch.Tensor:
        return torch.cat([one.grad.flatten().double().cpu() for one in self.model.parameters() if one.grad is not None])
