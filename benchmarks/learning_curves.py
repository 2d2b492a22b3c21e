"""Accuracy over generated tokens and over seconds, for every method, each at the same token budget, on spo-train.

Every task, method and seed is a run of its own under --output; finished runs are kept, so the command may be stopped and
given again at any time.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout that is not installed

import report  # noqa: E402
import study  # noqa: E402

from spo_rlhf.cli.console import Console, count, duration  # noqa: E402
from spo_rlhf.cli.record import write_json  # noqa: E402
from spo_rlhf.errors import UserError  # noqa: E402

PROGRAM = "learning_curves"
QUICK = {"seeds": 1, "budget_tokens": 60_000, "points": 3, "warm_up_seconds": 60.0, "methods": "grpo,spo_chain", "tasks": "arithmetic-short"}
DEFAULT_TASKS = ("arithmetic-short", "arithmetic-long", "knights_knaves")
PACKAGES = ("openrlhf", "ray", "deepspeed", "torch", "transformers")
EXAMPLES = """examples:
  python benchmarks/learning_curves.py --quick
  python benchmarks/learning_curves.py --methods grpo,spo_chain,spo_tree --task arithmetic-long --seeds 3 --budget-tokens 600000
  python benchmarks/learning_curves.py --methods spo_chain --vary spo.cutpoint_interval=1,3,5 --seeds 1 --budget-tokens 200000
  python benchmarks/learning_curves.py --stability --seeds 1 --budget-tokens 150000   # ten times the learning rate, two epochs
  python benchmarks/learning_curves.py --dry-run                             # the commands it would run
"""


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLES
    )
    parser.add_argument("--methods", metavar="A,B", help=f"of {', '.join(study.METHODS)}; default: {', '.join(study.DEFAULT_METHODS)}")
    parser.add_argument("--task", dest="tasks", metavar="A,B", help=f"of {', '.join(study.TASKS)}; default: {', '.join(DEFAULT_TASKS)}")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of each; default: 3")
    parser.add_argument("--budget-tokens", type=int, metavar="N", help="tokens generated in a run, Monte Carlo included; default: 600000")
    parser.add_argument("--points", type=int, metavar="N", help="evaluations in a run, about; default: 8")
    parser.add_argument("--warm-up-seconds", type=float, metavar="S", help="of supervised training of a task's model; default: 900")
    parser.add_argument("--vary", action="append", default=[], metavar="OPTION=A,B",
                        help="run each method once with each value; `prompts` and `responses` are the batch; may be repeated")  # fmt: skip
    parser.add_argument("--stability", action="store_true", help="a learning rate 10 times too high and two epochs in 4 batches")
    parser.add_argument("--quick", action="store_true", help="one seed, two methods, one task, a small budget")
    parser.add_argument("--output", type=Path, default=Path("runs/learning_curves"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.error = lambda message: parser.exit(2, f"{PROGRAM}: error: {message}; see --help\n")
    args = parser.parse_args(argv)
    methods = study.STABILITY_METHODS if args.stability else list(study.DEFAULT_METHODS)
    defaults = {"seeds": 3, "budget_tokens": 600_000, "points": 8, "warm_up_seconds": 900.0}
    tasks = [study.STABILITY_TASK] if args.stability else DEFAULT_TASKS
    defaults |= {"methods": ",".join(methods), "tasks": ",".join(tasks)}
    for name, value in {**defaults, **(QUICK if args.quick else {})}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def choose(text: str, known: dict, option: str) -> list[str]:
    """Names of a list with commas; raises UserError for an unknown one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(f"{option} {unknown[0] if unknown else text!r}: choose from {', '.join(known)}")
    return names


