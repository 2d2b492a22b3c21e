"""Log-probabilities and entropies of given tokens from hidden states, without the logits of all tokens at once.

With hidden states h_N (N, D), the head's weight W (V, D) and temperature tau, for a token y at each place:

    z = h W^T / tau            log p(y) = z_y - logsumexp(z)            H = logsumexp(z) - sum_v p_v z_v

in float32 from the logits on. (N, V) logits of 32K tokens and 150K words are 18 GiB, several times over; here those of a chunk
of tokens exist at a time, and backward computes them again:

    d log p(y) / dz_v = [v = y] - p_v                                    dH / dz_v = -p_v (log p_v + H)

With a cap c the logits l = h W^T are c tanh(l / c), and dz/dl = (1 - tanh(l / c)^2) / tau, which is (1 - (z tau / c)^2) / tau.
"""

from typing import Any

import torch


class _ChunkedLogProbs(torch.autograd.Function):
    """See `chunked_log_probs`."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        label_N: torch.Tensor,
        temperature: float,
        chunk: int,
        with_entropy: bool,
        cap: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        size = len(hidden_ND)
        logp_N = torch.empty(size, dtype=torch.float32, device=hidden_ND.device)
        log_sum_N, entropy_N = torch.empty_like(logp_N), torch.empty_like(logp_N) if with_entropy else None
        for start in range(0, size, chunk):
            part = slice(start, start + chunk)
            z = _logits(hidden_ND[part], weight_VD, bias_V, temperature, cap)
            log_sum_N[part] = torch.logsumexp(z, -1)
            logp_N[part] = z.gather(1, label_N[part, None])[:, 0] - log_sum_N[part]
            if entropy_N is not None:
                z -= log_sum_N[part, None]  # log p
                entropy_N[part] = -(z.exp() * z).sum(-1)
        ctx.temperature, ctx.chunk, ctx.cap = temperature, chunk, cap
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, label_N, log_sum_N, entropy_N)
        return logp_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_logp_N, grad_entropy_N = grad_outputs
        hidden_ND, weight_VD, bias_V, label_N, log_sum_N, entropy_N = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        grad_hidden_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        # In float32 whatever the weight's type is: one chunk after the other is added.
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if wants_bias else None
        for start in range(0, len(hidden_ND), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            hidden, label = hidden_ND[part], label_N[part, None]
            z = _logits(hidden, weight_VD, bias_V, ctx.temperature, ctx.cap)
            slope = None if ctx.cap is None else (z * (ctx.temperature / ctx.cap)).square_().neg_().add_(1)
            z -= log_sum_N[part, None]
            if entropy_N is not None:
                p = z.exp()
                z += entropy_N[part, None]
                z *= grad_entropy_N[part, None]
                z += grad_logp_N[part, None]
                z *= p
                grad_z = z.neg_()
            else:
                grad_z = z.exp_().mul_(-grad_logp_N[part, None])
            grad_z.scatter_add_(1, label, grad_logp_N[part, None])
            if ctx.temperature != 1:
                grad_z /= ctx.temperature
            if slope is not None:
                grad_z *= slope
            grad_logits = grad_z.to(hidden.dtype)
            if grad_hidden_ND is not None:
                torch.mm(grad_logits, weight_VD, out=grad_hidden_ND[part])
            if grad_weight_VD is not None:
                if hidden.dtype == torch.float32:
                    grad_weight_VD.addmm_(grad_logits.T, hidden)
                else:
                    grad_weight_VD += grad_logits.T @ hidden
            if grad_bias_V is not None:
                grad_bias_V += grad_z.sum(0)
        return (
            grad_hidden_ND,
            None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype),
            None if grad_bias_V is None else grad_bias_V.to(bias_V.dtype),
            None,
            None,
            None,
            None,
            None,
        )


def _logits(
    hidden: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None, temperature: float, cap: float | None
) -> torch.Tensor:
    """Float32 logits of some tokens, a tensor of their own."""
    logits = hidden @ weight_VD.T
    if bias_V is not None:
        logits += bias_V
    z = logits.float()
    if cap is not None:
        z = z.div_(cap).tanh_().mul_(cap)
    if temperature != 1:
        z /= temperature
    return z


def chunked_log_probs(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    label_N: torch.Tensor,
    *,
    temperature: float = 1.0,
    chunk: int,
    with_entropy: bool = False,
    cap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities (N,) of `label_N` and, where asked for, entropies (N,), in nats, float32, both differentiable. `cap`: of the logits, for a model that caps them.

    Beside inputs and results it holds float32 logits of `chunk` tokens at most three times, with a cap four times, and in backward the gradient of the
    weight in float32. The weight is looked at anew in backward: a parameter may be elsewhere in between (ZeRO-3).
    """
    return _ChunkedLogProbs.apply(hidden_ND, weight_VD, bias_V, label_N, temperature, chunk, with_entropy, cap)  # pyright: ignore[reportReturnType]
