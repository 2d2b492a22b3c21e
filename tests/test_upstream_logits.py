"""OpenRLHF's Actor with its logits in chunks: what it returns and learns is what it was, and how large a tensor becomes."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma4Config, GraniteConfig, LlamaConfig

from spo_rlhf import upstream
from spo_rlhf.upstream_logits import chunk_logits

WORDS, HIDDEN, BATCH, LENGTH = 499, 16, 3, 12


class Largest(TorchDispatchMode):
    """The most numbers that a tensor with all words in its last place held; the head's weight is none of them."""

    def __init__(self):
        super().__init__()
        self.logits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (WORDS,) and tensor.shape[0] != HIDDEN:
                self.logits = max(self.logits, tensor.numel())
        return result


@pytest.fixture(scope="module")
def actor_class():
    upstream._stack()
    from openrlhf.models import Actor

    return Actor


@pytest.fixture
def build(actor_class):
    """Two Actors of the same weights, the second with its logits in chunks of `chunk` tokens."""

    def pair(chunk, *, tied=False, temperature=0.6, packed=False, config=None):
        torch.manual_seed(0)
        config = config or LlamaConfig(
            vocab_size=WORDS,
            hidden_size=HIDDEN,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=tied,
        )
        actors = []
        for _ in range(2):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
            if actors:
                model.load_state_dict(actors[0].model.state_dict())
            actors.append(actor_class(model, temperature=temperature))
            actors[-1].packing_samples = packed
        chunk_logits(actors[1], lambda words: chunk)
        return actors

    return pair


def batch():
    generator = torch.Generator().manual_seed(1)
    sequences = torch.randint(WORDS, (BATCH, LENGTH), generator=generator)
    attention_mask = torch.ones_like(sequences)
    attention_mask[0, :3] = attention_mask[1, -2:] = 0
    return sequences, attention_mask[:, 1:].bool(), attention_mask


def learned(actor, **more):
    """Log-probs and entropies of the batch, and the gradient of a loss of both."""
    sequences, action_mask, attention_mask = batch()
    logp, output = actor(
        sequences, action_mask, attention_mask=attention_mask, return_output=True, return_entropy=True, **more
    )
    weight = torch.randn(logp.shape, generator=torch.Generator().manual_seed(2))
    actor.zero_grad()
    ((logp + 0.3 * output.entropy) * weight * action_mask).sum().backward()
    return logp.detach(), output.entropy.detach(), [parameter.grad for parameter in actor.parameters()]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_an_actor_learns_the_same_in_chunks(build, tied, packed):
    whole, chunked = build(5, tied=tied, packed=packed)
    with Largest() as seen:
        logp, entropy, grads = learned(whole)
    assert seen.logits == (batch()[2].sum() if packed else BATCH * LENGTH) * WORDS
    with Largest() as seen:
        logp_chunked, entropy_chunked, grads_chunked = learned(chunked)
    torch.testing.assert_close(logp_chunked, logp, rtol=1e-6, atol=2e-6)
    mask = batch()[1]
    torch.testing.assert_close(entropy_chunked * mask, entropy * mask, rtol=1e-6, atol=2e-6)
    for one, two in zip(grads_chunked, grads, strict=True):
        assert (one - two).norm() <= 2e-6 * two.norm()
    assert seen.logits == 5 * WORDS, "logits of a chunk, and never those of the batch"
    assert chunked.temperature == 0.6 and "forward" not in vars(chunked.model.lm_head), "all is as it was"


def test_the_log_prob_pass_and_the_entropies_of_a_forward_pass_are_the_same(build):
    whole, chunked = build(5)
    sequences, action_mask, attention_mask = batch()
    results = []
    for actor in (whole, chunked):
        with torch.no_grad(), upstream.entropies(actor) as seen:
            results.append((actor(sequences, action_mask, attention_mask), seen[0]))
    for one, two in zip(*results):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=2e-6)
    with torch.no_grad():
        every = [actor(sequences, attention_mask=attention_mask, return_logprobs=True) for actor in (whole, chunked)]
    torch.testing.assert_close(*every, rtol=1e-6, atol=2e-6)


