"""The policy's optimizer step in bfloat16 under DeepSpeed, at the shape of Qwen2.5-1.5B, against float32."""

import math
from pathlib import Path

import programs
import pytest
import shapes

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.save(tmp_path_factory.mktemp("shape") / "model", shapes.config("qwen2.5-1.5b"), "cuda")


@pytest.mark.parametrize(("zero", "grad_accum"), [(2, None), (2, "fp32"), (3, "fp32")])
def test_bf16_step_has_the_gradient_of_float32(zero: int, grad_accum: str | None, model: Path, figures: dict) -> None:
    more = ["--grad-accum", grad_accum] if grad_accum else []
    figures |= programs.run("actor_step", "--model", model, "--zero", zero, *more, limit_s=240)
    assert all(math.isfinite(norm) and norm > 0 for norm in figures["norms"])
    assert figures["norms"][0] == pytest.approx(figures["float32_norm"], rel=0.05)
