"""The replay buffer of tree nodes: what goes in comes out once, or is counted."""

from collections import Counter
from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.methods.replay import NodeReplay


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=25),
    max_age=st.integers(1, 5),
    per_prompt=st.integers(0, 12),
    budget=st.integers(1, 40),
    multiple=st.integers(1, 8),
)
def test_nothing_is_lost_without_being_counted(sizes, max_age, per_prompt, budget, multiple) -> None:
    replay = NodeReplay(max_age, per_prompt, seed=0)
    made_in, seen = {}, []
    for iteration, size in enumerate(sizes):
        new = [(iteration, number) for number in range(size)]
        made_in |= dict.fromkeys(new, iteration)
        # Two prompts share the samples; the second comes back in every other iteration.
        replay.add("a", iteration, new[::2])
        replay.add(f"b{iteration // 2}", iteration, new[1::2])
        drawn, ages = replay.draw(iteration, budget, multiple)
        assert len(drawn) % multiple == 0 and len(drawn) <= budget
        assert ages == Counter(iteration - made_in[sample] for sample in drawn)
        assert all(age < max_age for age in ages)
        if per_prompt:
            prompts = Counter("a" if number % 2 == 0 else f"b{made // 2}" for made, number in drawn)
            assert max(prompts.values(), default=0) <= per_prompt
        seen += drawn
        assert replay.added == replay.drawn + replay.expired + len(replay)
    assert len(seen) == len(set(seen)) == replay.drawn, "a node is trained once"


def test_without_replay_an_iteration_sees_its_own_nodes_alone() -> None:
    replay = NodeReplay(max_age=1, per_prompt=0, seed=0)
    for iteration in range(3):
        replay.add("a", iteration, [(iteration, n) for n in range(10)])
        drawn, ages = replay.draw(iteration, budget=8, multiple=4)
        assert len(drawn) == 8 and set(ages) == {0}
    assert replay.expired == 4 and len(replay) == 2


def test_new_nodes_are_not_needed_to_draw() -> None:
    replay = NodeReplay(max_age=3, per_prompt=4, seed=0)
    replay.add("a", 0, list(range(12)))
    sizes = []
    for iteration in range(4):
        replay.add("b", iteration, [])
        sizes.append(len(replay.draw(iteration, budget=8, multiple=2)[0]))
    assert sizes == [4, 4, 4, 0]


def test_a_resumed_buffer_draws_what_the_unbroken_one_draws(tmp_path) -> None:
    """Its file holds no pickle: a sample is rebuilt of its fields."""

    def fill(replay, iteration):
        new = [SimpleNamespace(name=f"{iteration}-{n}", values=torch.full((1, 3), 0.1 * n)) for n in range(9)]
        replay.add("a", iteration, new)
        drawn, ages = replay.draw(iteration, budget=4, multiple=2)
        return [(one.name, one.values.tolist()) for one in drawn], ages

    unbroken = NodeReplay(4, 6, seed=3)
    for iteration in range(3):
        fill(unbroken, iteration)
    unbroken.save(tmp_path)
    resumed = NodeReplay(4, 6, seed=3)
    assert resumed.load(tmp_path, lambda fields: SimpleNamespace(**fields))
    for iteration in range(3, 8):
        assert fill(resumed, iteration) == fill(unbroken, iteration)
    assert (resumed.added, resumed.drawn, resumed.expired) == (unbroken.added, unbroken.drawn, unbroken.expired)


def test_a_checkpoint_without_a_buffer_is_told(tmp_path) -> None:
    assert not NodeReplay(4, 6, seed=3).load(tmp_path, dict)


def test_waiting_samples_that_do_not_fit_are_dropped() -> None:
    buffer = NodeReplay(8, 0, seed=0)
    buffer.add("a", 0, [1, 2, 3])
    buffer.add("b", 1, [4])
    assert buffer.keep(lambda sample: sample % 2 == 0) == 2
    drawn, _ = buffer.draw(1, 4, 1)
    assert sorted(drawn) == [2, 4]