def test_what_fits_one_chunk_is_computed_as_it_was_bit_by_bit(build):
    whole, chunked = build(BATCH * LENGTH)
    (logp, entropy, grads), (logp_chunked, entropy_chunked, grads_chunked) = learned(whole), learned(chunked)
    assert torch.equal(logp, logp_chunked) and torch.equal(entropy, entropy_chunked)
    assert all(torch.equal(one, two) for one, two in zip(grads, grads_chunked, strict=True))


def test_logits_that_are_asked_for_are_given(build):
    whole, chunked = build(5)
    sequences, _, attention_mask = batch()
    logits = [
        actor(sequences, attention_mask=attention_mask, return_output=True)["logits"] for actor in (whole, chunked)
    ]
    assert torch.equal(*logits) and logits[0].shape == (BATCH, LENGTH, WORDS)


def capped(cap, family):
    """A configuration; that of Gemma 4 has one for the text within."""
    sizes: dict[str, Any] = {
        "vocab_size": WORDS,
        "hidden_size": HIDDEN,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "final_logit_softcapping": cap,
    }
    if family == "gemma2":
        return Gemma2Config(**sizes)
    more = {"vocab_size_per_layer_input": WORDS, "hidden_size_per_layer_input": 4, "global_head_dim": 8}
    layers = {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0}
    return Gemma4Config(text_config=sizes | more | layers, vision_config=None, audio_config=None)


@pytest.mark.parametrize(("cap", "family"), [(1.0, "gemma2"), (3.0, "gemma2"), (1.0, "gemma4")])
def test_logits_that_a_model_caps_are_capped_in_chunks(build, cap, family):
    config = capped(cap, family)
    whole, chunked = build(5, config=config)
    with torch.no_grad():
        for actor in (whole, chunked):
            actor.model.lm_head.weight *= 40  # so that the cap bends them
    logp, entropy, grads = learned(whole)
    with Largest() as seen:
        logp_chunked, entropy_chunked, grads_chunked = learned(chunked)
    mask = batch()[1]
    torch.testing.assert_close(logp_chunked, logp, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(entropy_chunked * mask, entropy * mask, rtol=1e-6, atol=2e-6)
    for one, two in zip(grads_chunked, grads, strict=True):
        assert (one - two).norm() <= 5e-6 * two.norm()
    text = chunked.model.config.get_text_config()
    assert seen.logits == 5 * WORDS and text.final_logit_softcapping == cap, "all is as it was"
    text.final_logit_softcapping = None
    assert not torch.allclose(learned(chunked)[0], logp, atol=1e-2), "without the cap it would be another model"


def test_a_model_that_goes_on_with_its_logits_keeps_them_whole(build):
    config = GraniteConfig(
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        logits_scaling=3.0,
    )
    whole, chunked = build(5, config=config)
    assert torch.equal(learned(whole)[0], learned(chunked)[0])
    # One that does so without saying it in its configuration is told apart by what comes back.
    whole, chunked = build(5)
    chunked.model.register_forward_hook(lambda module, args, output: setattr(output, "logits", output.logits * 2))
    with pytest.raises(RuntimeError, match=r"--spo\.logits_chunk_tokens 0"):
        learned(chunked)
    assert "forward" not in vars(chunked.model.lm_head)


@pytest.mark.parametrize("chunk", [0, 5])
def test_what_the_head_reads_stands_where_its_log_prob_does(build, chunk):
    actor = build(chunk)[1]
    sequences, action_mask, attention_mask = batch()
    with torch.no_grad(), upstream.head_inputs(actor) as seen:
        logp = actor(sequences, action_mask, attention_mask)
        [hidden] = seen
        again = (actor.model.lm_head(hidden).float() / actor.temperature).log_softmax(-1)
    expected = again.gather(-1, sequences[:, 1:, None])[..., 0]
    torch.testing.assert_close(logp * action_mask, expected * action_mask, rtol=1e-5, atol=1e-5)
    assert not actor.model.lm_head._forward_pre_hooks
