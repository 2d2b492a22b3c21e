"""Batches that are sent before they are fetched: every prompt once, each answer in its batch, and the place that a checkpoint takes."""

from types import SimpleNamespace
from typing import Any

import pytest
from batches import SPO

from spo_rlhf.rollout.records import Rollout, RolloutCounts, Sample
from spo_rlhf.trainer.ahead import Ahead
from spo_rlhf.trainer.samples import SegmentSamplesGenerator

BATCH = 4


class Data:
    """A loader of numbered prompts that knows where it stands, as OpenRLHF's; an episode is told from the next by its name."""

    def __init__(self, prompts: int):
        self.prompts, self.next, self.episode, self.loaded = prompts, 0, 0, False

    def __iter__(self):
        if not self.loaded:
            self.next, self.episode = 0, self.episode + 1
        self.loaded = False
        return self._go_on(self.next, self.episode)

    def _go_on(self, start: int, episode: int):
        for number in range(start, self.prompts):
            self.next = number + 1
            yield None, [f"{episode}-{number}"], ["label"], [None]

    def state_dict(self):
        return {"next": self.next, "episode": self.episode}

    def load_state_dict(self, state):
        self.next, self.episode, self.loaded = state["next"], state["episode"], True


class Engines:
    """Answers two requests a look, the last sent first; those to prompts named in `dull` have nothing to teach."""

    def __init__(self, dull=()):
        self.dull, self.requests = dull, []

    @property
    def pending(self):
        return len(self.requests)

    def submit(self, request):
        self.requests.append(request)

    def take(self, limit_s):
        taken, self.requests = self.requests[-2:], self.requests[:-2]
        return [(one, self._answer(one)) for one in taken]

    def _answer(self, one):
        scores = [1.0, 1.0 if one.prompt in self.dull else 0.0]
        samples = [Sample([1], [(0, 1)], None, truncated=False, reward=score, score=score) for score in scores]
        return Rollout(one.prompt, one.label, one.slot, 0, RolloutCounts(responses=1), samples)


def generator(prompts: int, dull=(), filtered: bool = False) -> SegmentSamplesGenerator:
    algo = SimpleNamespace(dynamic_filtering_enable=filtered, dynamic_filtering_range=(0.0, 1.0))
    args = SimpleNamespace(
        spo=SPO,
        algo=algo,
        train=SimpleNamespace(seed=1),
        data=SimpleNamespace(max_len=99),
        vllm=SimpleNamespace(enable_sleep=False),
        rollout=SimpleNamespace(batch_size=BATCH, n_samples_per_prompt=2),
    )
    engines: Any = Engines(dull)
    reporter: Any = SimpleNamespace(progress=lambda stage: None, note=lambda text: None)
    return SegmentSamplesGenerator(
        SimpleNamespace(args=args),
        Data(prompts),
        None,
        None,
        [],
        engines=engines,
        reporter=reporter,
        check_rewards=lambda: None,
        check_stop=lambda: None,
    )


def run(
    one: SegmentSamplesGenerator, bound: int, episodes: int, places=None, iteration: int = 0, steps: int = 99
) -> list:
    """The prompts of each batch and whether the episode ended with it, as the loop fetches them."""
    ahead, fetched = Ahead(bound), []
    episode = one.episode
    while episode < episodes and len(fetched) < steps:
        if places is not None:
            places.append((one.place(), episode, iteration))
        batch = one.generate(iteration)
        one.send_ahead(iteration, ahead.may_send, episodes)
        fetched.append(([rollout.prompt for rollout in batch.rollouts], batch.exhausted))
        iteration, episode = iteration + 1, episode + batch.exhausted
    return fetched


