"""A run of OpenRLHF's supervised or preference training from its start to its end, on one process per rank."""

import contextlib
import functools
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spo_rlhf import cpu, upstream
from spo_rlhf.errors import UserError
from spo_rlhf.host import compiled, device, model_folder, ray_start
from spo_rlhf.host.console import Console, duration
from spo_rlhf.host.files import check_writable, is_local, write_json
from spo_rlhf.host.rows import RowFaults
from spo_rlhf.launch import gpu_rules, model_card, preflight
from spo_rlhf.launch.output import attempt, flatten, output_to, plain
from spo_rlhf.launch.rows import check_jsonl, row_fault
from spo_rlhf.rollout.prompts import PromptFormat

PROGRAM = "upstream_trainer"
#: OpenRLHF's module of each command.
COMMANDS = {"sft": "train_sft", "dpo": "train_dpo"}
# Options that name a column of the data.
KEYS = {"sft": ("input_key", "output_key"), "dpo": ("prompt_key", "chosen_key", "rejected_key")}
#: Called with the step, the steps planned, and the step's metrics.
StepReport = Callable[[int, int, dict[str, float]], None]


def check_options(args: SimpleNamespace, explicit: set[str]) -> list[str]:
    """Options against each other and this machine; settles what the machine decides. Returns lines to show.

    Raises UserError.
    """
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
    if device.asked_for() != device.CPU and (trouble := device.unusable_gpu()):
        raise UserError(trouble)
    if cpu.is_cpu():
        return [f"no GPU: {cpu.DTYPE}, on the CPU", *cpu.settle_deepspeed(args)]
    if device.gpu_count():
        gpu_rules.check_compiler()
    return gpu_rules.settle_grad_accum(args, explicit)


def check_inputs(command: str, args: SimpleNamespace) -> None:
    """Model and data can be read, every row of a local file too, and fill an optimizer step. Raises UserError."""
    check_writable("--spo.run_dir", args.spo.run_dir or ".")
    for role in ("model", "ref") if hasattr(args, "ref") else ("model",):
        if name := getattr(args, role).model_name_or_path:
            preflight.check_model(role, name, must_load=True)
            preflight.check_weights(role, name)
    check_writable("--ckpt.output_dir", args.ckpt.output_dir, model_folder.weights_size(args.model.model_name_or_path))
    chat = bool(args.data.apply_chat_template)
    if chat and not args.data.tokenizer_chat_template:
        tokenizer = preflight.load_tokenizer(args, "model")
        PromptFormat(chat=True).check(tokenizer, args.model.model_name_or_path, "--data.apply_chat_template")
    preflight.check_fit(args, "model")
    keys = {name: key for name in KEYS[command] if (key := getattr(args.data, name))}
    rows = check_rows(args, "data.dataset", args.data.dataset, keys, chat=chat)
    # The supervised trainer's optimizer steps go on from one epoch to the next.
    available = rows * (args.train.max_epochs if command == "sft" else 1)
    if available < args.train.batch_size:
        raise UserError(
            f"--data.dataset {args.data.dataset}: {rows} rows do not fill one --train.batch_size of {args.train.batch_size}"
        )
    if args.eval.dataset:
        check_rows(args, "eval.dataset", args.eval.dataset, keys, chat=chat)


def check_rows(args: SimpleNamespace, flag: str, names: str, keys: dict[str, str], *, chat: bool) -> int:
    """Every row of the data set that `flag` names, in whatever form its files are; their number. Raises UserError."""
    files = [name.strip().split("@")[0] for name in names.split(",")]
    for name in files:
        if is_local(name) and not Path(name).exists():
            raise UserError(f"--{flag} {name}: no such file or folder")
    for name in files:
        if is_local(name) and name.endswith(".jsonl"):
            check_jsonl(flag, name, keys, chat=chat)
    section, option = preflight.SPLITS[flag].split(".")
    rows, faults = preflight.load_rows(args, flag, names, getattr(getattr(args, section), option)), RowFaults()
    for number, row in enumerate(rows, start=1):
        if fault := row_fault(row, keys, chat=chat):
            faults.add(number, fault)
    faults.refuse(f"--{flag} {names}")
    return len(rows)


