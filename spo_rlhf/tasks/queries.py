"""What a reward function is given: OpenRLHF hands it the prompt and the response as one text."""


def response_of(query: str, prompt: str) -> str:
    """Return what follows the prompt; decoding may have put a token before it or changed the space around it."""
    if query.startswith(prompt):
        return query[len(prompt) :]
    start = query.find(prompt.strip())
    if start < 0:
        raise ValueError("a query does not contain its prompt: raise --data.max_len if prompts are being cut")
    return query[start + len(prompt.strip()) :]
