"""A run around the algorithm, as far as it can be seen without one: its device, its plan as text, why it ends."""

import json
import os
import shutil
import signal
import time
from types import SimpleNamespace

import pytest

from spo_rlhf.errors import Preempted, UserError
from spo_rlhf.host import device, model_folder, ray_start
from spo_rlhf.host.files import only_writer
from spo_rlhf.launch import run
from spo_rlhf.launch.follow import following
from spo_rlhf.launch.output import explain, resolved, root_cause
from spo_rlhf.launch.stopping import SIGNALS, Stopping
from spo_rlhf.trainer import checkpoints

GPU_NODE = {"Alive": True, "Resources": {"GPU": 8.0, "accelerator_type:H100": 1.0}}
CPU_NODE = {"Alive": True, "Resources": {"GPU": 2.0, device.STAND_IN: 1.0}}


@pytest.fixture
def asks(monkeypatch):
    """A machine without a GPU, and the nodes of a cluster in `nodes`; notes which addresses were asked."""
    asked = SimpleNamespace(nodes=[], addresses=[])

    def cluster_nodes(address):
        asked.addresses.append(address)
        return asked.nodes

    monkeypatch.setattr(device, "has_gpu", lambda: False)
    monkeypatch.setattr(device, "unusable_gpu", lambda: None)
    monkeypatch.setattr(ray_start, "cluster_nodes", cluster_nodes)
    monkeypatch.setattr(device, "_settled", None)
    for name in (device.VARIABLE, "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return asked


def test_a_command_without_a_gpu_uses_those_of_the_cluster(asks, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    asks.nodes = [GPU_NODE]
    assert run.settle_device(ask_cluster=True) == [] and device.current() == device.GPU
    assert asks.addresses == ["head:6379"] and device.environment() == {"SPO_DEVICE": "gpu"}


def test_a_cluster_of_logical_gpus_runs_on_the_cpu_also_from_a_machine_with_one(asks, monkeypatch):
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    asks.nodes = [CPU_NODE]
    run.settle_device(ask_cluster=True)
    assert device.is_cpu()


def test_without_a_cluster_nobody_is_asked_and_every_run_decides_anew(asks, monkeypatch):
    for here, decision in ((False, device.CPU), (True, device.GPU)):
        monkeypatch.setattr(device, "has_gpu", lambda here=here: here)
        run.settle_device(ask_cluster=True)
        assert device.current() == decision
    assert asks.addresses == []


def test_a_gpu_that_torch_cannot_use_ends_the_command_unless_the_cpu_is_asked_for(asks, monkeypatch):
    monkeypatch.setattr(device, "unusable_gpu", lambda: "the driver is too old")
    with pytest.raises(UserError, match="the driver is too old"):
        run.settle_device(ask_cluster=True)
    monkeypatch.setenv(device.VARIABLE, device.CPU)
    run.settle_device(ask_cluster=True)
    assert device.is_cpu()


def test_a_dry_run_connects_to_nothing_and_says_so(asks, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    [note] = run.settle_device(ask_cluster=False)
    assert "a run asks the cluster of RAY_ADDRESS" in note and device.is_cpu()
    monkeypatch.setenv(device.VARIABLE, device.GPU)  # what would run elsewhere
    assert run.settle_device(ask_cluster=False) == [] and not device.is_cpu()
    assert asks.addresses == []


@pytest.mark.parametrize(("address", "given"), [(None, "local"), ("head:6379", None)])
def test_only_an_address_joins_a_ray_that_others_started(asks, arguments, monkeypatch, address, given):
    import ray

    started = []
    monkeypatch.setattr(ray_start, "init", lambda **options: started.append(options))
    monkeypatch.setattr(ray_start, "check_answers", lambda address: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 4.0})
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(run.os, "environ", dict(run.os.environ))
    device.settle(device.GPU)
    try:
        run.start_ray(arguments(train__colocate_all=True), Stopping(60))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert [options.get("address") for options in started] == [given]
    trusted = started[0]["runtime_env"]["env_vars"][model_folder.TRUSTED]
    assert trusted == "0", "workers run no code of a model's unless the command says so"


@pytest.mark.parametrize(("kind", "named"), [(device.CPU, "logical devices (no GPU)"), (device.GPU, "GPUs")])
def test_a_plan_as_text_has_every_option_the_placement_and_the_notes(asks, arguments, kind, named):
    device.settle(kind)
    args = arguments(train__colocate_all=True)
    lines = run.describe(args, ["first note", "second note"]).splitlines()
    assert lines[0] == "resolved configuration" and "  vllm.num_engines = 2" in lines
    options = [line.split(" = ")[0] for line in lines[1 : lines.index("")]]
    assert options == sorted(options) and len(options) == len(resolved(args))
    assert f"placement on 2 {named}" in lines and "  trainer        -            share 0" in lines
    assert lines[-2:] == ["note: first note", "note: second note"]


@pytest.fixture
def trains(tmp_path, monkeypatch, capfd):
    """Runs `train` with something else in place of the run; its exit status and what stood on the terminal."""
    monkeypatch.setattr(run, "shut_down", lambda: None)
    monkeypatch.setattr(run, "leave_model", lambda *_: None)
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def start(work, *, resume: bool = False, **options) -> tuple[int, str]:
        args = SimpleNamespace(
            spo=SimpleNamespace(save_rollouts_mb=1, run_dir=str(tmp_path / "run"), verbose=False, grace=60, **options),
            ckpt=SimpleNamespace(load_enable=resume, output_dir="model", path=str(tmp_path / "run" / "checkpoints")),
            vllm=SimpleNamespace(num_engines=1),
            newest=start.newest,
        )
        monkeypatch.setattr(run, "run", lambda args, record, stopping: start.before(stopping) or work(record))
        status = run.train(args, ["first note"], b"loading\n")
        return status, capfd.readouterr().out

    start.newest = None  # pyright: ignore[reportFunctionMemberAccess]
    start.before = lambda stopping: None  # pyright: ignore[reportFunctionMemberAccess]
    yield start
    for number, handler in before.items():
        signal.signal(number, handler)


def raises(error: BaseException):
    def work(record):
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "spo-train: interrupted; nothing is left running"),
        (
            SystemExit(0),
            75,
            "spo-train: SIGTERM ended the run at once; nothing is left running. --spo.resume auto goes on",
        ),
        (
            Preempted("SIGTERM ended the run; the checkpoint is C"),
            75,
            "spo-train: SIGTERM ended the run; the checkpoint is C",
        ),
        (UserError("--spo.x: too small"), 2, "spo-train: error: --spo.x: too small"),
        (ValueError("unknown event 'stpe'"), 1, "spo-train: error: ValueError: unknown event 'stpe' (log: "),
    ],
)
def test_a_run_that_ends_before_its_time_says_why_and_has_a_record(trains, tmp_path, error, status, message):
    ended, out = trains(raises(error))
    assert ended == status and out.splitlines()[-1].startswith(message) and "note: first note" in out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"] is False
    assert ("Traceback" in (tmp_path / "run" / "train.log").read_text()) == (
        status in (1, 2) or isinstance(error, Preempted)
    )


