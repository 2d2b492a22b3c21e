"""spo-train: OpenRLHF's `train_ppo_ray` with segment advantages."""

import argparse
import contextlib
import difflib
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spo_rlhf import config, cpu, presets, ray_start, upstream
from spo_rlhf.cli import processes
from spo_rlhf.cli.console import Console, duration
from spo_rlhf.cli.record import RunRecord, write_json
from spo_rlhf.errors import UserError
from spo_rlhf.placement import num_devices, placement

PROGRAM = "spo-train"
POLL_S = 0.2
EXAMPLES = """examples:
  # SPO-chain on a local file, one device, everything colocated
  spo-train --spo.mode chain --actor.model_name_or_path MODEL --data.prompt_dataset train.jsonl --data.input_key problem \\
      --data.label_key answer --reward.remote_url spo_rlhf/tasks/math_reward.py --rollout.n_samples_per_prompt 8 \\
      --actor.num_gpus_per_node 1 --ref.num_gpus_per_node 1 --vllm.num_engines 1 --train.colocate_all

  # GRPO, the same command otherwise; with the probability mask: add --spo.prob_mask
  spo-train --spo.mode group ...

  # see what would run where, start nothing
  spo-train ... --dry-run
"""


def build_parser() -> argparse.ArgumentParser:
    """OpenRLHF's parser with the `--spo.*` group."""
    parser = upstream.build_parser()
    parser.prog, parser.epilog = PROGRAM, EXAMPLES
    parser.description = "Segment Policy Optimization on OpenRLHF: all flags of its train_ppo_ray, and --spo.*"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    # A shortened flag could come to mean another one with the next option that is added.
    parser.allow_abbrev = False
    parser.usage = f"{PROGRAM} [options]"
    parser._optionals.title = "OpenRLHF (train_ppo_ray)"
    config.add_options(parser)
    parser.error = lambda message: _refuse(parser, message)
    return parser


def _refuse(parser: argparse.ArgumentParser, message: str) -> None:
    """argparse's errors as one line, with the nearest flag where one is unknown."""
    unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    near = difflib.get_close_matches(unknown[1], flags, n=1) if unknown else []
    raise UserError(message + (f"; did you mean {near[0]}?" if near else f"; see {PROGRAM} --help"))


def parse(argv: list[str]) -> tuple[SimpleNamespace, list[str]]:
    """Arguments -> resolved configuration (nested, `args.spo` a SpoConfig) and what was decided on the way.

    Raises UserError.
    """
    parser = build_parser()
    flat = parser.parse_args(argv)
    explicit = config.explicit_options(parser, argv)
    presets.apply(flat, explicit)
    notes = config.settle(flat, explicit)
    dry_run = vars(flat).pop("dry_run")
    args = upstream.validate(flat)
    args.spo = config.resolve(args, explicit)
    args.dry_run = dry_run
    from spo_rlhf.cli import preflight

    notes += preflight.check_options(args, explicit)
    preflight.check_inputs(args, must_load=not dry_run)
    return args, notes


