"""`python -m evaluation`: run, report, grade, regrade."""

import argparse
import logging
import signal
import sys
import warnings
from pathlib import Path

from evaluation import grading, report
from spo_rlhf.errors import UserError
from spo_rlhf.graders.grade import MODES

PRESETS = {
    # How the long-context table of the paper was made; the budget is "total" there as it is by default.
    "spo-paper": {
        "tasks": "math500,aime24",
        "contexts": "2048,4096,32768",
        "samples": 1,
        "temperature": 0.6,
        "top_p": 0.95,
        "seed": 1234,
        "prompt": "open-r1",
        "chat_template": "auto",
        "budget": "total",
        "dtype": "bfloat16",
        "gpu_memory_utilization": 0.8,
    },
}


def integers(text: str) -> tuple[int, ...]:
    """Comma-separated positive integers, each once, in rising order."""
    try:
        values = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers such as 2048,4096") from error
    if values[0] < 1:
        raise argparse.ArgumentTypeError("must be positive")
    return values


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from error
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def build_parser(preset: str | None = None) -> argparse.ArgumentParser:
    """The command line; a preset's values become the defaults of `run`."""
    parser = argparse.ArgumentParser(
        prog="spo-eval",
        description="Accuracy at every context length from one pass, with graders that can be trusted.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(commands).set_defaults(**PRESETS.get(preset, {}))
    sub = commands.add_parser("report", help="tables, comparisons and the curve of finished runs")
    sub.add_argument("folders", nargs="+", metavar="DIR")
    sub.add_argument("--format", default="md", help=f"comma-separated: {', '.join(report.FORMATS)} (default: md)")
    sub.add_argument("--output", help="folder for the files (default: the first DIR)")
    sub.add_argument("--paper", action="store_true", help="show the paper's Table 1 beside the numbers")
    sub = commands.add_parser("grade", help="grade answers: a JSONL file, or one pair")
    sub.add_argument("--file", help='JSONL with "gold", "pred" (a full model output) and optionally "problem"')
    sub.add_argument("--output", help="the same rows with correct, extracted and reason")
    sub.add_argument("--gold")
    sub.add_argument("--pred")
    sub.add_argument("--problem")
    sub.add_argument("--mode", choices=MODES, default="strict")
    sub.add_argument("--workers", type=positive, help="grading processes (default: one less than the cores)")
    sub = commands.add_parser("regrade", help="grade stored samples again and rewrite the results; needs no GPU")
    sub.add_argument("folder", metavar="DIR")
    sub.add_argument("--workers", type=positive)
    return parser


def _add_run(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    sub = commands.add_parser("run", help="sample and grade; run the same command again to continue a stopped run")
    sub.add_argument(
        "--preset", choices=sorted(PRESETS), help="set everything as a published run did; other flags still win"
    )
    sub.add_argument("--model", required=True, help="folder or name of a Hugging Face model")
    sub.add_argument("--output", required=True, help="folder for results.json and samples/")
    sub.add_argument("--tasks", default="math500", help="names or NAME=PATH.jsonl, comma-separated")
    sub.add_argument("--data-dir", help="folder with the tasks' JSONL files (default: Hugging Face data sets)")
    sub.add_argument("--contexts", type=integers, default=(32768,), help="context limits in tokens, comma-separated")
    sub.add_argument(
        "--separate-contexts",
        action="store_true",
        help="sample once per context instead of cutting the longest responses",
    )
    sub.add_argument(
        "--budget",
        choices=("total", "response"),
        default="total",
        help="whether a limit counts the prompt (total) or not",
    )
    sub.add_argument("--samples", type=positive, default=1, help="responses per problem")
    sub.add_argument("--temperature", type=float, default=0.6)
    sub.add_argument("--top-p", type=float, default=0.95)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--prompt", help="preset or template file with {problem} (default: the task's own)")
    sub.add_argument("--system", help="system message")
    sub.add_argument("--chat-template", default="auto", help="auto, none, or a Jinja file")
    sub.add_argument("--few-shot", type=int, default=0, metavar="K", help="K solved examples before the problem")
    sub.add_argument("--few-shot-file", help='JSONL with "problem" and "solution"')
    sub.add_argument("--limit", type=positive, help="first problems of each task only")
    sub.add_argument(
        "--no-curve", dest="curve", action="store_false", help="grade at --contexts only, not at the lengths between"
    )
    sub.add_argument("--dtype", default="auto", help="weights' type in vLLM (without a GPU always float32)")
    sub.add_argument(
        "--data-parallel",
        type=positive,
        default=1,
        help="engines, one per GPU (or per --tensor-parallel GPUs), through Ray",
    )
    sub.add_argument("--tensor-parallel", type=positive, default=1)
    sub.add_argument("--gpu-memory-utilization", type=float, default=0.9)
    sub.add_argument("--trust-remote-code", action="store_true")
    sub.add_argument("--workers", type=positive, help="grading processes")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    return sub


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; flags given beside a preset win over it."""
    args = build_parser().parse_args(argv)
    return build_parser(args.preset).parse_args(argv) if getattr(args, "preset", None) else args


def run_run(args: argparse.Namespace) -> None:
    from evaluation.run import run
    from evaluation.settings import RunOptions, RunSettings

    if args.temperature < 0 or not 0 < args.top_p <= 1:
        raise UserError("--temperature must be 0 or more, --top-p above 0 and at most 1")
    if args.seed < 0 or args.few_shot < 0:
        raise UserError("--seed and --few-shot must be 0 or more")
    settings = RunSettings(
        args.model,
        tuple(args.tasks.split(",")),
        args.contexts,
        args.samples,
        args.temperature,
        args.top_p,
        args.seed,
        args.budget,
        args.prompt,
        args.system,
        args.chat_template,
        args.few_shot,
        args.few_shot_file,
        args.limit,
        args.separate_contexts,
        args.curve,
        args.dtype,
    )
    options = RunOptions(
        Path(args.output),
        Path(args.data_dir) if args.data_dir else None,
        args.data_parallel,
        args.tensor_parallel,
        args.gpu_memory_utilization,
        args.trust_remote_code,
        args.workers,
        args.quiet,
    )
    run(settings, options)
    print(report.markdown(report.load_runs([options.output]), paper=args.preset == "spo-paper"))


def run_regrade(args: argparse.Namespace) -> None:
    from evaluation.stored import regrade

    changed, total = regrade(Path(args.folder), args.workers)
    print(f"{changed} of {total} grades changed; {args.folder}/results.json rewritten")


COMMANDS = {"run": run_run, "report": report.run_report, "grade": grading.run_grade, "regrade": run_regrade}


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 the user's mistake (one line on stderr), 130 interrupted."""
    args = parse(argv)
    # Batch systems stop a job by SIGTERM: the same as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated", category=FutureWarning)
    try:
        COMMANDS[args.command](args)
    except UserError as error:
        print(f"spo-eval {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"spo-eval {args.command}: stopped. The samples so far are kept; the same command continues.",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