def test_a_signal_to_all_processes_of_a_run_is_told_as_such(trains):
    """Ray, or an actor, ends first, and what the command sees is the error of a lost process."""

    def asked(stopping):
        stopping.training = True
        os.kill(os.getpid(), signal.SIGTERM)

    trains.before = asked
    status, out = trains(raises(ConnectionError("raylet is gone")))
    assert status == 75 and "SIGTERM ended the run" in out.splitlines()[-1]
    assert trains(raises(UserError("--spo.x: too small")))[0] == 2


def test_a_run_that_left_nothing_to_train_has_not_finished(trains, tmp_path):
    """As with dynamic filtering and a reward that is always 0."""

    def work(record):
        plan = {"first_step": 0, "steps": 2, "first_tokens": 0, "token_budget": None}
        tokens = {"rollout/response_tokens": 90, "rollout/mc_tokens": 38, "rollout/total_tokens": 128}
        record.take({"event": "plan", "time": record.start, **plan})
        record.take({"event": "untrained", "time": record.start, "step": 1, "metrics": tokens})

    status, out = trains(work)
    assert status == 1 and out.splitlines()[-1].startswith(
        "spo-train: not finished: nothing was trained, of 128 sampled tokens none was left for a step"
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["finished"], summary["generated_tokens"]) == (False, 128) and "done in" not in out


