"""Accuracy over generated tokens and over seconds, for every method, each at the same token budget, on spo-train.

Every task, method and seed is a run of its own under --output; finished runs are kept, so the command may be stopped and
given again at any time.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout that is not installed

import report
import study

from spo_rlhf.errors import UserError
from spo_rlhf.host.console import Console, count, duration
from spo_rlhf.host.files import write_json

PROGRAM = "learning_curves"
QUICK = {
    "seeds": 1,
    "budget_tokens": 60_000,
    "points": 3,
    "warm_up_seconds": 240.0,
    "methods": "grpo,spo_chain",
    "tasks": "arithmetic-short",
}
DEFAULT_TASKS = ("arithmetic-short", "arithmetic-long", "knights_knaves")
PACKAGES = ("openrlhf", "ray", "deepspeed", "torch", "transformers")
SWITCHES = {"true": True, "false": False}
EXAMPLES = """examples:
  python benchmarks/learning_curves.py --quick
  python benchmarks/learning_curves.py --methods grpo,spo_chain,spo_tree --task arithmetic-long --seeds 3 --budget-tokens 600000
  python benchmarks/learning_curves.py --methods spo_chain --vary spo.cutpoint_interval=1,3,5 --seeds 1 --budget-tokens 200000
  python benchmarks/learning_curves.py --stability --seeds 1 --budget-tokens 150000   # ten times the learning rate, two epochs
  python benchmarks/learning_curves.py --task arithmetic-short --collect     # one table of all finished runs of a task
  python benchmarks/learning_curves.py --dry-run                             # the commands it would run
