"""OpenRLHF's supervised (sft) and preference (dpo) training, on this machine: with GPUs, or on the CPU."""

import argparse
import contextlib
import functools
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spo_rlhf import cpu, upstream
from spo_rlhf.cli.spo_options import explicit_options
from spo_rlhf.errors import UserError
from spo_rlhf.host.command import refuse_in_one_line
from spo_rlhf.host.console import Console, duration
from spo_rlhf.host.files import write_json
from spo_rlhf.launch import preflight
from spo_rlhf.launch.output import explain, flatten, output_to, plain, root_cause

PROGRAM = "upstream_trainer"
COMMANDS = {"sft": "train_sft", "dpo": "train_dpo"}
# Options that name a column of the data.
KEYS = {"sft": ("input_key", "output_key"), "dpo": ("prompt_key", "chosen_key", "rejected_key")}
EXAMPLES = """\
examples:
  # supervised training on the right responses that spo-sample kept
  python -m spo_rlhf.cli.upstream_trainer sft --model.model_name_or_path MODEL \\
      --data.dataset runs/samples/correct.jsonl --data.input_key prompt --data.output_key response \\
      --data.input_template '' --ckpt.output_dir runs/sft/model

  # DPO on its pairs, with DPO-positive's penalty
  python -m spo_rlhf.cli.upstream_trainer dpo --model.model_name_or_path MODEL \\
      --data.dataset runs/samples/pairs.jsonl --data.prompt_key prompt --spo.dpo_positive 50 --ckpt.output_dir runs/dpo/model

  # on 4 GPUs
  torchrun --nproc_per_node 4 -m spo_rlhf.cli.upstream_trainer sft ...

writes to --spo.run_dir: metrics.jsonl (one object per optimizer step), summary.json, config.json, train.log
"""


def build_parser(command: str) -> argparse.ArgumentParser:
    """OpenRLHF's parser of the command, with what is added here."""
    parser = upstream.build_parser(COMMANDS[command])
    parser.prog, parser.epilog, parser.allow_abbrev = f"{PROGRAM} {command}", EXAMPLES, False
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.usage = f"{PROGRAM} {command} [options]"
    parser._optionals.title = f"OpenRLHF ({COMMANDS[command]})"
    group = parser.add_argument_group("added here")
    if command == "sft":
        group.add_argument(
            "--spo.sequence_mean",
            action="store_true",
            help="mean loss of each response, then over responses; without it the mean over all tokens",
        )
    else:
        group.add_argument(
            "--spo.dpo_positive",
            type=float,
            default=0.0,
            metavar="LAMBDA",
            help="DPO-positive's penalty on chosen responses becoming less likely; default: 0, plain DPO",
        )
    group.add_argument("--spo.run_dir", metavar="DIR", help="for the record of the run; default: runs/<date>-<time>")
    group.add_argument("--spo.verbose", action="store_true", help="leave the libraries' output on the terminal")
    group.add_argument("--dry-run", action="store_true", help="print the resolved configuration, start nothing")
    refuse_in_one_line(parser)
    return parser


def parse(command: str, argv: list[str]) -> tuple[SimpleNamespace, list[str]]:
    """Arguments -> resolved configuration, and what was decided on the way. Raises UserError."""
    parser = build_parser(command)
    flat = parser.parse_args(argv)
    explicit = explicit_options(parser, argv)
    args = upstream.validate(flat, COMMANDS[command])
    notes = preflight.check_attention(args, explicit)
    for flag in ("model.model_name_or_path", "data.dataset"):
        section, name = flag.split(".")
        if not getattr(getattr(args, section), name):
            raise UserError(f"--{flag} is missing")
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if args.train.batch_size % (args.train.micro_batch_size * ranks):
        raise UserError(
            f"--train.batch_size {args.train.batch_size} is not a multiple of --train.micro_batch_size x ranks "
            f"= {args.train.micro_batch_size} x {ranks}"
        )
    if cpu.is_cpu():
        notes += [f"no GPU: {cpu.DTYPE}, on the CPU", *cpu.settle_deepspeed(args)]
    return args, notes


def check_inputs(command: str, args: SimpleNamespace) -> None:
    """Model and data can be read, and fill an optimizer step. Raises UserError."""
    preflight.check_model("model", args.model.model_name_or_path, must_load=True)
    keys = {name: key for name in KEYS[command] if (key := getattr(args.data, name))}
    for name in (part.strip() for part in args.data.dataset.split(",")):
        if not preflight.is_local(name):
            continue
        if not Path(name).exists():
            raise UserError(f"--data.dataset {name}: no such file or folder")
        if name.endswith(".jsonl"):
            rows = preflight.check_jsonl("data.dataset", name, keys)
            # The supervised trainer's optimizer steps go on from one epoch to the next.
            available = rows * (args.train.max_epochs if command == "sft" else 1)
            if available < args.train.batch_size and name == args.data.dataset:
                raise UserError(
                    f"--data.dataset {name}: {rows} rows do not fill one --train.batch_size of {args.train.batch_size}"
                )