def test_a_resumed_run_appends_to_the_log_and_says_what_differs_and_a_new_one_replaces_all(trains, tmp_path):
    def work(record):
        print("at work")
        plan = {"first_step": 1, "steps": 2, "first_tokens": 0, "token_budget": None}
        record.take({"event": "plan", "time": record.start, **plan})

    folder = tmp_path / "run"
    assert trains(work, seed=1)[0] == 0
    status, out = trains(work, resume=True, seed=2)
    assert status == 0 and "note: --spo.seed is 2; at the first start it was 1" in out
    assert (folder / "train.log").read_text().splitlines() == ["loading", "at work"] * 2
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    status, out = trains(work, seed=3)
    assert status == 0 and "differ" not in out and "first start" not in out and "done in" in out
    assert (folder / "train.log").read_text().splitlines() == ["loading", "at work"]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    assert json.loads((folder / "config.json").read_text())["spo.seed"] == 3
    assert sorted(path.name for path in folder.iterdir()) == [
        ".checkpoints.lock",
        ".lock",
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "train.log",
    ]


@pytest.mark.parametrize(("taken", "flag"), [("run", "--spo.run_dir"), ("run/checkpoints", "--ckpt.path")])
def test_a_run_in_a_folder_of_another_that_is_at_work_is_refused_and_changes_nothing(trains, tmp_path, taken, flag):
    assert trains(raises(UserError("no such model")))[0] == 2
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with only_writer("", tmp_path / taken, beside="/" in taken):
        with pytest.raises(UserError, match=f"^{flag} .*{taken}: another command writes into it now"):
            trains(raises(AssertionError("started")))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert trains(raises(UserError("no such model")))[0] == 2, "and not refused"


@pytest.mark.parametrize("resume", [False, True])
def test_a_start_that_looked_before_another_run_wrote_a_checkpoint_is_refused_and_changes_nothing(
    trains, tmp_path, resume
):
    folder = tmp_path / "run" / "checkpoints"
    with checkpoints.writing(folder, "global_step4") as one:
        one.finish(metric=None, run={}, most=9, most_bytes=1e12)
    for trains.newest in (0, 2):
        with pytest.raises(
            UserError, match=r"^--ckpt.path .*changed the checkpoints meanwhile, global_step4 is the newest"
        ):
            trains(raises(AssertionError("started")), resume=resume)
    assert {path.name for path in folder.parent.iterdir()} == {".lock", ".checkpoints.lock", "checkpoints"}
    trains.newest = 1
    assert trains(raises(UserError("no such model")), resume=True)[0] == 2, "and not refused"
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="there is none any more"):
        trains(raises(AssertionError("started")), resume=True)


class WrappedByRay(Exception):
    def __init__(self, cause):
        super().__init__("a task failed\nwith a long trace")
        self.cause = cause


def test_the_error_that_a_worker_raised_is_said_in_one_line():
    error = root_cause(WrappedByRay(WrappedByRay(UserError("--spo.x 1: too small\nmore"))))
    assert explain(error, "train.log") == (2, "error: --spo.x 1: too small")
    error = root_cause(WrappedByRay(ValueError("first\nsecond")))
    assert explain(error, "train.log") == (1, "error: ValueError: first (log: train.log)")
    assert explain(RuntimeError(), "here") == (1, "error: RuntimeError:  (log: here)")


@pytest.mark.parametrize(
    ("work", "status", "told"),
    [
        (lambda record: None, 1, "error: No space left on device"),
        (raises(UserError("no such model")), 2, "error: no such model"),
        (raises(KeyboardInterrupt()), 130, "interrupted"),
    ],
)
def test_a_summary_that_cannot_be_written_hides_nothing(trains, monkeypatch, work, status, told):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spo_rlhf.launch.record.write_json", full)
    given, out = trains(work)
    assert given == status and f"spo-train: {told}" in out.splitlines()[-1] and "done in" not in out


def test_a_record_on_a_full_disk_ends_the_run_with_its_reason(trains, tmp_path):
    def work(record):
        (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
        events = [{"event": "note", "text": "on we go", "time": record.start}]
        with following(lambda: [events.pop()] if events else [], record.take, poll_s=0.01):
            for _ in range(3000):  # a run of half a minute
                time.sleep(0.01)

    began = time.monotonic()
    status, out = trains(work)
    assert status == 1 and "No space left on device" in out.splitlines()[-1]
    assert time.monotonic() - began < 15
