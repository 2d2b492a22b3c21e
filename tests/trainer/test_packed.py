"""Packed rows through a real model: the log-probs, the loss and the gradient of one sample per node."""

import itertools
from dataclasses import replace

import pytest
import torch
from batches import SPO, arguments
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from spo_rlhf import upstream
from spo_rlhf.core import tree
from spo_rlhf.core.packing import distinct_tokens
from spo_rlhf.trainer.packed import PackedActor, attends_to_all, input_rows
from spo_rlhf.trainer.policy_loss import SegmentPolicyLoss

VOCABULARY, HIDDEN = 13, 32
SHAPE = dict(
    vocab_size=VOCABULARY,
    hidden_size=HIDDEN,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
EVERY_TOKEN = replace(SPO, prob_mask=False)


def actor_of(config, attention="sdpa"):
    """OpenRLHF's Actor around a tiny random model with sharp attention, so that a wrong mask shows."""
    from openrlhf.models import Actor

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            parameter.data *= 20
    model.config.use_cache = False
    actor = Actor(model, temperature=0.7)
    actor.packing_samples = False
    return actor


@pytest.fixture(scope="module", params=[Qwen2Config, LlamaConfig])
def actor(request):
    upstream.check_version()
    return actor_of(request.param(**SHAPE))


def node_rows(parent_N, token_N) -> upstream.Experience:
    """A batch of one sample per node below the prompt: the tokens of its ancestors, and its own as actions."""
    rows, actions = [], []
    for node in range(1, len(parent_N)):
        path, at = [], node
        while at >= 0:
            path.append(at)
            at = parent_N[at]
        context = sum((list(token_N[one]) for one in path[:0:-1]), [])
        rows.append(context + list(token_N[node]))
        actions.append([0] * (len(context) - 1) + [1] * len(token_N[node]))
    longest = max(map(len, rows))
    pad = [longest - len(row) for row in rows]
    return upstream.Experience(
        sequences=torch.tensor([row + [0] * more for row, more in zip(rows, pad, strict=True)]),
        attention_mask=torch.tensor([[1] * len(row) + [0] * more for row, more in zip(rows, pad, strict=True)]),
        action_mask=torch.tensor([row + [0] * more for row, more in zip(actions, pad, strict=True)]).bool(),
        info={},
    )


@st.composite
def trees(draw):
    """Parents and tokens of nodes; few different tokens, so that siblings begin alike now and then."""
    parent_N, token_N = [tree.NO_PARENT], [draw(st.lists(st.integers(3, 5), min_size=1, max_size=4))]
    for node in range(1, draw(st.integers(2, 7))):
        parent_N.append(draw(st.integers(0, node - 1)))
        token_N.append(draw(st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=4)))
    return parent_N, token_N


def outcome(forward, model, batch):
    """Log-probs, entropies, loss and gradient of a batch through `forward`."""
    generator = torch.Generator().manual_seed(1)
    shape, actions = batch.action_mask.shape, batch.action_mask.float()
    batch.advantages = torch.randn(shape, generator=generator) * actions
    noise = 0.1 * torch.randn(shape, generator=generator) * actions
    logp, output = forward(
        batch.sequences, batch.action_mask, batch.attention_mask, return_output=True, return_entropy=True
    )
    batch.action_log_probs = logp.detach() + noise
    batch.base_action_log_probs = logp.detach() - noise
    loss_fn = SegmentPolicyLoss(arguments(EVERY_TOKEN))
    loss_fn.bind(batch, 0.3)
    loss, *_ = loss_fn(
        logp, batch.action_log_probs, batch.advantages, batch.action_mask, batch_num_tokens=actions.sum()
    )
    model.zero_grad()
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return logp.detach(), (output.entropy * actions).detach(), loss.detach(), gradient


def same(actor, batch) -> PackedActor:
    one_by_one = outcome(actor.__class__.forward.__get__(actor), actor.model, batch)
    packed_actor = PackedActor(actor)
    together = outcome(packed_actor, actor.model, batch)
    for one, other in zip(together[:3], one_by_one[:3], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)
    assert (together[3] - one_by_one[3]).norm() <= 2e-5 * one_by_one[3].norm() + 1e-7
    return packed_actor


@settings(max_examples=25, deadline=None)
@given(grown=trees())
def test_trees_packed_are_trees_node_by_node(actor, grown):
    batch = node_rows(*grown)
    counted = same(actor, batch)
    singles = [row[:length] for row, length in zip(batch.sequences.tolist(), batch.attention_mask.sum(-1), strict=True)]
    assert counted.forwarded == distinct_tokens([row[:-1] for row in singles])
    assert counted.unpacked == sum(len(row) - 1 for row in singles)


