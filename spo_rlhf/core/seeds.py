"""Seeds of requests and draws, derived from the seed of the run and from what they are for."""

import hashlib

# vLLM gives the i-th of n continuations the seed `seed + i`: stay clear of the end of int64.
SEED_BITS = 62
#: The largest that a command takes: numpy wants 32 bits, and engines and ranks add their number to it.
LARGEST_SEED = 2**31 - 1


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**62) from the run's seed and what names the request: equal parts, equal seed, on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - SEED_BITS)