"""


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLES
    )
    parser.add_argument(
        "--methods", metavar="A,B", help=f"of {', '.join(study.METHODS)}; default: {', '.join(study.DEFAULT_METHODS)}"
    )
    parser.add_argument(
        "--task", dest="tasks", metavar="A,B", help=f"of {', '.join(study.TASKS)}; default: {', '.join(DEFAULT_TASKS)}"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of each; default: 3")
    parser.add_argument(
        "--budget-tokens",
        type=int,
        metavar="N",
        help="tokens generated in a run, Monte Carlo included; default: 600000",
    )
    parser.add_argument("--points", type=int, metavar="N", help="evaluations in a run, about; default: 8")
    parser.add_argument(
        "--warm-up-seconds",
        type=float,
        metavar="S",
        help="of supervised training of a task's model, at most; default: 1800",
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="OPTION=A,B",
        help="run each method once with each value (A|B where a value has commas); `prompts` and `responses` are the batch",
    )
    parser.add_argument(
        "--stability", action="store_true", help="a learning rate 10 times too high and two epochs in 4 batches"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time, each with its share of the cores; seconds compare only at one N; default: 1",
    )
    parser.add_argument("--quick", action="store_true", help="one seed, two methods, one task, a small budget")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/learning_curves"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--collect",
        action="store_true",
        help="run nothing; results of all finished runs of --task, whatever their settings",
    )
    parser.add_argument(
        "--only", metavar="A,B", help="with --collect: runs of these methods alone, named as in the table"
    )
    parser.add_argument(
        "--baseline", metavar="METHOD", help="what the table compares with; default: the first of the methods"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.error = lambda message: parser.exit(2, f"{PROGRAM}: error: {message}; see --help\n")
    args = parser.parse_args(argv)
    methods = study.STABILITY_METHODS if args.stability else list(study.DEFAULT_METHODS)
    defaults = {"seeds": 3, "budget_tokens": 600_000, "points": 8, "warm_up_seconds": 1800.0}
    tasks = [study.STABILITY_TASK] if args.stability else DEFAULT_TASKS
    defaults |= {"methods": ",".join(methods), "tasks": ",".join(tasks)}
    for name, value in {**defaults, **(QUICK if args.quick else {})}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def check(args: argparse.Namespace) -> None:
    """Raises UserError for a number out of range."""
    for name in ("seeds", "budget_tokens", "points", "parallel"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    if args.only and not args.collect:
        raise UserError("--only: goes with --collect; for what is run, --methods")


def split(text: str) -> list[str]:
    return text.split("|" if "|" in text else ",")


def choose(text: str, known: dict, option: str) -> list[str]:
    """Names of a list with commas, or A|B where names have commas; raises UserError for an unknown one."""
    names = [name.strip() for name in split(text) if name.strip()]
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
            f"{name}:{option.rpartition('.')[2]}={value}": method.with_options(
                {option: SWITCHES.get(value.lower(), value)}
            )
            for name, method in found.items()
            for value in filter(None, split(listed))
        }
    return found


class Terminated(KeyboardInterrupt):
    """By SIGTERM, which does not reach the runs by itself as Ctrl-C does."""


class Board:
    """The last line of every run going on, in one status line; safe to use from several threads.

    stopped: what interrupted the benchmark, so that the runs that end with it are no failures.
    """

    def __init__(self, console: Console):
        self.console, self.lock = console, threading.Lock()
        self.current: dict[str, str] = {}
        self.stopped: KeyboardInterrupt | None = None

    def line(self, text: str) -> None:
        with self.lock:
            self.console.line(text)

    def update(self, label: str, text: str | None) -> None:
        """What a run does now; None: it has ended."""
        with self.lock:
            self.current.pop(label, None)
            if text is not None:
                self.current[label] = text
            if self.current:
                self.console.status("   ".join(f"{label}  {text}" for label, text in sorted(self.current.items())))


def run(command: list[str], log: Path, board: Board, label: str, parallel: int = 1) -> None:
    """Run one command with its output in a log. Raises UserError if it fails. Ctrl-C reaches it as well, SIGTERM is passed on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    cores = max(1, (os.cpu_count() or 1) // parallel)
    environment = {"OMP_NUM_THREADS": str(cores), **os.environ} if parallel > 1 else None
    start = time.monotonic()
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=study.ROOT, env=environment)
        try:
            while process.poll() is None:
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                board.update(label, f"{duration(time.monotonic() - start)}  {lines[-1][:90] if lines else ''}")
                if isinstance(board.stopped, Terminated):
                    process.terminate()
                    break
                time.sleep(1)
        except Terminated:
            process.terminate()
            raise
        finally:
            process.wait()
            board.update(label, None)
    if process.returncode:
        raise UserError(f"{label} ended with status {process.returncode}; see {log}")


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage or a run that failed, 130 when interrupted."""
    args = parse(sys.argv[1:] if argv is None else argv)
    console = Console()
    try:
        check(args)
        methods = variants(args)
        tasks = choose(args.tasks, study.TASKS, "--task")
        if args.collect:
            collect(args, tasks, console)
        else:
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
    """Every run that is not finished, then results.json, pictures and the table. Raises UserError at the end if runs failed."""
    output, board = args.output.resolve(), Board(console)
    jobs = [(task, name, seed) for task in tasks for seed in range(args.seeds) for name in methods]
    for task in tasks:
        folder = output / task / "task"
        prepare = study.prepare_command(study.TASKS[task], folder, args.warm_up_seconds)
        if args.dry_run:
            console.line(" ".join(prepare))
        elif not (folder / "prepare.json").exists():
            run(prepare, output / task / "prepare.log", board, f"{task}: data and model")

    def finish(number: int, task: str, name: str, seed: int) -> dict | UserError | None:
        """The record of a run, from its file or by running it, or the error that ended it; None in a dry run."""
        # Runs of another budget are other runs.
        path = output / task / f"{name.replace(':', '-').replace('=', '_')}-{args.budget_tokens}-seed{seed}"
        label = f"[{number}/{len(jobs)}] {task} {name} seed {seed}"
        if args.dry_run:
            return board.line(f"spo-train for {name}, seed {seed}, in {path}")
        result = path / "result.json"
        if not result.exists():
            command = study.train_command(
                study.TASKS[task],
                methods[name],
                output / task / "task",
                path,
                seed=seed,
                budget=args.budget_tokens,
                points=args.points,
            )
            # What a stopped run left would be mixed with the new one.
            (path / "metrics.jsonl").unlink(missing_ok=True)
            try:
                run(command, path / "terminal.log", board, label, args.parallel)
                told = portable(command, output)
                record = {"task": task, "method": name, "seed": seed, "command": told, **study.read_run(path)}
            except UserError as error:
                if board.stopped is None:
                    board.line(f"{label}  FAILED, the others go on")
                return error
            write_json(result, record)
        record = json.loads(result.read_text(encoding="utf-8"))
        first, last = record["accuracy"][0]["accuracy"], record["accuracy"][-1]["accuracy"]
        spent = f"{count(record['generated_tokens'])} tokens  {duration(record['seconds_training'])}"
        board.line(f"{label}  {first:.1%} -> {last:.1%}  {spent}")
        return record

    with ThreadPoolExecutor(args.parallel) as pool:
        futures = [pool.submit(finish, number, *job) for number, job in enumerate(jobs, start=1)]
        try:
            ended = [future.result() for future in futures]
        except KeyboardInterrupt as stop:
            board.stopped = stop
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    failed = [one for one in ended if isinstance(one, UserError)]
    write_results(args, [one for one in ended if isinstance(one, dict)], console)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs failed, the same command tries them again; the first: {failed[0]}"
        )


def collect(args: argparse.Namespace, tasks: list[str], console: Console) -> None:
    """Results of every finished run of these tasks under --output, whatever command made it."""
    found = [
        json.loads(path.read_text(encoding="utf-8"))
        for task in tasks
        for path in sorted(args.output.glob(f"{task}/*/result.json"))
    ]
    if not found:
        raise UserError(f"--output {args.output}: no finished run of {', '.join(tasks)} there")
    if args.only:
        wanted = choose(args.only, {one["method"]: one for one in found}, "--only")
        found = [one for one in found if one["method"] in wanted]
    write_results(args, found, console)


def write_results(args: argparse.Namespace, done: list[dict], console: Console) -> None:
    """results.json, results.md and pictures of these runs, and the table on the terminal; nothing where there is no run."""
    output = args.output.resolve()
    if args.baseline and args.baseline not in (names := {one["method"] for one in done}):
        raise UserError(f"--baseline {args.baseline}: no run of it among those of {', '.join(sorted(names))}")
    done = sorted(done, key=lambda one: one["method"] != args.baseline) if args.baseline else done
    if done:
        settings = {name: str(value) for name, value in vars(args).items() if name != "output"}
        machine = {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}
        machine |= {name: version(name) for name in PACKAGES}
        write_json(output / "results.json", {"settings": settings, "machine": machine, "runs": done})
        for line in report.write(output, done):
            console.line(line)


def terminated(*_: object) -> None:
    """Handler of SIGTERM."""
    raise Terminated


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminated)
    sys.exit(main())
