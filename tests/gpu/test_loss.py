"""The masked segment loss in float32 on the GPU against float64 on the CPU."""

import pytest
import torch

from spo_rlhf.core.loss import Clip, policy_mask, spo_loss
from spo_rlhf.core.metrics import k3
from spo_rlhf.core.ratio import unit_index

pytestmark = pytest.mark.gpu
BATCHES = 200
CLIP_LOW, CLIP_HIGH, DUAL = 0.2, 0.28, 3.0


def loss_and_gradient(seed: int, level: str, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 48 + seed % 80)

    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    old = -1.5 * torch.rand(shape, generator=generator, dtype=torch.float64)
    logp, reference, adv = old + normal(0.3), old + normal(0.2), normal(1.0)
    actions = torch.rand(shape, generator=generator) < (0.0 if seed % 19 == 0 else 0.8)
    # Decided in float64 for both: else a probability within rounding of the threshold is masked in one of them only.
    mask = policy_mask(old, actions, 0.9)
    segments = torch.arange(shape[1]).div(8, rounding_mode="floor").expand(shape)
    index = unit_index(level, torch.Size(shape), unit_ids=segments)

    def on(value: torch.Tensor) -> torch.Tensor:
        return value.to(device, dtype)

    leaf = on(logp).requires_grad_()
    terms = spo_loss(
        leaf,
        on(old),
        on(adv),
        mask.to(device),
        clip=Clip(CLIP_LOW, CLIP_HIGH, DUAL if seed % 2 else None),
        normalizer=float(mask.sum()),
        kl_T=k3(leaf, on(reference)),
        kl_mask=actions.to(device),
        kl_coef=0.01,
        action_mask=actions.to(device),
        index=index.to(device),
    )
    terms.loss.backward()
    assert leaf.grad is not None
    return terms.loss.detach().double().cpu(), leaf.grad.double().cpu()


@pytest.mark.parametrize("level", ["token", "segment", "sequence"])
def test_loss_and_gradient_are_those_of_float64(level: str, figures: dict) -> None:
    worst_loss = worst_gradient = 0.0
    differing = positions = 0
    for seed in range(BATCHES):
        loss, gradient = loss_and_gradient(seed, level, "cuda", torch.float32)
        exact_loss, exact = loss_and_gradient(seed, level, "cpu", torch.float64)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
        worst_loss = max(worst_loss, float((loss - exact_loss).abs() / exact_loss.abs().clamp(min=1e-3)))
        # A ratio within rounding of a clip bound lies inside it in one precision and outside in the other.
        scale = exact.abs().max().clamp(min=1e-12)
        far = (gradient - exact).abs() > 1e-4 * scale
        differing, positions = differing + int(far.sum()), positions + far.numel()
        if exact.norm() > 0:
            worst_gradient = max(worst_gradient, float((gradient - exact)[~far].norm() / exact.norm()))
    figures |= dict(level=level, batches=BATCHES, loss_gap=worst_loss, gradient_gap=worst_gradient, ties=differing)
    assert worst_loss < 1e-4
    assert worst_gradient < 1e-5
    assert differing <= positions * 1e-4
