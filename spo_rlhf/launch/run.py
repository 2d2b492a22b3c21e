"""A resolved run from its start to its end: Ray, engines, actors, the record, and nothing left behind."""

import contextlib
import os
import signal
import traceback
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spo_rlhf import cpu, plugins, upstream
from spo_rlhf.errors import Preempted, RunStopped, UserError
from spo_rlhf.host import device, model_folder, processes, ray_start
from spo_rlhf.host.command import INTERRUPTED
from spo_rlhf.host.console import Console, duration
from spo_rlhf.host.files import only_writer
from spo_rlhf.launch import gpu_rules, hub, model_card
from spo_rlhf.launch.follow import Silence, following
from spo_rlhf.launch.history import store_config
from spo_rlhf.launch.output import explain, older, output_to, resolved, root_cause
from spo_rlhf.launch.placement import num_devices, placement
from spo_rlhf.launch.record import RunRecord
from spo_rlhf.launch.resume import check_newest, set_aside
from spo_rlhf.launch.stopping import PREEMPTED, SIGNALS, Stopping
from spo_rlhf.rollouts.store import RolloutStore

PROGRAM = "spo-train"
FETCH_LIMIT_S = 600.0  # for Ray to hand over what a run has told


def describe(args: SimpleNamespace, notes: list[str]) -> str:
    """The resolved configuration and the placement, as text."""
    actors = placement(args)
    lines = ["resolved configuration"]
    lines += [f"  {name} = {value!r}" for name, value in sorted(resolved(args).items())]
    kind = "logical devices (no GPU)" if device.is_cpu() else "GPUs"
    lines += ["", f"placement on {num_devices(actors)} {kind}", *(f"  {actor}" for actor in actors)]
    lines += ["", *(f"note: {note}" for note in notes)]
    return "\n".join(lines)


def settle_device(*, ask_cluster: bool) -> list[str]:
    """Decide whether the run uses GPUs, before the stack is loaded. Returns lines to show. Raises UserError.

    Without `ask_cluster`, as a dry run wants it, nothing is connected to and a GPU that was asked for need not be here.
    """
    device.settle(None)
    asked, address = device.asked_for(), os.environ.get("RAY_ADDRESS")
    # A GPU that is there and does not work must not make a run of hours on the CPU of it.
    if asked != device.CPU and not address and (trouble := device.unusable_gpu()):
        raise UserError(trouble)
    if ask_cluster:
        cluster = device.cluster_of(ray_start.cluster_nodes(address)) if address and asked != device.CPU else None
        device.settle(device.decide(asked, device.has_gpu(), cluster))
        return []
    device.settle(device.current())
    if not address or asked:
        return []
    return [
        f"{device.current()}, as this machine is; a run asks the cluster of RAY_ADDRESS, or reads {device.VARIABLE}"
    ]


def start_ray(args: SimpleNamespace, stopping: Stopping) -> None:
    """Connect to the cluster of RAY_ADDRESS, or start Ray on this machine. Raises UserError."""
    import ray

    address, needed, here = os.environ.get("RAY_ADDRESS"), num_devices(placement(args)), os.getcwd()

    environment = device.environment() | {
        model_folder.TRUSTED: str(int(model_folder.code_is_trusted())),
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "true"),
        "NCCL_DEBUG": os.environ.get("NCCL_DEBUG", "WARN"),
        "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": os.environ.get("RAY_ENABLE_ZERO_COPY_TORCH_TENSORS", "1"),
    }
    # "local": without an address Ray would join one that somebody else runs on this machine.
    options: dict[str, Any] = {} if address else {"address": "local"}
    if device.is_cpu():
        environment |= cpu.worker_environment()
        os.environ.update({name: os.environ.get(name, value) for name, value in device.RAY_ENVIRONMENT.items()})
        if not address:
            options |= device.logical_resources(needed)

    if files := os.environ.get(plugins.VARIABLE):
        environment[plugins.VARIABLE] = files

    def set_up_worker() -> None:
        if address:
            os.chdir(here)
        plugins.load_from_environment()  # before anything that a plugin defines is unpickled

    # Workers of a cluster that others started are in the folder of its start: relative paths would lead elsewhere.
    if address:
        ray_start.check_answers(address)
    runtime_env = {"env_vars": environment} | ({"worker_process_setup_hook": set_up_worker} if address or files else {})
    # A terminal that is closed hangs up on all that it started, and a checkpoint needs Ray: what is started here is deaf to it.
    with stopping.deferred((signal.SIGHUP, signal.SIGUSR1)):
        ray_start.init(runtime_env=runtime_env, include_dashboard=False, **options)
    gpu_rules.check_devices(args, address, ray.cluster_resources().get("GPU", 0))


