"""Seeds of requests: the same on every machine, others for other requests, and room for vLLM to count up from them."""

from spo_rlhf.core.seeds import derive_seed


def test_seeds_are_those_of_every_machine_and_fill_62_bits() -> None:
    assert derive_seed(42, "train", 0, "response", 1, 2) == 3241077502643439489
    seeds = [derive_seed(number) for number in range(400)]
    assert len(set(seeds)) == 400 and 2**61 < max(seeds) < 2**62 and min(seeds) >= 0


def test_what_a_seed_is_for_is_told_apart_by_type_and_place() -> None:
    assert len({derive_seed(*parts) for parts in [(1, "a"), (1, "b"), (2, "a"), ("1", "a"), (1, ("a",)), ()]}) == 6
