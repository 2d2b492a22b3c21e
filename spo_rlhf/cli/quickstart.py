"""The quickstart: make a small task and a small model, train it with SPO-chain through spo-train, show what it learned."""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from spo_rlhf.errors import UserError
from spo_rlhf.host.command import command_line, run_command
from spo_rlhf.host.console import Console, count, duration
from spo_rlhf.host.files import read_json, read_jsonl, replace_text, write_json
from spo_rlhf.insight.report import as_html, report
from spo_rlhf.insight.runs import load
from spo_rlhf.insight.viewer import viewer
from spo_rlhf.launch.curve import draw_curve
from spo_rlhf.rollouts import read
from spo_rlhf.tasks.arithmetic import TASK

PROGRAM = "quickstart"
# File of the run -> what it shows; both are pages of one file for a browser.
PAGES = {
    "report.html": "what the training did",
    "segments.html": "what each segment of its responses was credited with",
}
# Chosen for a machine with 2 cores: many different problems a step, few responses each, few continuations.
PROBLEMS_PER_STEP, STEPS, HELD_OUT = 64, 40, 256
TRAIN_OPTIONS = {
    "spo.mode": "chain",
    "spo.cutpoint_interval": 3,
    "spo.mc_rollouts": 4,
    "rollout.batch_size": PROBLEMS_PER_STEP,
    "rollout.n_samples_per_prompt": 4,
    "rollout.micro_batch_size": 64,
    "rollout.max_new_tokens": 96,
    "train.batch_size": 4 * PROBLEMS_PER_STEP,
    "train.micro_batch_size": 64,
    "train.num_episodes": 1,
    "data.max_len": 256,
    "actor.adam.lr": 3e-4,
    "actor.lr_scheduler": "constant",
    "actor.lr_warmup_ratio": 0,
    "algo.kl.init_coef": 0,
    "actor.num_gpus_per_node": 1,
    "vllm.num_engines": 1,
    "eval.temperature": 0,
    "eval.n_samples_per_prompt": 1,
    "eval.steps": 10,
    "ckpt.best_metric_key": "none",
}


def prepare_options(directory: Path) -> list[str]:
    """Arguments of spo_rlhf.cli.prepare."""
    rows = PROBLEMS_PER_STEP * STEPS
    return ["--output", str(directory), "--train", str(rows), "--test", str(HELD_OUT)]


def train_options(task: Path, run_dir: Path) -> list[str]:
    """Arguments of spo-train."""
    files = {
        "actor.model_name_or_path": task / "model",
        "data.prompt_dataset": task / "train.jsonl",
        "eval.dataset": task / "test.jsonl",
        "data.input_key": "problem",
        "data.label_key": "answer",
        "data.input_template": TASK.template,
        "reward.remote_url": TASK.reward,
        "spo.run_dir": run_dir / "train",
        "ckpt.output_dir": run_dir / "model",
        "ckpt.path": run_dir / "checkpoints",
    }
    flags = [part for name, value in {**TRAIN_OPTIONS, **files}.items() for part in (f"--{name}", str(value))]
    # Capturing CUDA graphs would take longer than what they save here.
    return [*flags, "--train.colocate_all", "--vllm.enforce_eager"]


def command(module: str, arguments: list[str]) -> list[str]:
    """The command line of one of this folder's modules."""
    return [sys.executable, "-W", "ignore", "-m", f"spo_rlhf.cli.{module}", *arguments]


def run(arguments: list[str]) -> int:
    """Run a command on this terminal until it ends. Ctrl-C reaches it as well; wait for it to clean up."""
    process = subprocess.Popen(arguments)
    interrupted = False
    while True:
        try:
            status = process.wait()
            return 130 if interrupted else status
        except KeyboardInterrupt:
            interrupted = True


def settings_digest() -> str:
    """Changes when the settings above do, so that a finished run of other settings is not taken for this one."""
    return hashlib.sha256(
        repr((TRAIN_OPTIONS, PROBLEMS_PER_STEP, STEPS, HELD_OUT, TASK.template)).encode()
    ).hexdigest()[:16]


def finished_summary(run_dir: Path) -> dict | None:
    """The summary of a finished run of these settings, if there is one."""
    try:
        summary = read_json(run_dir / "summary.json")
    except UserError:
        return None
    return summary if summary.get("settings") == settings_digest() and (run_dir / "curve.png").exists() else None


