"""The options of spo-sample: a table, and the parsers that are made of it, that of spo-diagnose too."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spo_rlhf.config import SpoConfig
from spo_rlhf.core.seeds import LARGEST_SEED
from spo_rlhf.host.arguments import finite, rows, seconds, share, temperature, whole
from spo_rlhf.host.command import command_line
from spo_rlhf.launch.sample_run import PROGRAM
from spo_rlhf.sampling.selection import CORRECT_PER_PROMPT, PAIRS_PER_PROMPT

DESCRIPTION = "n responses to each prompt, with rewards, as JSON lines; selected for supervised or preference training"
EXAMPLES = f"""\
writes to DIR: samples.jsonl (id, prompt_hash, sample, prompt, label, response, reward, truncated, tokens, grader), with
--select also correct.jsonl or pairs.jsonl; summary.json, manifest.json, sample.log. A stopped run continues when the same command
is given again, also with more --samples or other data: what is asked already is not sampled again. Other weights or
settings are refused. id is the row's own where it has one, else its number. A response ends with the end-of-text token
where that was sampled; one that the length limit cut has reward 0 and is not graded. Every option also takes its name in
spo-train.

examples:
  # 8 responses to each problem; the right ones kept for supervised training, at most {CORRECT_PER_PROMPT} each
  spo-sample --model MODEL --data train.jsonl --input-key problem --label-key answer \\
      --template $'Question: {{}}\\nAnswer:\\n' --reward spo_rlhf/tasks/math_reward.py \\
      --samples 8 --select correct --output runs/samples

  # right beside wrong ones for DPO, at most {PAIRS_PER_PROMPT} pairs a problem; on 4 GPUs
  spo-sample ... --samples 64 --select pairs --engines 4

  # what would be sampled; starts nothing
  spo-sample ... --dry-run