def set_up_process() -> None:
    """The environment that torch.distributed wants, where no launcher has set it: one process."""
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ |= {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    if cpu.is_cpu():
        os.environ.update({name: os.environ.get(name, value) for name, value in cpu.worker_environment().items()})


class Record:
    """metrics.jsonl, summary.json and a line per optimizer step, written by the first rank."""

    def __init__(self, run_dir: Path, console: Console):
        self.run_dir, self.console = run_dir, console
        self.start, self.first_step_end = time.monotonic(), None
        self.summary: dict[str, Any] = {"finished": False, "steps": 0, "planned_steps": 0}
        (run_dir / "metrics.jsonl").unlink(missing_ok=True)

    def take(self, step: int, planned: int, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        with open(self.run_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "seconds": round(now - self.start, 3), "metrics": metrics}) + "\n")
        self.first_step_end = self.first_step_end or (step, now)
        first, since = self.first_step_end
        left = (now - since) / (step - first) * (planned - step) if step > first else None
        self.summary |= {"steps": step, "planned_steps": planned}
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.console.line(f"step {step}/{planned}  {shown}" + (f"  {duration(left)} left" if left is not None else ""))

    def finish(self, finished: bool, output_dir: str) -> None:
        seconds = round(time.monotonic() - self.start, 3)
        self.summary |= {"finished": finished, "seconds_total": seconds, "model": output_dir}
        write_json(self.run_dir / "summary.json", self.summary)


def losses(command: str, args: SimpleNamespace) -> contextlib.AbstractContextManager:
    """Context in which OpenRLHF's trainer uses the loss that the options name."""
    if command == "sft" and args.spo.sequence_mean:
        return upstream.sft_loss(functools.partial(upstream.SFTLoss, token_level_loss=False))
    if command == "dpo" and args.spo.dpo_positive:
        from spo_rlhf.trainer.dpo_positive import DPOPositiveLoss

        return upstream.dpo_loss(functools.partial(DPOPositiveLoss, args.spo.dpo_positive))
    return contextlib.nullcontext()


def train(command: str, args: SimpleNamespace, notes: list[str], early_log: bytes) -> int:
    """Run a resolved configuration; exit status."""
    set_up_process()
    is_first = os.environ["RANK"] == "0"
    run_dir = Path(args.spo.run_dir or f"runs/{datetime.now():%Y%m%d-%H%M%S}")
    run_dir.mkdir(parents=True, exist_ok=True)
    log = run_dir / ("train.log" if is_first else f"train.rank{os.environ['RANK']}.log")
    log.write_bytes(early_log)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.nullcontext(Console()) if args.spo.verbose else output_to(log) as terminal:
        status, message = 0, ""
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            console = terminal if is_first else Console(nowhere)
            record = Record(run_dir, console) if is_first else None
            if is_first:
                write_json(run_dir / "config.json", flatten(plain(args)))
            for note in notes:
                console.line(f"note: {note}")
            console.line(f"{PROGRAM} {command}: loading model and data; log: {log}")
            cli = COMMANDS[command]
            report = record.take if record else lambda *_: None
            try:
                with losses(command, args), upstream.reported_steps(cli, report):
                    getattr(upstream, cli).train(args)
            except KeyboardInterrupt:
                status, message = 130, "interrupted"
            except Exception as error:
                traceback.print_exc()
                status, message = explain(root_cause(error), log)
            if record:
                record.finish(status == 0, args.ckpt.output_dir)
                steps = record.summary["steps"]
                done = f"{steps} steps in {duration(record.summary['seconds_total'])}, model in {args.ckpt.output_dir}"
                console.line(f"{PROGRAM} {command}: {message or done}")
    return status


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage or input, 1 for a failed run, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {PROGRAM} {{{','.join(COMMANDS)}}} [options]\n\n{__doc__}\n\n{EXAMPLES}")
        return 0 if argv else 2
    try:
        command, *rest = argv
        if command not in COMMANDS:
            raise UserError(f"{command!r} is neither {' nor '.join(COMMANDS)}; see {PROGRAM} --help")
        if {"-h", "--help"} & set(rest):
            build_parser(command).parse_args(rest)
        with tempfile.NamedTemporaryFile() as early_log, output_to(early_log.name):
            args, notes = parse(command, rest)
            if not args.dry_run:
                check_inputs(command, args)
            early = Path(early_log.name).read_bytes()
        if args.dry_run:
            print("\n".join(f"  {name} = {value!r}" for name, value in sorted(flatten(plain(args)).items())))
            print(*(f"note: {note}" for note in notes), "dry run: nothing was started", sep="\n")
            return 0
        return train(command, args, notes, early)
    except (UserError, OSError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