class StepRecord:
    """metrics.jsonl, summary.json and a line per optimizer step."""

    def __init__(self, run_dir: Path, console: Console):
        self.run_dir, self.console = run_dir, console
        self.start, self.first_step_end = time.monotonic(), None
        self.summary: dict[str, Any] = {"finished": False, "steps": 0, "planned_steps": 0}
        (run_dir / "metrics.jsonl").unlink(missing_ok=True)

    def take(self, step: int, planned: int, metrics: dict[str, float]) -> None:
        """Record the end of optimizer step `step` of `planned`, and show it."""
        now = time.monotonic()
        with open(self.run_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "seconds": round(now - self.start, 3), "metrics": metrics}) + "\n")
        self.first_step_end = self.first_step_end or (step, now)
        first, since = self.first_step_end
        left = f"  {duration((now - since) / (step - first) * (planned - step))} left" if step > first else ""
        self.summary |= {"steps": step, "planned_steps": planned}
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.console.line(f"step {step}/{planned}  {shown}{left}")

    def finish(self, finished: bool, output_dir: str) -> str:
        """Write summary.json; returns the line that ends a finished run."""
        seconds = round(time.monotonic() - self.start, 3)
        self.summary |= {"finished": finished, "seconds_total": seconds, "model": output_dir}
        write_json(self.run_dir / "summary.json", self.summary)
        return f"{self.summary['steps']} steps in {duration(seconds)}, model in {output_dir}"


def train(
    command: str, args: SimpleNamespace, notes: list[str], early_log: bytes, settings: dict[str, Any] | None = None
) -> int:
    """Run a resolved configuration; exit status. The first rank records the run, the others only log.

    settings: what the command said (launch/settings_file.py), for the model card.
    """
    set_up_process()
    is_first = os.environ["RANK"] == "0"
    run_dir = Path(args.spo.run_dir or f"runs/{datetime.now():%Y%m%d-%H%M%S}")
    run_dir.mkdir(parents=True, exist_ok=True)
    log = run_dir / ("train.log" if is_first else f"train.rank{os.environ['RANK']}.log")
    log.write_bytes(early_log)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.nullcontext(Console()) if args.spo.verbose else output_to(log) as terminal:
        if not is_first:
            return attempt(lambda: run_openrlhf(command, args, lambda *_: None), log)[0]
        write_json(run_dir / "config.json", flatten(plain(args)))
        for note in notes:
            terminal.line(f"note: {note}")
        terminal.line(f"{PROGRAM} {command}: loading model and data; log: {log}")
        record = StepRecord(run_dir, terminal)
        status, message = attempt(lambda: run_openrlhf(command, args, record.take), log)
        done = record.finish(status == 0, args.ckpt.output_dir)
        if status == 0:
            with model_card.told(args.ckpt.output_dir, terminal):
                model_card.finish_offline_folder(command, args, record.summary, settings or {})
        terminal.line(f"{PROGRAM} {command}: {message or done}")
    return status


def set_up_process() -> None:
    """The environment that torch.distributed wants, where no launcher has set it: one process; and the PATH of a run."""
    os.environ["PATH"] = ray_start.search_path()
    compiled.settle()
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
            "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
        }
    if cpu.is_cpu():
        os.environ.update({name: os.environ.get(name, value) for name, value in cpu.worker_environment().items()})


def run_openrlhf(command: str, args: SimpleNamespace, report: StepReport) -> None:
    """OpenRLHF's training from its start to its end; `report` is told every optimizer step."""
    module = COMMANDS[command]
    with chosen_loss(command, args), upstream.reported_steps(module, report):
        getattr(upstream, module).train(args)


def chosen_loss(command: str, args: SimpleNamespace) -> contextlib.AbstractContextManager:
    """Context in which OpenRLHF's trainer uses the loss that the options name."""
    if command == "sft" and args.spo.sequence_mean:
        return upstream.sft_loss(functools.partial(upstream.SFTLoss, token_level_loss=False))
    if command == "dpo" and args.spo.dpo_positive:
        from spo_rlhf.trainer.dpo_positive import DPOPositiveLoss

        return upstream.dpo_loss(functools.partial(DPOPositiveLoss, args.spo.dpo_positive))
    return contextlib.nullcontext()