def variants(args: argparse.Namespace) -> dict[str, study.Method]:
    """Methods to run by name; with --vary the name tells the options that differ."""
    found = {name: study.METHODS[name] for name in choose(args.methods, study.METHODS, "--methods")}
    if args.stability:
        found = {name: method.with_options(study.STABILITY) for name, method in found.items()}
    for text in args.vary:
        option, equals, listed = text.partition("=")
        if not equals or not listed:
            raise UserError(f"--vary {text}: give OPTION=VALUE,VALUE, for instance spo.cutpoint_interval=1,3,5")
        found = {
            f"{name}:{option.rpartition('.')[2]}={value}": method.with_options({option: value})
            for name, method in found.items()
            for value in listed.split(",")
        }
    return found


def run(command: list[str], log: Path, console: Console, label: str) -> None:
    """Run one command with its output in a log. Raises UserError if it fails; Ctrl-C reaches it as well."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=study.ROOT)
        try:
            while process.poll() is None:
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                console.status(f"{label}  {duration(time.monotonic() - start)}  {lines[-1][:90] if lines else ''}")
                time.sleep(1)
        finally:
            process.wait()
    if process.returncode:
        raise UserError(f"{label} ended with status {process.returncode}; see {log}")


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage or a run that failed, 130 when interrupted."""
    args = parse(sys.argv[1:] if argv is None else argv)
    console = Console()
    try:
        methods = variants(args)
        tasks = choose(args.tasks, study.TASKS, "--task")
        benchmark(args, methods, tasks, console)
    except UserError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        console.line(f"{PROGRAM}: interrupted; finished runs are kept, the same command goes on")
        return 130
    return 0


def portable(command: list[str], output: Path) -> list[str]:
    """The command without this machine's folders: what a reader of the results can repeat."""
    parts = ["python" if part == sys.executable else part for part in command]
    return [part.replace(f"{output}/", "OUTPUT/").replace(f"{study.ROOT}/", "") for part in parts]


def benchmark(args: argparse.Namespace, methods: dict[str, study.Method], tasks: list[str], console: Console) -> None:
    """Every run that is not finished, then results.json, pictures and the table."""
    output = args.output.resolve()
    jobs = [(task, name, seed) for task in tasks for seed in range(args.seeds) for name in methods]
    done = []
    for number, (task, name, seed) in enumerate(jobs, start=1):
        folder = output / task / "task"
        # Runs of another budget are other runs.
        path = output / task / f"{name.replace(':', '-').replace('=', '_')}-{args.budget_tokens}-seed{seed}"
        label = f"[{number}/{len(jobs)}] {task} {name} seed {seed}"
        prepare = study.prepare_command(study.TASKS[task], folder, args.warm_up_seconds)
        if args.dry_run:
            console.line(" ".join(prepare))
            console.line(f"  then spo-train for {name}, seed {seed}, in {path}")
            continue
        if not (folder / "prepare.json").exists():
            run(prepare, output / task / "prepare.log", console, f"{task}: data and model")
        result = path / "result.json"
        if not result.exists():
            command = study.train_command(
                study.TASKS[task], methods[name], folder, path, seed=seed, budget=args.budget_tokens, points=args.points
            )
            # What a stopped run left would be mixed with the new one.
            (path / "metrics.jsonl").unlink(missing_ok=True)
            run(command, path / "terminal.log", console, label)
            record = {"task": task, "method": name, "seed": seed, "command": portable(command, output), **study.read_run(path)}
            write_json(result, record)
        done.append(json.loads(result.read_text(encoding="utf-8")))
        accuracy = done[-1]["accuracy"]
        console.line(
            f"{label}  {accuracy[0]['accuracy']:.1%} -> {accuracy[-1]['accuracy']:.1%}  {count(done[-1]['generated_tokens'])} tokens"
            f"  {duration(done[-1]['seconds_training'])}"
        )
    if done:
        settings = {name: str(value) for name, value in vars(args).items() if name != "output"}
        machine = {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}
        machine |= {name: version(name) for name in PACKAGES}
        write_json(output / "results.json", {"settings": settings, "machine": machine, "runs": done})
        for line in report.write(output, done):
            console.line(line)


if __name__ == "__main__":
    sys.exit(main())
