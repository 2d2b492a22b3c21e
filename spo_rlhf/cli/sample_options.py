"""The options of spo-sample, and what can be checked of them within a second."""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.arguments import rows, seconds, share, temperature, whole
from spo_rlhf.host.command import refuse_in_one_line
from spo_rlhf.launch import preflight
from spo_rlhf.sampling import selection

PROGRAM = "spo-sample"
SELECTIONS = ("all", "correct", "pairs")
DESCRIPTION = "n responses to each prompt, with rewards, as JSON lines; selected for supervised or preference training"
EXAMPLES = f"""\
writes to DIR: samples.jsonl (id, sample, prompt, label, response, reward, truncated, tokens), with --select also
correct.jsonl or pairs.jsonl; summary.json, settings.json, sample.log. A stopped run continues when the same command is
given again. A response ends with the end-of-text token where that was sampled; one that the length limit cut has
reward 0 and is not graded. Every option also takes its name in spo-train.

examples:
  # 8 responses to each problem; the right ones kept for supervised training, at most {selection.CORRECT_PER_PROMPT} each
  spo-sample --model MODEL --data train.jsonl --input-key problem --label-key answer \\
      --template $'Question: {{}}\\nAnswer:\\n' --reward spo_rlhf/tasks/math_reward.py \\
      --samples 8 --select correct --output runs/samples

  # right beside wrong ones for DPO, at most {selection.PAIRS_PER_PROMPT} pairs a problem; on 4 GPUs
  spo-sample ... --samples 64 --select pairs --engines 4

  # what would be sampled; starts nothing
  spo-sample ... --dry-run
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line. Each option also has the name that it has in spo-train, so that scripts can share settings."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        allow_abbrev=False,
        usage=f"{PROGRAM} [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    refuse_in_one_line(parser)

    def option(*flags: str, dest: str, **kwargs: Any) -> None:
        parser.add_argument(*flags, dest=dest, **kwargs)

    option("--model", "--actor.model_name_or_path", dest="model", required=True, help="folder or Hugging Face name")
    option(
        "--data",
        "--data.prompt_dataset",
        dest="data",
        required=True,
        help=".jsonl file, or name or name@folder on the hub",
    )
    option(
        "--split",
        "--data.prompt_split",
        dest="split",
        default="train",
        help="of a data set on the hub; default: train",
    )
    option(
        "--rows", dest="rows", type=rows, default=slice(None), metavar="A:B", help="of the data, from 0; default: all"
    )
    option("--input-key", "--data.input_key", dest="input_key", default="input", help="of the problem; default: input")
    option("--label-key", "--data.label_key", dest="label_key", default="label", help="of the answer; default: label")
    option(
        "--template",
        "--data.input_template",
        dest="template",
        help="prompt with {} for the problem; default: the problem",
    )
    option("--chat-template", "--data.apply_chat_template", dest="chat", action="store_true", help="use the model's")
    option(
        "--reward",
        "--reward.remote_url",
        dest="reward",
        required=True,
        metavar="FILE.py",
        help="reward_func(queries, prompts, labels), as in spo-train",
    )
    option(
        "--reward-timeout",
        "--spo.reward_timeout",
        dest="reward_timeout",
        type=seconds,
        default=10.0,
        metavar="S",
        help="seconds; then a reward is 0; default: 10",
    )
    option(
        "--reward-workers",
        "--spo.reward_workers",
        dest="reward_workers",
        type=whole(1),
        default=2,
        metavar="N",
        help="processes; default: 2",
    )
    option(
        "-n",
        "--samples",
        "--rollout.n_samples_per_prompt",
        dest="samples",
        type=whole(1),
        default=8,
        metavar="N",
        help="responses per prompt; default: 8",
    )
    option(
        "--temperature", "--rollout.temperature", dest="temperature", type=temperature, default=1.0, help="default: 1"
    )
    option("--top-p", "--rollout.top_p", dest="top_p", type=share, default=1.0, help="default: 1")
    option(
        "--max-new-tokens",
        "--rollout.max_new_tokens",
        dest="max_new_tokens",
        type=whole(1),
        metavar="N",
        help="of a response; default: what --max-len leaves",
    )
    option(
        "--max-len",
        "--data.max_len",
        dest="max_len",
        type=whole(1),
        default=2048,
        metavar="N",
        help="tokens of prompt and response together; default: 2048",
    )
    option("--seed", "--train.seed", dest="seed", type=whole(0), default=42, help="default: 42")
    option(
        "--select",
        dest="select",
        choices=SELECTIONS,
        default="all",
        help="correct: different right responses to a prompt; pairs: each right one beside each wrong one",
    )
    option(
        "--per-prompt",
        dest="per_prompt",
        type=whole(1),
        metavar="N",
        help=f"kept at most; default: {selection.CORRECT_PER_PROMPT} correct, {selection.PAIRS_PER_PROMPT} pairs",
    )
    option(
        "--min-reward", dest="min_reward", type=float, default=1.0, metavar="R", help="of a right response; default: 1"
    )
    option(
        "--engines",
        "--vllm.num_engines",
        dest="engines",
        type=whole(1),
        default=1,
        metavar="N",
        help="vLLM engines, through Ray where more than one; default: 1",
    )
    option(
        "--tensor-parallel",
        "--vllm.tensor_parallel_size",
        dest="tensor_parallel",
        type=whole(1),
        default=1,
        metavar="N",
        help="GPUs per engine; default: 1",
    )
    option(
        "--max-num-seqs",
        "--spo.max_num_seqs",
        dest="max_num_seqs",
        type=whole(1),
        default=512,
        metavar="N",
        help="sequences in flight per engine; default: 512",
    )
    option(
        "--gpu-memory",
        "--vllm.gpu_memory_utilization",
        dest="gpu_memory",
        type=share,
        default=0.9,
        help="share; default: 0.9",
    )
    option("--output", dest="output", type=Path, required=True, metavar="DIR", help="directory for what is written")
    option("--dry-run", dest="dry_run", action="store_true", help="check the options, print what would be sampled")
    return parser


def training_arguments(args: argparse.Namespace) -> SimpleNamespace:
    """These options in the form of spo-train's, for the checks that both share."""
    return SimpleNamespace(
        actor=SimpleNamespace(model_name_or_path=args.model),
        data=SimpleNamespace(
            input_key=args.input_key,
            label_key=args.label_key,
            input_template=args.template,
            apply_chat_template=args.chat,
            max_len=args.max_len,
            max_samples=sys.maxsize,
            prompt_probs=None,
            disable_fast_tokenizer=False,
        ),
        reward=SimpleNamespace(remote_url=[args.reward]),
        spo=SimpleNamespace(reward_timeout=args.reward_timeout),
        train=SimpleNamespace(seed=args.seed),
        use_ms=False,
    )


def check_files(args: argparse.Namespace) -> None:
    """What takes no libraries: model folder, reward file, every line of a local data file. Raises UserError."""
    training = training_arguments(args)
    preflight.check_model("actor", args.model, must_load=False)
    if not args.reward.endswith(".py"):
        raise UserError(f"--reward {args.reward}: not a .py file")
    preflight.check_reward(training)
    if preflight.is_local(args.data):
        if not Path(args.data).exists():
            raise UserError(f"--data {args.data}: no such file or folder")
        if args.data.endswith(".jsonl"):
            preflight.check_jsonl("data", args.data, {"input_key": args.input_key, "label_key": args.label_key})
    if args.template is not None and "{}" not in args.template:
        raise UserError("--template: it has no {} for the problem")
    if args.select == "pairs" and args.samples < 2:
        raise UserError("--select pairs: a pair needs --samples 2 or more")