@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 2, 2), (1, 3)])
@pytest.mark.parametrize("length", [1, 3])
def test_every_full_tree_of_a_shape(actor, shape, length):
    parent_N, front, numbers = [tree.NO_PARENT], [0], itertools.count(1)
    for children in shape:
        front = [next(numbers) for _ in range(children * len(front))]
        parent_N += [front[0] - len(front) // children + i // children for i in range(len(front))]
    generator = torch.Generator().manual_seed(len(parent_N))
    token_N = [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for _ in parent_N]
    counted = same(actor, node_rows(parent_N, token_N))
    assert counted.forwarded < counted.unpacked


def test_a_tree_with_costly_pairs_is_several_sequences_of_one_batch(actor):
    generator = torch.Generator().manual_seed(5)
    parent_N = [-1, 0, 0, 0, 1, 1, 2, 2, 3]
    token_N = [torch.randint(2, VOCABULARY, (15,), generator=generator).tolist() for _ in parent_N]
    batch = node_rows(parent_N, token_N)
    counted = same(actor, batch)
    distinct = 15 * len(parent_N) - 5  # last tokens of leaves predict nothing
    assert distinct < counted.forwarded < counted.unpacked


def test_a_group_of_responses_to_one_prompt_and_samples_of_another(actor):
    batch = node_rows([-1, 0, 0, 0], [[5, 6, 7, 8], [3, 4, 2], [3, 9, 2], [4, 4, 4]])
    other = node_rows([-1, 0], [[9, 9, 9], [1, 1]])
    together = upstream.Experience(
        **{
            name: torch.nn.utils.rnn.pad_sequence([*getattr(batch, name), *getattr(other, name)], batch_first=True)
            for name in ("sequences", "attention_mask", "action_mask")
        },
        info={},
    )
    counted = same(actor, together)
    # Of the group its prompt, the shared 3, 4, 9 and 4 4; of the other 4; last tokens predict nothing.
    assert (counted.forwarded, counted.unpacked) == (4 + 5 + 4, 3 * 6 + 4)


def test_rows_without_an_action_have_a_graph_and_no_gradient(actor):
    batch = node_rows([-1, 0], [[3, 4], [5, 6]])
    batch.action_mask = torch.zeros_like(batch.action_mask)
    logp = PackedActor(actor)(batch.sequences, batch.action_mask, batch.attention_mask)
    assert (logp == 0).all() and logp.requires_grad
    actor.model.zero_grad()
    logp.sum().backward()
    assert all((parameter.grad == 0).all() for parameter in actor.model.parameters())


def test_only_the_beginning_that_predicts_actions_is_computed(actor):
    """The last token of a row predicts nothing that is trained, nor does what stands behind the last action."""
    batch = node_rows([-1, 0], [[3, 4], [5, 6]])
    assert input_rows([upstream.Experience(sequences=batch.sequences[0], action_mask=batch.action_mask[0])]) == [
        [3, 4, 5]
    ]
    counted = PackedActor(actor)
    counted(batch.sequences, batch.action_mask, batch.attention_mask)
    assert counted.forwarded == counted.unpacked == 3


def test_auto_leaves_alone_what_packing_does_not_save(actor):
    """Two rows of nothing in common, and ten that share all but their ends."""
    forward = actor.__class__.forward.__get__(actor)
    actor.forward = forward
    apart = node_rows([-1, 0], [[3] * 5, [4] * 5])
    apart.sequences = torch.cat([apart.sequences, 5 + 0 * apart.sequences])
    apart.attention_mask, apart.action_mask = (x.expand(2, -1) for x in (apart.attention_mask, apart.action_mask))
    auto = PackedActor(actor, only_if_it_saves=True)
    logp = auto(apart.sequences, apart.action_mask, apart.attention_mask)
    assert torch.equal(logp, forward(apart.sequences, apart.action_mask, apart.attention_mask))
    assert auto.take() == {"forwarded": 18.0, "unpacked": 18.0}
    alike = node_rows([-1] + [0] * 10, [[3, 4, 5, 6, 7, 8]] + [[node % 9 + 2, 4] for node in range(10)])
    auto(alike.sequences, alike.action_mask, alike.attention_mask)
    counts = auto.take()
    assert counts["forwarded"] == 6 + 9 and counts["unpacked"] == 10 * 7


class LargestLogits(TorchDispatchMode):
    """The most numbers that a tensor with all words in its last place held; the head's weight is none of them."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (VOCABULARY,) and len(tensor) != HIDDEN:
                self.numbers = max(self.numbers, tensor.numel())
        return result


@pytest.mark.parametrize("narrow", [True, False])
def test_logits_of_packed_rows_exist_a_chunk_at_a_time(actor, monkeypatch, narrow):
    if not narrow:  # a model that computes the logits of all places
        forward = actor.model.forward
        monkeypatch.setattr(
            actor.model, "forward", lambda ids, attention_mask, position_ids: forward(ids, attention_mask, position_ids)
        )
    parent_N, token_N = [-1, 0, 0, 0, 1, 1], [[3, 4, 5, 6], [5, 6, 7], [5, 7], [9, 9], [8], [9, 3]]
    for chunk in (0, 2, 100):
        batch = node_rows(parent_N, token_N)
        expected = outcome(PackedActor(actor), actor.model, batch)
        with LargestLogits() as seen:
            found = outcome(PackedActor(actor, chunk_of=lambda words, chunk=chunk: chunk), actor.model, batch)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        assert (seen.numbers == 2 * VOCABULARY) is (chunk == 2), "whole where a chunk is as large, or 0"
        assert "forward" not in vars(actor.model.lm_head)


@pytest.mark.slow  # it is compiled first
def test_flex_attention_takes_the_same_mask():
    flexible, dense = (actor_of(Qwen2Config(**SHAPE), attention) for attention in ("flex_attention", "sdpa"))
    batch = node_rows([-1, 0, 0, 1, 1], [[3, 4], [5, 6], [5, 7], [8], [9, 9]])
    with torch.no_grad():
        one, other = (
            PackedActor(actor)(batch.sequences, batch.action_mask, batch.attention_mask) for actor in (flexible, dense)
        )
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "packs"),
    [
        ({"model_type": "qwen2"}, True),
        ({"model_type": "llama", "layer_types": ["full_attention"] * 2}, True),
        ({"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}, False),
        ({"model_type": "mistral", "sliding_window": 4096}, False),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, True),
        ({"model_type": "mamba2"}, False),
        ({"model_type": "jamba"}, False),
        ({"model_type": "gemma3", "text_config": {"sliding_window": 512}}, False),
        ({}, False),
    ],
)
def test_only_models_known_to_attend_to_the_whole_prefix_are_packed(config: dict, packs: bool) -> None:
    assert attends_to_all(config) is packs
