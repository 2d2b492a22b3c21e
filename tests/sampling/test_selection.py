"""What is kept of samples: right ones, once each, so many a prompt; pairs of right and wrong."""

from collections import Counter
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.sampling import selection


def sample(prompt: int, response: str, reward: float) -> dict:
    return {"id": prompt, "prompt": f"p{prompt}", "label": "l", "response": response, "reward": reward}


# The reward follows from the response, as it does from a grader.
SAMPLES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=40).map(
    lambda pairs: [sample(prompt, f"r{number}", float(number % 3 == 0)) for prompt, number in pairs]
)


@given(SAMPLES, st.integers(1, 4))
def test_correct_keeps_different_right_responses_up_to_the_cap(samples, cap):
    kept = selection.correct(samples, 1.0, cap)
    assert all(row in samples and row["reward"] == 1 for row in kept)
    keys = [(row["id"], row["response"]) for row in kept]
    assert len(set(keys)) == len(keys)
    right = {(row["id"], row["response"]) for row in samples if row["reward"] == 1}
    available = Counter(prompt for prompt, _ in right)
    assert Counter(prompt for prompt, _ in keys) == {prompt: min(cap, n) for prompt, n in available.items()}


def test_correct_prefers_the_first_and_goes_by_the_threshold():
    samples = [sample(0, "a", 0.5), sample(0, "b", 1), sample(0, "b", 1), sample(0, "c", 2)]
    assert [row["response"] for row in selection.correct(samples, 1, 10)] == ["b", "c"]
    assert [row["response"] for row in selection.correct(samples, 0.5, 2)] == ["a", "b"]


@given(SAMPLES, st.integers(1, 6), st.integers(0, 5))
def test_pairs_are_right_beside_wrong_of_the_same_prompt_up_to_the_cap(samples, cap, seed):
    kept = selection.pairs(samples, 1.0, cap, seed)
    responses = {
        reward: {(row["id"], row["response"]) for row in samples if row["reward"] == reward} for reward in (0, 1)
    }
    every = {(p, right, wrong) for (p, right), (q, wrong) in product(responses[1], responses[0]) if p == q}
    keys = [(row["id"], row["chosen"], row["rejected"]) for row in kept]
    assert set(keys) <= every and len(set(keys)) == len(keys)
    available = Counter(prompt for prompt, *_ in every)
    assert Counter(prompt for prompt, *_ in keys) == {prompt: min(cap, n) for prompt, n in available.items()}
    assert all(
        row["chosen_reward"] == 1 and row["rejected_reward"] == 0 and row["prompt"] == f"p{row['id']}" for row in kept
    )


def test_which_pairs_are_drawn_depends_on_the_seed_alone():
    samples = [sample(0, f"{kind}{i}", float(kind == "right")) for kind in ("right", "wrong") for i in range(20)]
    first, again, other = (selection.pairs(samples, 1, 64, seed) for seed in (1, 1, 2))
    assert first == again and len(first) == 64
    assert first != other
