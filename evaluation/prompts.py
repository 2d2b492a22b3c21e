"""Prompts as the model sees them: a task's or a named one, few-shot examples, chat template.

And the published hashes of the prompts behind the paper's table.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import read_jsonl
from spo_rlhf.rollout.prompts import PromptFormat
from spo_rlhf.tasks.prompts import PROMPTS
from spo_rlhf.tasks.task import BOXED, Prompt

# lighteval's provenance hashes of the paper's result files: of the questions, and of the prompts with a chat template
# whose generation prompt does (not) end in "<think>\n".
PUBLISHED_HASHES = {
    "math500": {
        "adf0cc8311011db2": "questions",
        "63c902dbdbaf1552": "prompts with <think>",
        "abc7b1cc014dd095": "prompts without <think>",
    },
    "aime24": {
        "ddec8fc79d0a014b": "questions",
        "253167becf0dfed7": "prompts with <think>",
        "f9804bfb1e04507e": "prompts without <think>",
    },
}


def choose_prompt(name: str | None, system: str | None, chat_template: str, own: Prompt = BOXED) -> Prompt:
    """A prompt by name, or a template file with {problem} in it, or else the task's own; then the user's changes to it.

    `chat_template` is "auto", which leaves to the prompt whether it is one for chats, "none", or any other to use one.

    Raises:
        UserError: no such name or file, or a template without {problem}.
    """
    if name is None:
        prompt = own
    elif name in PROMPTS:
        prompt = PROMPTS[name]
    elif Path(name).is_file():
        try:
            prompt = Prompt(Path(name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"--prompt {name}: {error}") from None
    else:
        raise UserError(f"--prompt: {name!r} is neither a preset ({', '.join(PROMPTS)}) nor a file")
    if system is not None:
        prompt = replace(prompt, system=system)
    if chat_template != "auto":
        prompt = replace(prompt, chat=chat_template != "none")
    return prompt


def load_examples(path: str, count: int) -> list[dict[str, str]]:
    """The first `count` rows of a JSONL file with problem and solution.

    Raises:
        UserError: too few rows, or keys missing.
    """
    rows = list(read_jsonl(Path(path)))[:count]
    if len(rows) < count or not all(isinstance(row.get(key), str) for row in rows for key in ("problem", "solution")):
        raise UserError(f'--few-shot-file {path}: {count} rows with the texts "problem" and "solution" are needed')
    return rows


def question(prompt: Prompt, problem: str, examples: list[dict[str, str]] | None = None) -> str:
    """The user's message: few-shot examples, then the problem."""
    shots = "".join(
        prompt.example.replace("{problem}", row["problem"]).replace("{solution}", row["solution"])
        for row in examples or ()
    )
    return shots + prompt.template.replace("{problem}", problem)


def prompt_format(
    prompt: Prompt, model: str, tokenizer: Any, chat_template: str | None = None, system_by: str = "--system"
) -> PromptFormat:
    """How a question becomes what the model reads.

    Args:
        chat_template: in place of the tokenizer's own.
        system_by: what asks for the system message.

    Raises:
        UserError: the model has no chat template and the prompt needs one, or it uses none and there is a system message.
    """
    form = PromptFormat(chat=prompt.chat, system=prompt.system, chat_template=chat_template)
    form.check(tokenizer, model, "--chat-template", "give --chat-template none, or a file, or --prompt raw")
    form.check_system(system_by, "give --chat-template model, or write it into a file for --prompt")
    return form


def prompts_hash(texts: list[str]) -> str:
    """lighteval's hash of a set of texts: xxh64 of the sorted, joined xxh64 of each."""
    return xxhash.xxh64("".join(sorted(_hash(text) for text in texts)).encode()).hexdigest()


def _hash(text: str) -> str:
    return xxhash.xxh64(text.encode("utf-8")).hexdigest()


def published_match(task: str, questions: list[str], prompts: list[str]) -> str | None:
    """What of the published prompts these reproduce: "questions", "prompts with <think>", ..., or "none".

    None for a task without a reference.
    """
    known = PUBLISHED_HASHES.get(task)
    if known is None:
        return None
    return known.get(prompts_hash(prompts)) or known.get(prompts_hash(questions)) or "none"