@pytest.mark.parametrize("prompts", [8, 10, 3])
@pytest.mark.parametrize("bound", [1, 2, 3])
def test_the_batches_are_those_of_a_run_that_sends_none_ahead(prompts, bound):
    alternating = run(generator(prompts), 0, episodes=3)
    assert run(generator(prompts), bound, episodes=3) == alternating
    seen = [prompt for batch, _ in alternating for prompt in batch]
    assert seen == [f"{episode}-{number}" for episode in (1, 2, 3) for number in range(prompts)]
    assert sum(exhausted for _, exhausted in alternating) == 3


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_a_checkpoint_of_any_moment_loses_no_prompt(bound):
    places = []
    whole = run(generator(10), bound, episodes=2, places=places)
    for done, (place, episode, iteration) in enumerate(places):
        resumed = generator(10)
        resumed.episode = episode
        resumed.prompts_dataloader.episode = episode
        resumed.go_on_from(place["prompts"])
        assert run(resumed, bound, episodes=2, iteration=iteration) == whole[done:]


def test_while_a_batch_is_in_flight_further_ones_are_sent_and_none_of_an_episode_too_many():
    one: Any = generator(8)
    one.generate(0)
    one.send_ahead(0, Ahead(9).may_send, episodes=2)
    assert [sent.batch.sent for sent in one._ahead] == [4, 0, 4, 4, 0] and one.engines.pending == 12
    assert {request.seed for request in one.engines.requests} == {(1, "train", 1), (1, "train", 3), (1, "train", 4)}
    one.settle()
    assert one.engines.pending == 0 and not one._sent
    assert [one.generate(iteration).exhausted for iteration in range(1, 6)] == [False, True, False, False, True]


@pytest.mark.parametrize("bound", [0, 1])
def test_what_dynamic_filtering_leaves_out_is_replaced_also_behind_the_training(bound):
    dull = {"1-0", "1-5", "1-6", "1-7"}
    fetched = run(generator(12, dull, filtered=True), bound, episodes=1)
    assert [batch for batch, _ in fetched] == [["1-1", "1-2", "1-3", "1-4"], ["1-8", "1-9", "1-10", "1-11"], []][
        : len(fetched)
    ]
    assert fetched[-1][1] and not any(exhausted for _, exhausted in fetched[:-1])


@pytest.mark.parametrize("bound", [0, 1, 2, 3])
def test_a_checkpoint_trains_no_prompt_twice_that_has_replaced_a_filtered_one(bound):
    """With batches in flight behind it a batch draws its replacements behind theirs, and is trained before them."""
    dull, places = {"1-0", "1-1", "1-5", "1-9", "1-12", "2-3", "2-4"}, []
    whole = run(generator(16, dull, filtered=True), bound, episodes=2, places=places)
    kept = sorted(f"{episode}-{number}" for episode in (1, 2) for number in range(16))
    kept = [prompt for prompt in kept if prompt not in dull]
    assert sorted(prompt for batch, _ in whole for prompt in batch) == kept
    assert any(place["passed"] for place, _, _ in places) is (bound > 1)
    for done, (place, episode, iteration) in enumerate(places):
        resumed, again = generator(16, dull, filtered=True), []
        resumed.episode = resumed.prompts_dataloader.episode = episode
        resumed.go_on_from(place["prompts"], place["passed"])
        rest = run(resumed, bound, episodes=2, places=again, iteration=iteration)
        assert sorted(prompt for batch, _ in whole[:done] + rest for prompt in batch) == kept, done
        for more, (second, episode, iteration) in enumerate(again):  # and broken off once more
            third = generator(16, dull, filtered=True)
            third.episode = third.prompts_dataloader.episode = episode
            third.go_on_from(second["prompts"], second["passed"])
            last = run(third, bound, episodes=2, iteration=iteration)
            assert sorted(prompt for batch, _ in whole[:done] + rest[:more] + last for prompt in batch) == kept


def test_what_is_not_trained_any_more_is_told():
    one: Any = generator(12)
    notes = []
    one.reporter.note = notes.append
    one.generate(0)
    one.send_ahead(0, Ahead(2).may_send, episodes=1)
    one.leave_out_rest()
    assert notes == ["8 prompts that were sampled ahead are not trained on: --spo.token_budget is used up"]
    one.leave_out_rest()
    assert len(notes) == 1 and one.engines.pending == 0
