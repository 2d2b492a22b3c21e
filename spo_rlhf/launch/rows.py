"""Every row of the data is looked at before an engine starts, and what is wrong with them is told together."""

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from spo_rlhf.errors import UserError
from spo_rlhf.host.rows import RowFaults, half_surrogate, is_empty, label_text, no_answer, read_rows, value_fault
from spo_rlhf.rollout.prompts import PromptFormat, PromptTokenizer, standard_template

# Columns, by the option that names them, where a text with nothing in it is a mistake; a rejected response may be empty.
NEVER_EMPTY = {"input_key", "label_key", "prompt_key", "output_key", "chosen_key"}
KINDS = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


def settle_template(flat: argparse.Namespace, explicit: set[str]) -> list[str]:
    """Make `--data.input_template` one that OpenRLHF can format, in place, unless chat templates make the prompts.

    Returns lines to show. Raises UserError.
    """
    options, name = vars(flat), "data.input_template"
    chat = bool(options["data.apply_chat_template"])
    form = PromptFormat(chat=chat, system=options.get("spo.system_prompt"))
    form.check_system("--spo.system_prompt", f"set --data.apply_chat_template, or write it into --{name}")
    if chat:
        return [f"--{name} is not used: --data.apply_chat_template makes the prompts"] if name in explicit else []
    if options[name]:
        options[name] = standard_template(options[name], f"--{name}")
    return []


def row_fault(row: Mapping[str, Any], keys: Mapping[str, str], *, chat: bool | None) -> str | None:
    """What is wrong with a row, None where nothing is. `keys` has its columns by option.

    Without `chat` a prompt is a text; with it a text or a list of messages; None leaves that open.
    """
    for option, key in keys.items():
        value = row.get(key)
        if value is None or value != value:  # a number that a table's file leaves out is NaN
            return f"has no {key!r}; set --data.{option} (the row has {', '.join(map(str, row))})"
        if option in NEVER_EMPTY and is_empty(value):
            return f"has an empty {key!r}; fill or drop it"
        if fault := value_fault(key, value):
            return fault
        if option == "label_key" and (fault := no_answer(key, value)):
            return fault
        if option == "label_key" and type(value) not in KINDS:  # as a table's file may have it
            return f"has a {type(value).__name__} as {key!r}; write it as a text"
        if option != "label_key" and chat is not None and (fault := _prompt_fault(key, value, chat)):
            return fault
    return None


def _prompt_fault(key: str, value: Any, chat: bool) -> str | None:
    if isinstance(value, str):
        return None
    if not isinstance(value, list):
        return f"has {KINDS.get(type(value), type(value).__name__)} as {key!r}; give a text"
    if not chat:
        return f"has a list of chat messages as {key!r}; set --data.apply_chat_template, or give a text"
    if not all(isinstance(message, Mapping) and "role" in message and "content" in message for message in value):
        return f"has messages without role or content in {key!r}; give both to each"
    return None


class PromptRow(NamedTuple):
    """A row that can be asked: the text that the model reads, its label as a text, and the row's own id, if it has one."""

    prompt: str
    label: str
    id: Any


class PromptRows:
    """Prompts and labels of rows: what the model reads of each, and which prompts leave no room for a response."""

    def __init__(self, to_pair: Callable[[Any], tuple[str, Any]], token_ids: PromptTokenizer, max_len: int):
        self.to_pair, self.token_ids, self.max_len = to_pair, token_ids, max_len
        self.pairs: dict[int, PromptRow] = {}  # by the number of the row

    def take(self, number: int, row: Mapping[str, Any]) -> str | None:
        """Keep the row; what is wrong with it where its chat template refuses it."""
        try:
            prompt, label = self.to_pair(row)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            return f"is not taken by the chat template ({type(error).__name__}: {reason})"
        self.pairs[number] = PromptRow(prompt, label_text(label), row.get("id"))
        return None

    def add_unfit(self, faults: RowFaults, most: int) -> None:
        """Prompts among the first `most` that are no tokens, or fill `max_len`, are faults."""
        numbers = [number for number in self.pairs if number <= most]
        for start in range(0, len(numbers), 1000):
            batch = numbers[start : start + 1000]
            for number, ids in zip(batch, self.token_ids([self.pairs[number][0] for number in batch]), strict=True):
                if not ids:
                    faults.add(number, "has a prompt of no tokens; drop the row, or give another template")
                if len(ids) >= self.max_len:
                    faults.add(
                        number,
                        f"has a prompt of {len(ids)} tokens and --data.max_len is {self.max_len}; raise it or drop the row",
                    )


def check_jsonl(
    flag: str,
    path: str,
    keys: Mapping[str, str],
    *,
    chat: bool | None = None,
    prompts: PromptRows | None = None,
    most: int = sys.maxsize,
) -> int:
    """Every line of a local file is an object with the columns `keys` (by option), and a prompt that `prompts` takes.

    Returns the number of lines. Raises UserError.
    """
    faults, number = RowFaults(), 0
    kinds: dict[str, dict[str, int]] = {key: {} for key in keys.values()}
    for number, row in read_rows(path, faults):
        fault = row_fault(row, keys, chat=chat) or (prompts.take(number, row) if prompts else None)
        # What no library can read, in whatever column it stands.
        fault = fault or next(filter(None, (half_surrogate(key, [key, value]) for key, value in row.items())), None)
        if fault:
            faults.add(number, fault)
            continue
        for key in keys.values():
            kinds[key].setdefault(KINDS.get(type(row[key]), "null"), number)
    if prompts:
        prompts.add_unfit(faults, most)
    faults.refuse(f"--{flag} {path}")
    if number == 0:
        raise UserError(f"--{flag} {path}: it is empty; give a file with one JSON object a line")
    for key, first in kinds.items():
        if len(first) > 1:  # the libraries that read the file want a column of one kind
            found = " and ".join(f"{kind} in row {row}" for kind, row in first.items())
            raise UserError(f"--{flag} {path}: {key!r} is {found}; write all of them as texts")
    return number
