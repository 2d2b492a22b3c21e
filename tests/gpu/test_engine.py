"""vLLM's CUDA engine with the project's options: the probabilities are the actor's, and new weights arrive."""

from pathlib import Path

import programs
import pytest
import shapes

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.save(tmp_path_factory.mktemp("shape") / "model", shapes.config("qwen2.5-0.5b"), "cuda")


@pytest.fixture(scope="module")
def new_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.save(tmp_path_factory.mktemp("new") / "model", shapes.config("qwen2.5-0.5b"), "cuda", seed=1)


@pytest.mark.parametrize("attention", [None, "TRITON_ATTN"])
def test_engine_samples_from_the_policy(attention: str | None, model: Path, new_model: Path, figures: dict) -> None:
    more = ["--attention", attention] if attention else []
    figures |= programs.run("engine_check", "--model", model, "--new-model", new_model, *more, limit_s=480)
    assert figures["gap_float32"]["mean"] < 0.05
    assert figures["gap_float32"]["mask_differs"] < 0.02
    assert figures["sleep_frees_gib"] > 5
    assert figures["weights_change_seen"]
    assert figures["buckets"] > 2
    assert figures["gap_after_buckets"]["mean"] < 0.05 < figures["gap_before_buckets"]["mean"] / 4