"""


@dataclass(frozen=True)
class SampleOption:
    """A row of the table. `flag`, without its dashes, is also the name in `SampleJob`."""

    flag: str
    in_spo_train: str | None  # its name there, so that scripts can share settings
    help: str
    type: Callable[[str], Any] | None = None  # None: of a switch
    default: Any = None
    metavar: str | None = None
    required: bool = False
    choices: Sequence[str] | None = None
    short: str | None = None

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        dotted = self.in_spo_train and f"--{self.in_spo_train}"
        flags = [flag for flag in (self.short, self.flag, dotted) if flag]
        if self.type is None:
            parser.add_argument(*flags, action="store_true", help=self.help)
            return
        default = f"{self.default:g}" if isinstance(self.default, (int, float)) else self.default
        parser.add_argument(
            *flags,
            type=self.type,
            default=self.default,
            required=self.required,
            choices=self.choices,
            metavar=self.metavar,
            help=f"{self.help}; default: {default}" if isinstance(default, str) else self.help,
        )


OPTIONS = (
    SampleOption("--model", "actor.model_name_or_path", "folder or Hugging Face name", str, required=True),
    SampleOption("--data", "data.prompt_dataset", ".jsonl file, or name or name@folder on the hub", str, required=True),
    SampleOption("--split", "data.prompt_split", "of a data set on the hub", str, "train"),
    SampleOption("--rows", None, "of the data, from 0; default: all", rows, slice(None), "A:B"),
    SampleOption("--input-key", "data.input_key", "column of the problem", str, "input"),
    SampleOption("--label-key", "data.label_key", "column of the answer", str, "label"),
    SampleOption("--template", "data.input_template", "prompt with {} for the problem; default: the problem", str),
    SampleOption("--chat-template", "data.apply_chat_template", "use the model's chat template"),
    SampleOption(
        "--system", "spo.system_prompt", "system message; needs --chat-template; default: none", str, metavar="TEXT"
    ),
    SampleOption(
        "--reward",
        "reward.remote_url",
        "reward_func(queries, prompts, labels), as in spo-train",
        str,
        metavar="FILE.py",
        required=True,
    ),
    SampleOption(
        "--reward-timeout", "spo.reward_timeout", "seconds; then a reward is 0", seconds, SpoConfig.reward_timeout, "S"
    ),
    SampleOption(
        "--max-reward-failures",
        "spo.max_reward_failures",
        "the run stops where more than this share of its rewards take too long",
        share,
        SpoConfig.max_reward_failures,
        "SHARE",
    ),
    SampleOption("--reward-workers", "spo.reward_workers", "processes", whole(1), SpoConfig.reward_workers, "N"),
    SampleOption("--samples", "rollout.n_samples_per_prompt", "responses per prompt", whole(1), 8, "N", short="-n"),
    SampleOption("--temperature", "rollout.temperature", "0: greedy", temperature, 1.0, "T"),
    SampleOption("--top-p", "rollout.top_p", "above 0, at most 1", share, 1.0, "P"),
    SampleOption(
        "--max-new-tokens",
        "rollout.max_new_tokens",
        "of a response; default: what --max-len leaves",
        whole(1),
        metavar="N",
    ),
    SampleOption("--max-len", "data.max_len", "tokens of prompt and response together", whole(1), 2048, "N"),
    SampleOption(
        "--seed",
        "train.seed",
        "every response follows from it, its prompt and its number",
        whole(0, LARGEST_SEED),
        42,
        "N",
    ),
    SampleOption(
        "--select",
        None,
        "correct: different right responses to a prompt; pairs: each right one beside each wrong one",
        str,
        "all",
        choices=("all", "correct", "pairs"),
    ),
    SampleOption(
        "--per-prompt",
        None,
        f"kept at most; default: {CORRECT_PER_PROMPT} correct, {PAIRS_PER_PROMPT} pairs",
        whole(1),
        metavar="N",
    ),
    SampleOption("--min-reward", None, "of a right response", finite, 1.0, "R"),
    SampleOption("--engines", "vllm.num_engines", "vLLM engines, through Ray where more than one", whole(1), 1, "N"),
    SampleOption("--tensor-parallel", "vllm.tensor_parallel_size", "GPUs per engine", whole(1), 1, "N"),
    SampleOption(
        "--max-num-seqs", "spo.max_num_seqs", "sequences in flight per engine", whole(1), SpoConfig.max_num_seqs, "N"
    ),
    SampleOption(
        "--gpu-memory", "vllm.gpu_memory_utilization", "share of a GPU's memory for an engine", share, 0.9, "SHARE"
    ),
    SampleOption("--eager", "vllm.enforce_eager", "no CUDA graphs: on a GPU a short run starts sooner"),
    SampleOption("--trust-remote-code", "spo.trust_remote_code", "run Python code that comes with the model"),
    SampleOption("--output", None, "directory for what is written", Path, metavar="DIR", required=True),
    SampleOption("--fresh", None, "move samples that are of something else to DIR/before-N, and sample anew"),
    SampleOption("--regrade", None, "grade all stored responses again, as after a change that files do not show"),
    SampleOption("--dry-run", None, "check the options, print what would be sampled"),
)


def parser_of(
    program: str, description: str, examples: str, options: Iterable[SampleOption]
) -> argparse.ArgumentParser:
    """A command line of these options, none of which may be shortened."""
    parser = command_line(program, description, examples, allow_abbrev=False, usage=f"{program} [options]")
    for option in options:
        option.add_to(parser)
    return parser


def build_parser() -> argparse.ArgumentParser:
    """The command line of spo-sample."""
    return parser_of(PROGRAM, DESCRIPTION, EXAMPLES, OPTIONS)


def tell_dry_run(settings: dict[str, Any]) -> None:
    """What --dry-run prints."""
    print("\n".join(f"  {name} = {value}" for name, value in sorted(settings.items())))
    print("dry run: nothing was started")
