"""Token texts: what each token adds, whatever the tokenizer does with spaces and bytes."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from spo_rlhf.core.units import unit_ids
from spo_rlhf.errors import UserError
from spo_rlhf.rollout.texts import check_tokenizer, token_texts
from spo_rlhf.tasks import small_model


@pytest.fixture(scope="module")
def byte_level():
    return small_model.build_tokenizer(["He has 3.14, so yes.\n"] * 3)


def sentencepiece_like(*, with_space: bool = True) -> PreTrainedTokenizerFast:
    """Words with the space before them, as SentencePiece has them; without it, spaces are lost in decoding."""
    words = ["▁x", "▁=", "▁3", ".", "▁5", "▁So", "▁14", ",", "▁and", "▁y", ":", "▁done", "\n", "14", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace() if with_space else decoders.Replace("▁", "")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("text", ["He has 3.14, so yes.\n", "你好，世界。ok", "a\n\n  b"])
def test_texts_add_up_to_the_text(byte_level, text):
    token_ids = byte_level(text)["input_ids"]
    assert "".join(token_texts(byte_level, token_ids)) == text


def test_a_character_of_several_tokens_is_the_text_of_the_last(byte_level):
    token_ids = byte_level("a，b")["input_ids"]
    assert len(token_ids) == 5
    assert token_texts(byte_level, token_ids) == ["a", "", "", "，", "b"]
    assert unit_ids("subsentence", [], token_texts(byte_level, token_ids)) == [1, 1, 1, 1, 2]


def test_a_space_before_a_word_tells_a_sentence_end_from_a_number():
    tokenizer = sentencepiece_like()
    vocabulary = tokenizer.get_vocab()
    for last, units in (("▁5", [1, 1, 1, 1, 2]), ("14", [1, 1, 1, 1, 1])):
        token_ids = [vocabulary[token] for token in ("▁x", "▁=", "▁3", ".", last)]
        assert unit_ids("subsentence", [], token_texts(tokenizer, token_ids)) == units


def test_a_tokenizer_without_token_texts_is_refused_in_one_line(byte_level):
    check_tokenizer(byte_level, "MODEL", "--flag")
    with pytest.raises(
        UserError, match="^--flag needs the text of each token, and the tokenizer of MODEL .* no fast form"
    ):
        check_tokenizer(ByT5Tokenizer(), "MODEL", "--flag")