def run(args: SimpleNamespace, record: RunRecord, stopping: Stopping) -> None:
    """Start everything, train, save. Returns when the model is saved. Raises Preempted where it was asked to end before."""
    import ray
    from ray.exceptions import GetTimeoutError

    from spo_rlhf.rollout.engine import engine_factory
    from spo_rlhf.trainer import actor, events, loop

    start_ray(args, stopping)
    args.event_log = events.EventLog.remote()
    upstream.bind(
        engine=engine_factory(
            reward_workers=args.spo.reward_workers,
            reward_timeout=args.spo.reward_timeout,
            max_num_seqs=args.spo.max_num_seqs,
            use_fast_tokenizer=not args.data.disable_fast_tokenizer,
            chat_template=bool(args.data.apply_chat_template),
            partial_rollouts=args.train.partial_rollout_enable,
            weight_buckets=args.spo.weight_bucket_mib > 0,
        ),
        policy=actor.RemotePolicyActor,
        critic=actor.RemoteCriticActor,
        reference=actor.RemoteReferenceActor,
        reward=actor.RemoteRewardActor,
        trainer=loop.RemoteSegmentTrainer,
    )

    silence = Silence(args.spo.stall_timeout)

    def fetch() -> list[dict[str, Any]]:
        stopping.end_overdue()
        silence.check()
        try:
            return ray.get(args.event_log.take.remote(stopping.request()), timeout=FETCH_LIMIT_S)
        except GetTimeoutError:
            raise RunStopped(f"Ray has not answered for {FETCH_LIMIT_S:g} s") from None

    def take(event: dict[str, Any]) -> None:
        silence.heard(event)
        record.take(event)
        stopping.training = stopping.training or event["event"] == "plan"

    with following(fetch, take):
        upstream.train(args)


def shut_down() -> None:
    """Leave Ray and end every process that was started here, a second Ctrl-C notwithstanding.

    In a cluster that was not started here Ray itself ends what belonged to this run.
    """
    Stopping.ignore((signal.SIGINT, *SIGNALS))
    started = processes.descendants()
    ray_start.shut_down()
    processes.end(started)


def has_not_trained(summary: dict[str, Any]) -> str:
    """Why a run that came to its end has not finished."""
    skipped, bad = summary["skipped_steps"], summary["nonfinite_steps"]
    if not skipped:
        return (
            f"not finished: nothing was trained, of {summary['generated_tokens']} sampled tokens none was left for a step; "
            "look at the rewards in the log, and at --algo.dynamic_filtering_range where rollouts are filtered"
        )
    return (
        f"not finished: {skipped} optimizer steps were skipped and {summary['optimizer_steps']} made. In {bad} a number was not "
        f"finite, in {skipped - bad} no token under the loss had an advantage"
    )


def closing(summary: dict[str, Any]) -> str:
    """What did not go as it should, for the line that closes a run."""
    parts = {
        "nonfinite_steps": "{} optimizer steps skipped, a number was not finite",
        "engine_restarts": "{} times an engine died and was started again",
        "reward_timeouts": "{} rewards took too long and were 0",
        "reward_crashes": "{} rewards ended their process and were 0",
    }
    return "".join(f"; {text.format(summary[name])}" for name, text in parts.items() if summary[name])


