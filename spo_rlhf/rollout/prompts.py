"""The one way from a row's prompt to what the model reads: template, chat template, token ids.

`PromptFormat.read` is what training, sampling and evaluation give their engines: `text`, and its ids by
`PromptTokenizer`. In training the two are made in different processes. Nothing else puts a token before or behind a
prompt.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spo_rlhf.errors import UserError

# Braces with nothing in them: a place for the prompt, unless they are doubled or the argument of a TeX command.
BRACES = re.compile(r"(?P<command>\\[A-Za-z]{2,})?(?P<braces>\{\{\}\}|\{\})")
COMMAND = re.compile(r"\\[A-Za-z]{2,}$")
PROBE = "a"
IMAGE = "<image>"  # in a text for a model that sees: the place of a picture
LEAVE_OUT = "leave it out or use another model"


def standard_template(template: str, flag: str) -> str:
    r"""The template as `str.format` takes it: one place `{}`, and all other braces doubled.

    A template that `str.format` takes already stays as it is. In any other all braces but the place are text: the
    place is the one `{}` that does not follow a TeX command, so that `\boxed{}` may stand beside it.

    Raises:
        UserError: no such place, or several; names `flag`.
    """
    before = _before_place(template)
    if before is not None and not COMMAND.search(before):
        return template
    places = [found for found in BRACES.finditer(template) if found["braces"] == "{}" and not found["command"]]
    if len(places) != 1:
        raise UserError(
            f"{flag} {template!r}: it has {len(places) or 'no'} places {{}} for the prompt; "
            "write {} once, where the prompt goes, and {{}} for braces that are text"
        )
    start, end = places[0].span("braces")
    return "{}".join(_as_text(part) for part in (template[:start], template[end:]))


def _before_place(template: str) -> str | None:
    """The text before the one place that `str.format` finds; None where it finds another number, or other fields."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return None
    fields = [number for number, (_, *field) in enumerate(parts) if field[0] is not None]
    if [parts[number][1:] for number in fields] != [("", "", None)]:
        return None
    return "".join(text for text, *_ in parts[: fields[0] + 1])


def _as_text(part: str) -> str:
    return part.replace("{{}}", "{}").replace("{", "{{").replace("}", "}}")


@dataclass(frozen=True)
class PromptFormat:
    """How the prompt of a row, a text or a list of chat messages, becomes the text that the model reads."""

    template: str | None = None  # as `standard_template` gives it; of no meaning with `chat`
    chat: bool = False  # by the tokenizer's chat template
    system: str | None = None  # a message before a prompt that is one text
    chat_template: str | None = None  # in place of the tokenizer's own

    def check(self, tokenizer: Any, name: str, flag: str, instead: str = LEAVE_OUT) -> None:
        """Raise UserError where `flag` asks for a chat template and the tokenizer of the model `name` has none."""
        if self.chat and not (self.chat_template or getattr(tokenizer, "chat_template", None)):
            raise UserError(f"{flag}: the tokenizer of {name} has no chat template; {instead}")

    def check_system(self, flag: str, instead: str) -> None:
        """Raise UserError where there is a system message, by `flag`, and no chat template to put it into."""
        if self.system and not self.chat:
            raise UserError(f"{flag}: only a chat template has a place for it; {instead}")

    def read(self, prompts: Sequence[str | list[dict[str, Any]]], tokenizer: Any) -> list[tuple[str, list[int]]]:
        """What the model reads of each prompt: the text, and its token ids (P,)."""
        texts = [self.text(prompt, tokenizer) for prompt in prompts]
        return list(zip(texts, self.token_ids(tokenizer)(texts), strict=True))

    def pair(self, row: Mapping[str, Any], tokenizer: Any, input_key: str, label_key: str | None) -> tuple[str, Any]:
        """Text and label of a row of training data; "" without a `label_key`."""
        return self.text(row[input_key], tokenizer), row[label_key] if label_key else ""

    def token_ids(self, tokenizer: Any) -> "PromptTokenizer":
        """What makes token ids of the texts."""
        return PromptTokenizer(tokenizer, chat=self.chat)

    def text(self, prompt: str | list[dict[str, Any]], tokenizer: Any) -> str:
        """What the model reads, beginning-of-text token left out unless template or chat template spell it."""
        if not self.chat:
            assert isinstance(prompt, str), "rows of messages are refused without a chat template"
            return self.template.format(prompt) if self.template else prompt
        messages: list[dict[str, Any]] = []
        if isinstance(prompt, str):
            before = [{"role": "system", "content": self.system}] if self.system else []
            messages = [*before, {"role": "user", "content": prompt}]
        else:
            messages = prompt
        if hasattr(tokenizer, "image_processor"):
            messages = [{**message, "content": _with_images(message["content"])} for message in messages]
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, chat_template=self.chat_template
        )


def _with_images(content: Any) -> Any:
    """A message's text as the parts that a processor's chat template takes, where it has places for pictures."""
    if not isinstance(content, str) or IMAGE not in content:
        return content
    parts: list[dict[str, str]] = []
    for number, text in enumerate(content.split(IMAGE)):
        parts += [{"type": "image"}] * (number > 0)
        parts += [{"type": "text", "text": text.strip()}] * bool(text.strip())
    return parts


class PromptTokenizer:
    """Token ids of prompts, with exactly one beginning-of-text token where the tokenizer's own convention wants one.

    A plain text begins as the tokenizer begins every text (`<s>` of Llama's, nothing of Qwen's); what it puts *behind* a
    text, as T5's does, would end the prompt and is left out. A chat template writes its special tokens itself, the first
    one too or not. A beginning that is spelled twice, or spelled and added, is there once; `is_doubled` tells.
    """

    def __init__(self, tokenizer: Any, *, chat: bool):
        self.tokenizer, self.chat = getattr(tokenizer, "tokenizer", tokenizer), chat  # that of a processor
        self.added = _beginning(self.tokenizer)  # what a plain text gets, mostly one token
        bos = getattr(self.tokenizer, "bos_token_id", None)
        self.beginning = self.added or ([] if bos is None else [int(bos)])

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids (P,) of each text."""
        return [self._wanted(spelled) + rest for spelled, rest in map(self._split, self._plain_ids(texts))]

    def is_doubled(self, text: str) -> bool:
        """The tokenizer by itself would give the text two beginnings: it spells one already, or two."""
        [(spelled, _)] = map(self._split, self._plain_ids([text]))
        return spelled + bool(self.added and not self.chat) > 1

    def _plain_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def _split(self, ids: list[int]) -> tuple[int, list[int]]:
        """How many beginnings the text spells, and the ids behind them."""
        spelled, size = 0, len(self.beginning)
        while size and ids[spelled * size : (spelled + 1) * size] == self.beginning:
            spelled += 1
        return spelled, ids[spelled * size :]

    def _wanted(self, spelled: int) -> list[int]:
        return self.beginning if spelled or (self.added and not self.chat) else []


def _beginning(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text."""
    bare = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(PROBE)["input_ids"]
    starts = range(len(whole) - len(bare) + 1)
    return whole[: next((start for start in starts if whole[start : start + len(bare)] == bare), 0)]
