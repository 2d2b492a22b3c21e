"""The gradient of an optimizer step does not depend on how its batch is split over micro-batches and ranks.

The ranks are real processes with gloo, started by running this file. As DeepSpeed does, a step divides the loss of
each micro-batch by their number and averages the gradients over the ranks.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from spo_rlhf.core.loss import Clip, spo_loss
from spo_rlhf.core.metrics import k3
from spo_rlhf.core.ratio import unit_index
from spo_rlhf.core.units import RATIO_LEVELS

RESPONSES, TOKENS, FEATURES = 8, 6, 4
WORLD_SIZE = 4
CLIP, KL_COEF = Clip(low=0.1, high=0.1), 0.05
METRICS = ("loss", "policy", "kl", "mask_density", "masked_tokens")


def make_batch(empty: bool = False) -> dict[str, torch.Tensor]:
    """A batch in which responses 2, 6 and 7 have no masked token (in the empty one: none has)."""
    generator = torch.Generator().manual_seed(3)
    shape = (RESPONSES, TOKENS)
    old_logp = -torch.rand(shape, generator=generator, dtype=torch.float64)
    mask = torch.rand(shape, generator=generator) < 0.6
    mask[[2, 6, 7]] = False
    return {
        "features": torch.randn(*shape, FEATURES, generator=generator, dtype=torch.float64),
        "old_logp": old_logp,
        "adv": torch.randn(shape, generator=generator, dtype=torch.float64),
        "mask": mask & (not empty),
        "action_mask": torch.ones(shape, dtype=torch.bool),
        "unit_ids": torch.rand(shape, generator=generator).gt(0.5).cumsum(-1),
        "clip_scale": 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64),
    }


def step_gradient(
    batch: dict[str, torch.Tensor], micro_batches: list[list[int]], group=None, level: str = "token"
) -> torch.Tensor:
    """Gradient of one optimizer step on the responses of this rank; asserts that every metric is finite."""
    weight = torch.linspace(-0.3, 0.4, FEATURES, dtype=torch.float64, requires_grad=True)
    ranks = dist.get_world_size(group) if group else 1
    normalizer = batch["mask"][sum(micro_batches, [])].sum().double()
    if group:
        dist.all_reduce(normalizer, group=group)
    for rows in micro_batches:
        part = {key: tensor[rows] for key, tensor in batch.items()}
        logp = part["old_logp"] + torch.tanh(part["features"] @ weight)
        terms = spo_loss(
            logp,
            part["old_logp"],
            part["adv"],
            part["mask"],
            clip=CLIP,
            normalizer=normalizer / len(micro_batches),
            kl_T=k3(logp, part["old_logp"]),
            kl_mask=part["action_mask"],
            kl_coef=KL_COEF,
            scale=ranks,
            index=unit_index(level, part["mask"].shape, part["unit_ids"]),
            clip_scale=None if level == "token" else part["clip_scale"],
        )
        assert all(torch.isfinite(getattr(terms, name)).all() for name in METRICS)
        assert all(torch.isfinite(value) for value in terms.metrics.values())
        (terms.loss / len(micro_batches)).backward()
    gradient = weight.grad
    if group:
        dist.all_reduce(gradient, group=group)
    return gradient / ranks


WHOLE = [list(range(RESPONSES))]
MICRO_SPLITS = [
    [[0, 1, 2, 3], [4, 5, 6, 7]],
    [[0, 1, 3], [4, 5], [6, 7, 2]],  # the last one has no masked token
    [[row] for row in range(RESPONSES)],
    [[], list(range(RESPONSES))],
]
# The responses of each rank, in micro-batches; with 4 ranks the last one has no masked token.
RANK_SPLITS = {
    1: [[[0, 1, 2, 3], [4, 5, 6, 7]]],
    2: [[[0, 1], [2, 3]], [[4, 5], [6, 7]]],
    4: [[[0], [1]], [[2], [3]], [[4], [5]], [[6], [7]]],
}


@pytest.mark.parametrize("level", RATIO_LEVELS)
@pytest.mark.parametrize("micro_batches", MICRO_SPLITS, ids=str)
def test_gradient_is_the_same_for_every_split_over_micro_batches(micro_batches, level) -> None:
    whole = step_gradient(make_batch(), WHOLE, level=level)
    assert whole.abs().max() > 1e-3
    split = step_gradient(make_batch(), micro_batches, level=level)
    torch.testing.assert_close(split, whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("micro_batches", [WHOLE, *MICRO_SPLITS], ids=str)
def test_a_step_without_masked_tokens_has_no_gradient(micro_batches) -> None:
    assert (step_gradient(make_batch(empty=True), micro_batches) == 0).all()


def test_gradient_is_the_same_for_every_split_over_ranks(tmp_path: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), env.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr

    expected = {level: step_gradient(make_batch(), WHOLE, level=level).tolist() for level in RATIO_LEVELS}
    assert expected["token"] != expected["segment"] == expected["subsentence"] != expected["sequence"]
    for rank in range(WORLD_SIZE):
        of_rank = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert of_rank.keys() == {str(size) for size in RANK_SPLITS if rank < size}
        for gradients in of_rank.values():
            for level in RATIO_LEVELS:
                assert gradients[level] == pytest.approx(expected[level], rel=1e-10, abs=1e-12)
            assert gradients["empty"] == [0.0] * FEATURES


def run_rank(rank: int, folder: Path) -> None:
    """What each process does: the step in groups of 1, 2 and 4 ranks; the gradients go to a file."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD_SIZE)
    gradients = {}
    for size, splits in RANK_SPLITS.items():
        group = dist.new_group(list(range(size)))  # every rank has to call this, members or not
        if rank < size:
            gradients[size] = {
                level: step_gradient(make_batch(), splits[rank], group, level).tolist() for level in RATIO_LEVELS
            }
            gradients[size]["empty"] = step_gradient(make_batch(empty=True), splits[rank], group).tolist()
    (folder / f"rank{rank}.json").write_text(json.dumps(gradients))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    # Forked, so that torch is imported once; safe because nothing was computed in this process.
    multiprocessing.start_processes(run_rank, args=(Path(sys.argv[1]),), nprocs=WORLD_SIZE, start_method="fork")
