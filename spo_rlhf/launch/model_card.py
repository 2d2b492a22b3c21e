"""What a trained model's folder gets beside the weights: a model card, and how the evaluation asked it.

README.md               task, data, method, settings, measured accuracy with its interval, versions
generation_config.json  the sampling of the evaluation, beside what the model had there
chat_template.jinja     the chat template of the prompts, where they were made with one
"""

import contextlib
import json
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spo_rlhf.core.intervals import wilson_interval
from spo_rlhf.core.options import name_of
from spo_rlhf.host.console import Console
from spo_rlhf.host.files import is_local, read_json, replace_text, write_json
from spo_rlhf.host.versions import versions
from spo_rlhf.methods import METHODS

CARD, GENERATION, TEMPLATE = "README.md", "generation_config.json", "chat_template.jinja"
PAPER = "https://arxiv.org/abs/2505.23564"
# Settings that have a line of their own, or say only where things lie.
ELSEWHERE = ("ckpt.", "logger.", "spo.run_dir", "spo.push_to_hub", "spo.verbose", "spo.plugin")


@contextlib.contextmanager
def told(folder: str, console: Console) -> Iterator[None]:
    """Context that writes a card behind a run whose model is saved: what goes wrong is told, and changes nothing of that."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        console.line(f"note: no model card in {folder} ({type(error).__name__}: {error})")


def finish_offline_folder(
    command: str, args: SimpleNamespace, summary: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """The same of supervised ("sft") or preference ("dpo") training: its card, and the chat template. Raises OSError."""
    folder = Path(args.ckpt.output_dir)
    if args.data.apply_chat_template and not args.data.tokenizer_chat_template:
        write_chat_template(folder, args.model.model_name_or_path)
    replace_text(folder / CARD, offline_card(command, args, summary, settings))


def finish_folder(args: SimpleNamespace, summary: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write what a saved model's folder lacks. Raises OSError.

    Args:
        args: the resolved configuration.
        summary: of the run, as summary.json.
        settings: what the command said (launch/settings_file.py).
    """
    folder = Path(args.ckpt.output_dir)
    write_generation_config(folder, evaluation_sampling(args))
    if args.data.apply_chat_template:
        write_chat_template(folder, args.actor.model_name_or_path)
    replace_text(folder / CARD, card(args, summary, settings))


def evaluation_sampling(args: SimpleNamespace) -> dict[str, Any]:
    """How the evaluation in training sampled, in transformers' words."""
    temperature = args.eval.temperature
    sampled = {"temperature": temperature, "top_p": args.rollout.top_p} if temperature else {}
    longest = {"max_new_tokens": args.rollout.max_new_tokens} if args.rollout.max_new_tokens else {}
    return {"do_sample": bool(temperature), **sampled, **longest}


def write_generation_config(folder: Path, sampling: Mapping[str, Any]) -> None:
    """Replace the sampling in generation_config.json; special tokens and all else in it stay."""
    path = folder / GENERATION
    before = read_json(path) if path.is_file() else {}
    kept = {name: value for name, value in before.items() if name not in ("temperature", "top_p", "top_k", "do_sample")}
    write_json(path, {**kept, **sampling})


def write_chat_template(folder: Path, model: str) -> None:
    """The chat template of the model that was trained from, where the folder has none of its own."""
    tokenizer = folder / "tokenizer_config.json"
    named = tokenizer.is_file() and "chat_template" in json.loads(tokenizer.read_text(encoding="utf-8"))
    if (folder / TEMPLATE).is_file() or named:
        return
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(model).chat_template
    if isinstance(template, str):
        replace_text(folder / TEMPLATE, template)


def card(args: SimpleNamespace, summary: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The model card as Markdown, with the hub's metadata at its head."""
    base, method = public_name(args.actor.model_name_or_path), method_name(args)
    data = [name.strip() for name in args.data.prompt_dataset.split(",")]
    parts = [
        head(base, data),
        f"# {Path(args.ckpt.output_dir).resolve().name}\n\n{base}, trained by {method}.",
        "## Data\n\n" + "\n".join(data_lines(args)),
        "## Accuracy\n\n" + accuracy_text(args, summary),
        "## How it was asked\n\n" + prompt_text(args),
        "## Training\n\n" + training_text(summary) + settings_table(settings),
        "## Versions\n\n" + versions_text(),
    ]
    return "\n\n".join(parts) + "\n"


def versions_text() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions().items())


