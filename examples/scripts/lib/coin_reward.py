"""A reward for smoke runs: about half of all responses get 1, whatever they say, so that a small model has advantages."""


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict:
    """1 where the bytes of prompt and response add up to an odd number."""
    return {"rewards": [float(sum(query.encode()) % 2) for query in queries]}
