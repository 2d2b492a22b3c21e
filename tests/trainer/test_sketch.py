"""What is kept of hidden states: as many numbers as asked for, the same map for all, distances about as they were."""

import torch

from spo_rlhf.trainer.sketch import Sketch


def test_a_sketch_is_one_linear_map_that_the_seed_decides():
    hidden = torch.randn(2, 5, 300, generator=torch.Generator().manual_seed(0))
    first, second = Sketch(64, seed=7), Sketch(64, seed=7)
    first.keep([hidden[:1], hidden[1:].bfloat16()])
    one, two = first.take()
    assert one.shape == two.shape == (1, 5, 64) and one.dtype == two.dtype == torch.float32 and first.take() == []
    torch.testing.assert_close(one, second.projected(hidden[:1]))
    torch.testing.assert_close(second.projected(2 * hidden[:1]), 2 * one)
    assert not torch.allclose(Sketch(64, seed=8).projected(hidden[:1]), one)


def test_distances_survive_on_the_average_and_small_states_whole():
    hidden = torch.randn(200, 1000, generator=torch.Generator().manual_seed(1))
    kept = Sketch(64, seed=0).projected(hidden)
    ratio = (kept[:100] - kept[100:]).norm(dim=-1) / (hidden[:100] - hidden[100:]).norm(dim=-1)
    assert 0.95 < (ratio * (1000 / 64) ** 0.5).mean() < 1.05
    small = Sketch(8, seed=0).projected(hidden[:, :5])
    assert torch.equal(small[:, :5], hidden[:, :5]) and not small[:, 5:].any()