def offline_card(command: str, args: SimpleNamespace, summary: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The model card of supervised ("sft") or preference ("dpo") training, which measures no accuracy."""
    base, data = public_name(args.model.model_name_or_path), [name.strip() for name in args.data.dataset.split(",")]
    names = [("trained on", args.data.dataset), ("held out", args.eval.dataset)]
    minutes = f"{summary['steps']} optimizer steps, {summary['seconds_total'] / 60:.1f} minutes.\n\n"
    parts = [
        head(base, data, tags=(command,)),
        f"# {Path(args.ckpt.output_dir).resolve().name}\n\n{base}, trained by {offline_method(command, args)}.",
        "## Data\n\n" + "\n".join(f"- {what}: {shown(text)}" for what, text in names if text),
        "## Accuracy\n\nNot measured in training.",
        "## How it was asked\n\n" + form_text(args),
        "## Training\n\n" + minutes + settings_table(settings),
        "## Versions\n\n" + versions_text(),
    ]
    return "\n\n".join(parts) + "\n"


def offline_method(command: str, args: SimpleNamespace) -> str:
    """Supervised or preference training in a few words."""
    if command == "sft":
        each = "mean of each response, then over responses" if args.spo.sequence_mean else "mean over all tokens"
        return f"supervised training (OpenRLHF through spo_rlhf; loss: {each})"
    positive = f" with DPO-positive's penalty, lambda {args.spo.dpo_positive:g}" if args.spo.dpo_positive else ""
    return f"direct preference optimization{positive} (OpenRLHF through spo_rlhf; beta {args.model.beta:g})"


def head(base: str, data: list[str], tags: Iterable[str] = ("spo", "reinforcement-learning")) -> str:
    """The metadata that the hub reads. It names no licence: that of the base model and the data decides."""
    listed = [name.partition("@")[0] for name in data if not is_local(name)]
    lines = [
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {tag}" for tag in tags),
    ]
    lines += [] if is_local(base) or base.startswith("a local") else [f"base_model: {json.dumps(base)}"]
    lines += ["datasets:", *(f"- {json.dumps(name)}" for name in listed)] if listed else []
    return "\n".join(["---", *lines, "---"])


def public_name(name: str) -> str:
    """A hub name as it is; of a folder its last part, since the way to it means nothing elsewhere."""
    return f"a local model ({Path(name).name})" if is_local(name) else name


def method_name(args: SimpleNamespace) -> str:
    """Method and paper in a few words."""
    mode = name_of(METHODS, args.spo.method)
    if args.spo.method.brings_advantages:
        return f"SPO-{mode} ([Segment Policy Optimization]({PAPER}), spo_rlhf)"
    return f"spo_rlhf in {mode} mode, advantages by `{args.algo.advantage.estimator}`"


def data_lines(args: SimpleNamespace) -> list[str]:
    """Prompts, reward and held-out problems."""
    names = [("trained on", args.data.prompt_dataset), ("held out", args.eval.dataset)]
    lines = [f"- {what}: {shown(text)}" for what, text in names if text]
    reward = args.reward.remote_url or args.reward.model_name_or_path
    named = ", ".join(reward) if isinstance(reward, list) else str(reward)
    return [*lines, *([f"- reward: `{Path(named).name if is_local(named) else named}`"] if reward else [])]


def shown(names: str) -> str:
    """Data sets, separated by commas; of a folder or file its last part."""
    return ", ".join(f"`{Path(one).name if is_local(one) else one}`" for one in map(str.strip, names.split(",")))


def accuracy_text(args: SimpleNamespace, summary: Mapping[str, Any]) -> str:
    """Held-out accuracy before and after, with 95 % intervals where the number of problems is known."""
    if summary.get("accuracy_after") is None:
        return "Not measured in training."
    problems, samples = summary.get("held_out_problems"), args.eval.n_samples_per_prompt
    rows = [("before", summary.get("accuracy_before")), ("after", summary["accuracy_after"])]
    lines = ["| | accuracy | 95 % interval |", "|---|---|---|"]
    lines += [
        f"| {when} | {value:.1%} | {interval_text(value, problems)} |" for when, value in rows if value is not None
    ]
    count = f"{problems} held-out problems, " if problems else ""
    return "\n".join(lines) + (
        f"\n\n{count}{samples} sample{'s' * (samples != 1)} each. Wilson intervals that count problems, not samples: they "
        "are too wide rather than too narrow. Both numbers are of one training with one seed."
    )


def interval_text(share: float, problems: int | None) -> str:
    if not problems:
        return "unknown"
    low, high = wilson_interval(share, problems)
    return f"{low:.1%} to {high:.1%}"


def prompt_text(args: SimpleNamespace) -> str:
    """The form of the prompts and the sampling."""
    sampling = ", ".join(f"{name} {value}" for name, value in evaluation_sampling(args).items())
    return f"{form_text(args)}\n\nThe evaluation sampled with {sampling}; `{GENERATION}` says the same."


def form_text(args: SimpleNamespace) -> str:
    """The form of the prompts. Supervised and preference training have no system message of their own."""
    message = getattr(args.spo, "system_prompt", None)
    system = f", system message {message!r}" if message else ""
    if args.data.apply_chat_template:
        return f"Prompts were made with the chat template in this folder{system}."
    if args.data.input_template:
        return (
            "Prompts were this text with the problem in the place of `{}`, without a chat template:\n\n"
            f"```python\n{args.data.input_template!r}\n```"
        )
    return "Prompts were the problems as they are, without a chat template."


def training_text(summary: Mapping[str, Any]) -> str:
    return (
        f"{summary['steps']} steps, {summary['generated_tokens']:,} tokens sampled ({summary['mc_tokens']:,} of them Monte "
        f"Carlo), {summary['seconds_total'] / 60:.1f} minutes.\n\n"
    )


def settings_table(settings: Mapping[str, Any]) -> str:
    """What the command said; paths of the machine are left out."""
    rows = [
        f"| `{name}` | {cell(value)} |" for name, value in sorted(settings.items()) if not name.startswith(ELSEWHERE)
    ]
    return "\n".join(["| option | value |", "|---|---|", *rows]) if rows else "All settings at their defaults."


def cell(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    if "/" in text and is_local(text):
        text = Path(text).name
    return "`" + text.replace("\n", "\\n").replace("|", "\\|").replace("`", "'") + "`"
