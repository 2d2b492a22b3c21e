"""What each token adds to the text of a response, for partitions and ratio units that look at text."""

from collections.abc import Sequence
from typing import Any

from spo_rlhf.errors import UserError

PROBE = "So x = 3.14, and y: done.\n"


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """Text (T,) that each token adds to those before it, from a fast tokenizer of transformers.

    Decoding tokens one by one would lose what only the sequence tells: the space that SentencePiece puts before a
    word, and characters of several byte tokens, which are the text of the token that completes them.
    """
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer.backend_tokenizer, token) or "" for token in token_ids]


def check_tokenizer(tokenizer: Any, name: str, flag: str) -> None:
    """Raise UserError unless the tokenizer of the model `name` gives the text of each token, which `flag` needs."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        why = "it has no fast form (tokenizer.json)"
    else:
        token_ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        if "".join(token_texts(tokenizer, token_ids)) == tokenizer.decode(token_ids, skip_special_tokens=False):
            return
        why = "the texts of its tokens do not add up to the text"
    raise UserError(
        f"{flag} needs the text of each token, and the tokenizer of {name} does not map tokens to text: {why}"
    )