def leave_model(args: SimpleNamespace, summary: dict[str, Any], settings: dict[str, Any], console: Console) -> None:
    """Card and sampling into the saved model's folder, and the folder to the hub where that was asked for.

    The run is over and its model saved: what goes wrong here is told and changes nothing of that.
    """
    with model_card.told(args.ckpt.output_dir, console):
        model_card.finish_folder(args, summary, settings)
    if args.spo.push_to_hub:
        console.line(hub.push_or_tell(Path(args.ckpt.output_dir), args.spo.push_to_hub))


def train(args: SimpleNamespace, notes: list[str], early_log: bytes, settings: dict[str, Any] | None = None) -> int:
    """Run a resolved configuration in its run directory; exit status. `settings` repeat it (launch/settings_file.py).

    With --ckpt.load_enable the record of that folder goes on, else it is replaced. Raises UserError where another run is at work
    in that folder, or writes the same checkpoints, or has written one since this one looked.
    """
    run_dir = Path(args.spo.run_dir or f"runs/{datetime.now():%Y%m%d-%H%M%S}")
    with only_writer("--spo.run_dir", run_dir), only_writer("--ckpt.path", Path(args.ckpt.path), beside=True):
        check_newest(args)
        return _train(args, notes, early_log, settings, run_dir)


def _train(
    args: SimpleNamespace, notes: list[str], early_log: bytes, settings: dict[str, Any] | None, run_dir: Path
) -> int:
    resume, log = bool(args.ckpt.load_enable), run_dir / "train.log"
    if not resume:
        older(log).unlink(missing_ok=True)
    with open(log, "ab" if resume else "wb") as file:
        file.write(early_log)
    with contextlib.nullcontext(Console()) if args.spo.verbose else output_to(log) as console:
        rollouts = RolloutStore(run_dir, args.spo.save_rollouts_mb, console.line)
        record = RunRecord(run_dir, console, resume=resume, rollouts=rollouts)
        if not resume:
            notes = notes + set_aside(Path(args.ckpt.path))
        for note in notes + store_config(run_dir, resolved(args), settings):
            console.line(f"note: {note}")
        where = "here" if args.spo.verbose else log
        console.line(f"starting Ray, {args.vllm.num_engines} vLLM engine(s) and the policy; engine log: {where}")
        status, message = 0, ""
        stopping = Stopping(args.spo.grace)
        stopping.install()
        try:
            run(args, record, stopping)
        except (KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, SystemExit):
                stopping.asked_by = "SIGTERM"  # while ray.init was at work, which has a handler of its own
            status, message = INTERRUPTED, "interrupted; nothing is left running"
            if stopping.asked_by:
                status, message = PREEMPTED, stopping.message()
        except Exception as error:
            traceback.print_exc()
            cause = root_cause(error)
            status, message = explain(cause, where)
            if stopping.asked_by and not isinstance(cause, (UserError, RunStopped, Preempted)):
                # The signal has reached the processes of the run as well, and one of them ended first.
                status, message = PREEMPTED, stopping.message()
        finally:
            shut_down()
            console.close()
            summary = {"finished": False}
            try:
                summary = record.finish(status == 0)
            except OSError as error:  # a full disk, say: what ended the run before is told first
                traceback.print_exc()
                status, message = (status, message) if status else explain(error, where)
        if status == 0 and not summary["finished"]:
            status, message = 1, has_not_trained(summary)
        if status:
            console.line(f"{PROGRAM}: {message}")
        else:
            leave_model(args, summary, settings or {}, console)
            console.line(
                f"done in {duration(summary['seconds_total'])}: {summary['steps']} steps, model in {args.ckpt.output_dir}"
                f"{closing(summary)}"
            )
    return status
