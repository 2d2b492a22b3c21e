"""Chunked log-probs against those of whole logits: values, gradients, and how many bytes are alive at most."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spo_rlhf.core.log_probs import chunked_log_probs

TOKENS, HIDDEN, WORDS = 37, 16, 211


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations made and that are still referenced."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.largest = 0, 0, 0
        self.seen: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.seen:
                size = storage.nbytes()
                self.seen[storage] = size
                self.live += size
                weakref.finalize(storage, self.gone, size)
                self.peak, self.largest = max(self.peak, self.live), max(self.largest, size)
        return result

    def gone(self, size: int) -> None:
        self.live -= size


def inputs(dtype=torch.float32, *, bias=False, tokens=TOKENS, words=WORDS, hidden=HIDDEN):
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(tokens, hidden, generator=generator).to(dtype).requires_grad_()
    weight_VD = (torch.randn(words, hidden, generator=generator) / 2).to(dtype).requires_grad_()
    bias_V = torch.randn(words, generator=generator).to(dtype).requires_grad_() if bias else None
    return hidden_ND, weight_VD, bias_V, torch.randint(words, (tokens,), generator=generator)


def whole(hidden_ND, weight_VD, bias_V, label_N, temperature, cap=None):
    """The same from the logits of all tokens, by autograd."""
    logits = torch.nn.functional.linear(hidden_ND, weight_VD, bias_V).float()
    z = (logits if cap is None else (logits / cap).tanh() * cap) / temperature
    logp_NV = z.log_softmax(-1)
    return logp_NV.gather(1, label_N[:, None])[:, 0], -(logp_NV.exp() * logp_NV).sum(-1)


def gradients(outputs, weights, leaves):
    loss = sum((output * weight).sum() for output, weight in zip(outputs, weights))
    return torch.autograd.grad(loss, [leaf for leaf in leaves if leaf is not None])


@pytest.mark.parametrize("chunk", [1, 8, TOKENS, 1000])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("cap", [None, 2.0, 30.0])
def test_values_and_gradients_are_those_of_whole_logits(chunk, bias, temperature, with_entropy, cap):
    *leaves, label_N = inputs(bias=bias)
    weights = torch.randn(2, TOKENS, generator=torch.Generator().manual_seed(1))
    found = chunked_log_probs(
        *leaves, label_N, temperature=temperature, chunk=chunk, with_entropy=with_entropy, cap=cap
    )
    expected = whole(*leaves, label_N, temperature, cap)
    if not with_entropy:
        assert found[1] is None
        found, expected = found[:1], expected[:1]
    for one, two in zip(found, expected):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=2e-6)
    for one, two in zip(gradients(found, weights, leaves), gradients(expected, weights, leaves)):
        assert (one - two).norm() < 1e-6 * two.norm()


def test_bf16_weights_get_gradients_as_exact_as_their_type_and_no_less_with_many_chunks():
    *leaves, label_N = inputs(torch.bfloat16, tokens=512)
    weights = torch.randn(1, 512, generator=torch.Generator().manual_seed(1))
    exact = gradients(
        whole(*[leaf if leaf is None else leaf.double() for leaf in leaves], label_N, 1.0), weights, leaves
    )
    for chunk in (512, 8):
        found = gradients(chunked_log_probs(*leaves, label_N, chunk=chunk)[:1], weights, leaves)
        for one, two in zip(found, exact):
            assert one.dtype == torch.bfloat16
            assert (one.double() - two.double()).norm() < 5e-3 * two.double().norm()


def test_only_what_needs_a_gradient_gets_one():
    hidden_ND, weight_VD, _, label_N = inputs()
    logp_N, _ = chunked_log_probs(hidden_ND.detach(), weight_VD, None, label_N, chunk=8)
    logp_N.sum().backward()
    assert weight_VD.grad is not None and hidden_ND.grad is None
    frozen, _ = chunked_log_probs(hidden_ND.detach(), weight_VD.detach(), None, label_N, chunk=8)
    assert not frozen.requires_grad


def test_the_derivative_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    label = torch.randint(7, (5,), generator=generator)
    hidden = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    found = chunked_log_probs(hidden, weight, None, label, temperature=0.7, chunk=2, with_entropy=True)
    [grad] = gradients(found, [torch.ones(5), torch.ones(5)], [hidden])
    step = 1e-6
    for place in ((0, 0), (3, 2)):
        moved = [hidden.detach().clone() for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (sum(part.sum() for part in whole64(one, weight, label)) for one in moved)
        assert grad[place].item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-4)


def whole64(hidden, weight, label):
    logp = (hidden @ weight.T / 0.7).log_softmax(-1)
    return logp.gather(1, label[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_alive_at_most_are_those_of_a_chunk(dtype):
    tokens, hidden, words, chunk = 2048, 16, 1000, 64
    *leaves, label_N = inputs(dtype, tokens=tokens, words=words, hidden=hidden)
    with LiveBytes() as counted:
        logp_N, _ = chunked_log_probs(*leaves, label_N, temperature=0.6, chunk=chunk)
        logp_N.sum().backward()
    of_a_chunk, of_all = chunk * words * 4, tokens * words * 4
    others = 2 * leaves[0].nbytes + 2 * words * hidden * 4 + 4 * tokens * 4
    assert of_a_chunk <= counted.largest <= max(of_a_chunk, leaves[0].nbytes)
    assert counted.peak < 3.5 * of_a_chunk + others < 0.3 * of_all
    with LiveBytes() as without:
        whole(*leaves, label_N, 0.6)[0].sum().backward()
    assert without.peak > 2 * of_all, "the count would not have seen whole logits"