def plain(value: Any) -> Any:
    """Nested namespaces and dataclasses as dicts."""
    if hasattr(value, "__dict__"):
        return {name: plain(part) for name, part in vars(value).items()}
    return value


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, names joined by dots."""
    flat = {}
    for name, value in tree.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def describe(args: SimpleNamespace, notes: list[str]) -> str:
    """The resolved configuration and the placement, as text."""
    actors = placement(args)
    lines = ["resolved configuration"]
    lines += [f"  {name} = {value!r}" for name, value in sorted(flatten(plain(args)).items())]
    kind = "logical devices (no GPU)" if cpu.is_cpu() else "GPUs"
    lines += ["", f"placement on {num_devices(actors)} {kind}", *(f"  {actor}" for actor in actors)]
    lines += ["", *(f"note: {note}" for note in notes)]
    return "\n".join(lines)


def start_ray(args: SimpleNamespace) -> None:
    """Connect to the cluster of RAY_ADDRESS, or start Ray on this machine. Raises UserError."""
    import ray

    address, needed, here = os.environ.get("RAY_ADDRESS"), num_devices(placement(args)), os.getcwd()

    environment = {
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "true"),
        "NCCL_DEBUG": os.environ.get("NCCL_DEBUG", "WARN"),
        "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": os.environ.get("RAY_ENABLE_ZERO_COPY_TORCH_TENSORS", "1"),
    }
    options: dict[str, Any] = {}
    if cpu.is_cpu():
        environment |= cpu.worker_environment()
        os.environ.update({name: os.environ.get(name, value) for name, value in cpu.RAY_ENVIRONMENT.items()})
        if not address:
            options = cpu.ray_resources(needed)

    def work_here() -> None:
        os.chdir(here)

    # Workers of a cluster that others started are in the folder of its start: relative paths would lead elsewhere.
    runtime_env = {"env_vars": environment} | ({"worker_process_setup_hook": work_here} if address else {})
    try:
        ray_start.init(runtime_env=runtime_env, include_dashboard=False, **options)
    except ConnectionError:
        raise UserError(f"RAY_ADDRESS {address}: no Ray cluster answers there; start one, or unset RAY_ADDRESS") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ray.init has set its own
    if address and (offered := ray.cluster_resources().get("GPU", 0)) < needed:
        message = f"the cluster has {offered:g} GPUs and the run needs {needed}; add nodes or ask for fewer"
        raise UserError(f"RAY_ADDRESS {address}: {message}")


def run(args: SimpleNamespace, record: RunRecord) -> None:
    """Start everything, train, save. Returns when the model is saved."""
    import ray

    from spo_rlhf.rollout.engine import engine_factory
    from spo_rlhf.trainer import actor, events, loop

    start_ray(args)
    args.event_log = events.EventLog.remote()
    upstream.bind(
        engine=engine_factory(args.spo, use_fast_tokenizer=not args.data.disable_fast_tokenizer),
        policy=actor.RemotePolicyActor,
        critic=actor.RemoteCriticActor,
        reference=actor.RemoteReferenceActor,
        reward=actor.RemoteRewardActor,
        trainer=loop.RemoteSegmentTrainer,
    )
    stop = threading.Event()

    def follow() -> None:
        while True:
            last_round = stop.is_set()
            for event in ray.get(args.event_log.take.remote()):
                record.take(event)
            if last_round:
                return
            stop.wait(POLL_S)

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        upstream.train(args)
    finally:
        stop.set()
        follower.join(timeout=10)


@contextlib.contextmanager
def output_to(path: str | Path):
    """Append all that this process, its libraries and Ray's workers print to a file; yields a console on the real terminal."""
    sys.stdout.flush(), sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(path, "a", encoding="utf-8", buffering=1) as log, os.fdopen(os.dup(1), "w", encoding="utf-8") as terminal:
        os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        try:
            # Both the file descriptors, for other processes and libraries, and Python's own streams, wherever they lead.
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield Console(terminal)
        finally:
            for number, target in zip(saved, (1, 2)):
                os.dup2(number, target), os.close(number)


def shut_down() -> None:
    """Leave Ray and end every process that was started here, a second Ctrl-C notwithstanding.

    In a cluster that was not started here Ray itself ends what belonged to this run.
    """
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    import ray

    started = processes.descendants()
    with contextlib.suppress(Exception):
        ray.shutdown()
    processes.end(started)


def root_cause(error: BaseException) -> BaseException:
    """The error that a Ray task raised, beneath what Ray wrapped around it."""
    while getattr(error, "cause", None) is not None:
        error = error.cause
    return error


def train(args: SimpleNamespace, notes: list[str], early_log: bytes) -> int:
    """Run a resolved configuration in its run directory; exit status."""
    run_dir = Path(args.spo.run_dir or f"runs/{datetime.now():%Y%m%d-%H%M%S}")
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.jsonl").unlink(missing_ok=True)
    write_json(run_dir / "config.json", flatten(plain(args)))
    log = run_dir / "train.log"
    log.write_bytes(early_log)
    with contextlib.nullcontext(Console()) if args.spo.verbose else output_to(log) as console:
        for note in notes:
            console.line(f"note: {note}")
        where = "here" if args.spo.verbose else log
        console.line(f"starting Ray, {args.vllm.num_engines} vLLM engine(s) and the policy; engine log: {where}")
        record = RunRecord(run_dir, console)
        status, message = 0, ""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            run(args, record)
        except (KeyboardInterrupt, SystemExit):  # the latter: SIGTERM while ray.init is at work
            status, message = 130, "interrupted; nothing is left running"
        except Exception as error:
            traceback.print_exc()
            status, message = explain(root_cause(error), where)
        finally:
            shut_down()
            summary = record.finish(status == 0)
        if status:
            console.line(f"{PROGRAM}: {message}")
        else:
            console.line(f"done in {duration(summary['seconds_total'])}: {summary['steps']} steps, model in {args.ckpt.output_dir}")
    return status


def explain(error: BaseException, log: str | Path) -> tuple[int, str]:
    """Exit status and message, one line, for the error that ended a run."""
    first_line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, UserError):
        return 2, f"error: {first_line}"
    return 1, f"error: {type(error).__name__}: {first_line} (log: {log})"


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage or input, 1 for a failed run, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    start = time.monotonic()
    try:
        if {"-h", "--help"} & set(argv):
            build_parser().parse_args(argv)
        # Loading the stack prints dozens of warnings; they belong into the log of the run.
        with tempfile.NamedTemporaryFile() as early_log, output_to(early_log.name):
            args, notes = parse(argv)
            early = Path(early_log.name).read_bytes()
        if args.dry_run:
            print(describe(args, notes))
            print(f"dry run: nothing was started ({duration(time.monotonic() - start)})")
            return 0
        return train(args, notes, early)
    except UserError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
