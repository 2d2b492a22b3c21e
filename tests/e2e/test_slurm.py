"""The job scripts under examples/scripts/slurm, submitted to a real SLURM of two nodes on this machine."""

import functools
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import stack
from slurm_cluster import NODES, SlurmCluster

from spo_rlhf.tasks import arithmetic

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
SCRIPTS = stack.ROOT / "examples" / "scripts"
JOBS = sorted((SCRIPTS / "slurm").glob("*.sbatch"))
TRAINING = [job for job in JOBS if job.name.startswith("train_")]
TWO_NODES = ("--nodes=2", "--gpus-per-node=1", "--cpus-per-gpu=2", "--mem-per-gpu=8G")
JOB_LIMIT_S = 600
POLL_S = 2
# Runs until SIGTERM, which it answers with an exit status of its own; says when it is ready.
PATIENT_COMMAND = """
import signal, sys, time, ray
ray.init(log_to_driver=False)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready:", sorted(node["NodeName"] for node in ray.nodes() if node["Alive"]), flush=True)
time.sleep(300)
"""


def name_of(script: Path) -> str:
    return script.stem


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[SlurmCluster]:
    installed = subprocess.run(
        ["bash", stack.ROOT / "requirements" / "install_slurm.sh"], capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip(installed.stderr.strip())
    # A test run that is told to end still ends what it started.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """A small random model and the files of every data set, problems like GSM8K's."""
    directory = stack.make_task(tmp_path_factory.mktemp("task"), train=64, test=8)
    rows = "".join(
        json.dumps({"problem": row["problem"], "answer": f"#### {row['answer']}"}) + "\n"
        for row in arithmetic.generate(3, 16)
    )
    for name in ("gsm8k_train", "gsm8k_test", "math_train", "math500", "aime24"):
        (directory / f"{name}.jsonl").write_text(
            rows.replace("#### ", "" if name in ("math500", "aime24") else "#### ")
        )
    return directory


@pytest.fixture
def node_tmp() -> Iterator[Path]:
    """Where the nodes of a job have their files; a short path, for Ray's sockets."""
    directory = Path("/tmp/spo-slurm-test")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


def until(condition: Callable[[], bool], slurm: SlurmCluster, job_id: str, limit_s: float) -> None:
    """Wait for it while the job runs."""
    deadline = time.monotonic() + limit_s
    while not condition():
        job = slurm.job(job_id)
        assert job.state in ("PENDING", "RUNNING") and time.monotonic() < deadline, f"{job}\n{slurm.output(job)}"
        time.sleep(POLL_S)


def actors(slurm: SlurmCluster, job_id: str, node: str) -> set[str]:
    """Titles of the node's Ray actors, such as ray::SegmentPolicyActor."""
    titles = set()
    for process in slurm.processes(job_id, node):
        try:
            titles.add(process.cmdline()[0].split(".")[0])
        except (psutil.Error, IndexError):
            continue
    return {title for title in titles if title.startswith("ray::") and "Actor" in title}


def assert_nothing_left(started: set[psutil.Process], slurm: SlurmCluster, job_id: str, node_tmp: Path) -> None:
    """No process of the job on any node, none of those that it was seen to start, no files of Ray."""
    running = {process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE}
    assert len(started) > 5 and running | slurm.processes(job_id) == set()
    assert list(node_tmp.iterdir()) == []


def submit_training(
    slurm: SlurmCluster, script: Path, task: Path, node_tmp: Path, output: Path, *arguments: str, **variables: str
) -> str:
    data = task / ("gsm8k_train.jsonl" if "gsm8k" in script.stem else "math_train.jsonl")
    variables = {
        "SMOKE": "1",
        "SMOKE_MODEL": str(task / "model"),
        "DATA": str(data),
        "EVAL_DATA": str(data),
    } | variables
    return slurm.submit(
        script,
        *arguments,
        options=TWO_NODES,
        checkout=stack.ROOT,
        OUTPUT=str(output),
        NODE_TMP=str(node_tmp),
        **variables,
    )


@pytest.mark.parametrize("script", JOBS, ids=name_of)
def test_slurm_accepts_the_script_as_it_is(script, slurm):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    done = slurm.run("sbatch", "--test-only", str(script))
    assert done.returncode == 0, done.stderr
    assert "on nodes n[1-2]" in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("script", TRAINING, ids=name_of)
def test_training_on_two_nodes(script, slurm, task, node_tmp, tmp_path):
    job_id = submit_training(slurm, script, task, node_tmp, tmp_path / "run")
    # A policy rank and an engine on each node.
    until(lambda: all(len(actors(slurm, job_id, node)) >= 2 for node in NODES), slurm, job_id, JOB_LIMIT_S)
    started = slurm.processes(job_id)
    job = slurm.wait(job_id, JOB_LIMIT_S)
    output = slurm.output(job)
    assert (job.state, job.exit_status) == ("COMPLETED", 0), output
    assert "2 nodes, 2 GPUs: n1 (" in output and ", n2 (" in output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    # A model with random weights seldom ends a response: an iteration of trees may have too few nodes to train.
    assert summary["finished"] and summary["steps"] in ((1, 2) if "tree" in script.stem else (2,))
    assert (config["actor.num_nodes"], config["actor.num_gpus_per_node"], config["vllm.num_engines"]) == (2, 1, 2)
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert_nothing_left(started, slurm, job_id, node_tmp)


def test_exit_status_of_the_training_is_the_jobs(slurm, task, node_tmp, tmp_path):
    script = SCRIPTS / "slurm" / "train.sbatch"
    job_id = submit_training(slurm, script, task, node_tmp, tmp_path, "grpo", "gsm8k", DATA="openai/gsm8k@main")
    job = slurm.wait(job_id, JOB_LIMIT_S)
    assert (job.state, job.exit_status) == ("FAILED", 2) and "SMOKE=1 needs DATA=" in slurm.output(job)
    assert slurm.processes(job_id) == set() and list(node_tmp.iterdir()) == []


def test_an_unknown_method_ends_the_job_before_ray_starts(slurm, task, node_tmp, tmp_path):
    job_id = submit_training(slurm, SCRIPTS / "slurm" / "train.sbatch", task, node_tmp, tmp_path, "trpo", "gsm8k")
    job = slurm.wait(job_id, JOB_LIMIT_S)
    assert (job.state, job.exit_status) == ("FAILED", 2) and "method 'trpo': choose from" in slurm.output(job)
    assert list(node_tmp.iterdir()) == []


def test_scancel_ends_a_training_on_both_nodes(slurm, task, node_tmp, tmp_path):
    script = SCRIPTS / "slurm" / "train_spo_chain_gsm8k.sbatch"
    job_id = submit_training(slurm, script, task, node_tmp, tmp_path)
    until(lambda: all(actors(slurm, job_id, node) for node in NODES), slurm, job_id, JOB_LIMIT_S)
    started = slurm.processes(job_id)
    assert slurm.run("scancel", job_id).returncode == 0
    job = slurm.wait(job_id, 60)
    assert job.state == "CANCELLED", slurm.output(job)
    assert_nothing_left(started, slurm, job_id, node_tmp)


@pytest.mark.slow
def test_a_training_saves_before_its_time_limit_is_requeued_and_goes_on(slurm, task, node_tmp, tmp_path):
    script = SCRIPTS / "slurm" / "train_spo_chain_gsm8k.sbatch"
    job_id = submit_training(slurm, script, task, node_tmp, tmp_path / "run", "--train.num_episodes", "6")
    until(lambda: bool(stack.events(tmp_path, "step")), slurm, job_id, JOB_LIMIT_S)
    started = slurm.processes(job_id)
    assert slurm.run("scancel", "--batch", "--signal=USR1", job_id).returncode == 0
    deadline = time.monotonic() + JOB_LIMIT_S
    while "is requeued" not in slurm.output(slurm.job(job_id)):
        assert time.monotonic() < deadline, slurm.output(slurm.job(job_id))
        time.sleep(POLL_S)
    [checkpoint] = (tmp_path / "run" / "checkpoints").iterdir()
    job = slurm.wait(job_id, JOB_LIMIT_S)  # SLURM lets a requeued job wait for a minute or two
    output = slurm.output(job)
    assert (job.state, job.exit_status) == ("COMPLETED", 0), output
    assert "SIGTERM ended the run" in output and f"{checkpoint.name}, the newest whole checkpoint" in output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["finished"] and summary["steps"] == 12
    assert [event["step"] for event in stack.events(tmp_path, "step")] == list(range(1, 13))
    assert_nothing_left(started, slurm, job_id, node_tmp)


def test_warning_before_the_time_limit_and_two_jobs_on_the_same_nodes(slurm, node_tmp, tmp_path):
    script = tmp_path / "job.sbatch"
    command = tmp_path / "command.py"
    command.write_text(PATIENT_COMMAND)
    script.write_text(
        f"#!/usr/bin/env bash\nset -euo pipefail\ncd {stack.ROOT}\n"
        f'source examples/scripts/slurm/ray_cluster.sh\nrun_on_ray "$PYTHON" -W ignore {command}\n'
    )
    submit = functools.partial(slurm.submit, script, options=TWO_NODES, checkout=stack.ROOT, NODE_TMP=str(node_tmp))
    warned, other = submit(), submit(RAY_INTERFACE="lo")
    for job_id in (warned, other):
        until(
            lambda job_id=job_id: "ready: ['n1', 'n2']" in slurm.output(slurm.job(job_id)), slurm, job_id, JOB_LIMIT_S
        )
    assert slurm.run("scancel", "--batch", "--signal=USR1", warned).returncode == 0
    job = slurm.wait(warned, 60)
    assert (job.state, job.exit_status) == ("FAILED", 7), slurm.output(job)
    assert slurm.processes(warned) == set()
    assert {path.name.split(".")[0] for path in node_tmp.iterdir()} == {f"spo-{other}"}
    assert slurm.job(other).state == "RUNNING" and all(slurm.processes(other, node) for node in NODES)
    started = slurm.processes(other)
    assert slurm.run("scancel", "--batch", "--signal=TERM", other).returncode == 0
    assert slurm.wait(other, 60).exit_status == 7
    assert_nothing_left(started, slurm, other, node_tmp)


def test_evaluation_on_two_nodes(slurm, task, node_tmp, tmp_path):
    job_id = slurm.submit(
        SCRIPTS / "slurm" / "eval_context_sweep.sbatch",
        str(task / "model"),
        str(tmp_path / "eval"),
        options=TWO_NODES,
        checkout=stack.ROOT,
        SMOKE="1",
        DATA_DIR=str(task),
        NODE_TMP=str(node_tmp),
    )
    job = slurm.wait(job_id, JOB_LIMIT_S)
    assert (job.state, job.exit_status) == ("COMPLETED", 0), slurm.output(job)
    results = json.loads((tmp_path / "eval" / "results.json").read_text(encoding="utf-8"))
    assert set(results["tasks"]) == {"math500", "aime24", "gsm8k"}
    assert slurm.processes(job_id) == set() and list(node_tmp.iterdir()) == []
