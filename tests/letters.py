"""Tokenizers of one token a character, in whichever convention a test wants."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, EOS, TURN = "<s>", "</s>", "<|end|>"
LETTERS = ["Ġ", "Ċ", *"abcdefghijklmnopqrstuvwxyzUA:?+0123456789\\{}"]
VOCABULARY = {token: number for number, token in enumerate([BOS, EOS, TURN, "<pad>", *LETTERS])}
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}" + TURN + "{% endfor %}assistant:"


def make_tokenizer(*, before: str = "", behind: str = "", **settings) -> PreTrainedTokenizerFast:
    """One token a character; `before` and `behind` are what it puts around every text by itself."""
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token=EOS))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Split("", "isolated")]
    )
    backend.decoder = decoders.ByteLevel()
    around = [token for token in (before, behind) if token]
    if around:
        single = [*([before] if before else []), "$A", *([behind] if behind else [])]
        backend.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[(token, VOCABULARY[token]) for token in around]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{"bos_token": BOS, "eos_token": EOS, "pad_token": "<pad>", **settings}
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [TURN]})
    return tokenizer


def spelled(tokenizer, ids) -> str:
    return "".join("\n" if token == "Ċ" else token.replace("Ġ", " ") for token in tokenizer.convert_ids_to_tokens(ids))