def show(console: Console, summary: dict, run_dir: Path) -> None:
    """What was gained, what it took, where it is."""
    before, after = summary["accuracy_before"], summary["accuracy_after"]
    console.line("")
    console.line(f"held-out accuracy  before {before:.1%}  after {after:.1%}  ({100 * (after - before):+.1f} points)")
    console.line(
        f"{summary['steps']} steps, {count(summary['generated_tokens'])} tokens sampled "
        f"({count(summary['mc_tokens'])} of them Monte Carlo), {duration(summary['seconds_total'])}"
    )
    for name, what in PAGES.items():
        if (run_dir / name).exists():
            console.line(f"{what}: {run_dir / name}")
    console.line(f"summary: {run_dir / 'summary.json'}   curve: {run_dir / 'curve.png'}   model: {run_dir / 'model'}")


def make_pages(console: Console, run_dir: Path) -> None:
    """PAGES of the training, as spo-report and spo-inspect make them; what cannot be made is told, the training is done."""
    trained = run_dir / "train"
    try:
        replace_text(run_dir / "report.html", as_html(report([load(trained)])))
        replace_text(run_dir / "segments.html", viewer(read(trained), title="the quickstart"))
    except UserError as error:
        console.line(f"note: {error}")


def train_and_summarize(console: Console, run_dir: Path) -> int:
    """Both commands one after the other, then summary.json and curve.png; exit status."""
    start = time.monotonic()
    console.line(f"1/2 a small task and a small model ({run_dir / 'task'})")
    if status := run(command("prepare", prepare_options(run_dir / "task"))):
        return status
    prepare_seconds = time.monotonic() - start
    console.line(f"2/2 SPO-chain on Ray, vLLM and DeepSpeed, {STEPS} steps of {PROBLEMS_PER_STEP} problems")
    if status := run(command("train", train_options(run_dir / "task", run_dir))):
        return status
    trained = read_json(run_dir / "train" / "summary.json")
    events = list(read_jsonl(run_dir / "train" / "metrics.jsonl"))
    draw_curve(events, run_dir / "curve.png", title="SPO-chain on multi-step arithmetic problems")
    seconds = time.monotonic() - start
    phases = {"prepare": round(prepare_seconds, 3), **trained["seconds_by_phase"]}
    summary = {**trained, "seconds_total": round(seconds, 3), "seconds_by_phase": phases, "settings": settings_digest()}
    write_json(run_dir / "summary.json", summary)
    make_pages(console, run_dir)
    show(console, summary, run_dir)
    return 0


def dry_run(console: Console) -> int:
    """The plan, with the training command checked for real on a model made for the purpose; nothing is kept."""
    with tempfile.TemporaryDirectory() as scratch:
        task = Path(scratch) / "task"
        if status := run(command("prepare", [*prepare_options(task), "--warm-up-steps", "0"])):
            return status
        console.line(f"would warm the model up, then train {STEPS} steps of {PROBLEMS_PER_STEP} problems with:")
        return run(command("train", [*train_options(task, Path(scratch)), "--dry-run"]))


def build_parser() -> argparse.ArgumentParser:
    examples = "examples:\n  bash examples/scripts/quickstart.sh\n  bash examples/scripts/quickstart.sh --force   # train again"
    parser = command_line(PROGRAM, __doc__, examples)
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="train again although a finished run is there")
    parser.add_argument(
        "--dry-run", action="store_true", help="check and print what would run; start nothing, keep nothing"
    )
    return parser


def quickstart(argv: list[str] | None, console: Console) -> int:
    """Parse, then train, plan or show what is there; exit status."""
    options = build_parser().parse_args(argv)
    if options.dry_run:
        return dry_run(console)
    if not options.force and (summary := finished_summary(options.output)):
        console.line(f"{options.output} holds a finished run; --force trains again")
        show(console, summary, options.output)
        return 0
    return train_and_summarize(console, options.output)


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage, 130 when interrupted, else that of the command that failed."""
    console = Console()
    return run_command(PROGRAM, lambda: quickstart(argv, console), say=console.line)


if __name__ == "__main__":
    sys.exit(main())
