"""A real SLURM of two nodes on this machine, all under one directory: munged, slurmctld and two slurmd."""

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from spo_rlhf.host import processes

NODES = ("n1", "n2")
# As many GPUs and CPUs per node as the job scripts ask for. SLURM wants a device behind each GPU and never opens it.
GPU_FILES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
CPUS_PER_NODE = 32
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
StateSaveLocation={directory}/state
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdSpoolDir={directory}/spool-%n
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
ReturnToService=2
NodeName=DEFAULT CPUs={cpus} RealMemory=1000000 Gres=gpu:{gpus}
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=main Nodes={nodes[0]},{nodes[1]} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Job:
    """A job as `scontrol show job` tells it.

    state: SLURM's word (RUNNING, COMPLETED, FAILED, CANCELLED). exit_status: of the batch script. output: its file.
    """

    id: str
    state: str
    exit_status: int
    output: Path


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class SlurmCluster:
    """Context manager; jobs are submitted inside. Needs root, and what requirements/install_slurm.sh installs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ, "SLURM_CONF": str(directory / "slurm.conf")}
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> "SlurmCluster":
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.directory / name).mkdir(parents=True)
        conf = CONF.format(
            host=socket.gethostname(),
            directory=self.directory,
            ports=free_ports(3),
            nodes=NODES,
            gpus=len(GPU_FILES),
            cpus=CPUS_PER_NODE,
        )
        (self.directory / "slurm.conf").write_text(conf, encoding="utf-8")
        gres = "".join(f"Name=gpu File={device}\n" for device in GPU_FILES)
        (self.directory / "gres.conf").write_text(gres, encoding="utf-8")
        try:
            self._start_daemons()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_daemons(self) -> None:
        key = self.directory / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {name: self.directory / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self._daemon(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={files['socket']}",
            f"--pid-file={files['pid']}",
            f"--log-file={files['log']}",
            f"--seed-file={files['seed']}",
        )
        self._until(files["socket"].exists, "munged made no socket")
        self._daemon("slurmctld", "-D")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        self._until(
            lambda: self.run("sinfo", "-h", "-o", "%T").stdout.split() == ["idle"], "the nodes did not become idle"
        )

    def _daemon(self, program: str, *arguments: str) -> None:
        # Not on the PATH of every user, root included.
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        log = self.directory / f"{program}-{len(self._daemons)}.out"
        with open(log, "wb") as output:
            self._daemons.append(
                subprocess.Popen([path, *arguments], env=self.environment, stdout=output, stderr=output)
            )

    def _until(self, condition, otherwise: str, limit_s: float = 30) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            ended = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            assert time.monotonic() < deadline and not ended, f"{otherwise}; ended: {ended}\n{self.logs()}"
            time.sleep(0.2)

    def logs(self) -> str:
        """The last lines of every daemon."""
        files = sorted(self.directory.glob("*.out"))
        return "\n".join(f"{file.name}: {file.read_text(errors='replace')[-1500:]}" for file in files)

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess:
        """One of SLURM's commands against this cluster."""
        return subprocess.run(
            command, env={**self.environment, **variables}, capture_output=True, text=True, timeout=60
        )

    def submit(self, script: Path, *arguments: str, options: tuple[str, ...], checkout: Path, **variables: str) -> str:
        """sbatch from the checkout; the job's number."""
        output = f"--output={self.directory}/job-%j.out"
        done = self.run(
            "sbatch",
            "--parsable",
            f"--chdir={checkout}",
            output,
            *options,
            str(script),
            *arguments,
            SPO_ROOT=str(checkout),
            **variables,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, job_id: str) -> Job:
        text = self.run("scontrol", "show", "job", "-o", job_id).stdout
        fields = dict(re.findall(r"(\w+)=(\S*)", text))
        return Job(job_id, fields["JobState"], int(fields["ExitCode"].split(":")[0]), Path(fields["StdOut"]))

    def wait(self, job_id: str, limit_s: float) -> Job:
        """The job when it has ended and SLURM has cleaned up after it."""
        deadline = time.monotonic() + limit_s
        while (job := self.job(job_id)).state in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
            assert time.monotonic() < deadline, f"{job} after {limit_s} s\n{self.output(job)}"
            time.sleep(0.5)
        return job

    def output(self, job: Job) -> str:
        return job.output.read_text(encoding="utf-8", errors="replace") if job.output.exists() else ""

    def processes(self, job_id: str | None = None, node: str | None = None) -> set[psutil.Process]:
        """All processes of this cluster's jobs, or of one job, or of one on one node.

        Known by the environment that SLURM gave them, or by a parent that has it: Ray's workers write their titles
        over theirs.
        """
        wanted = {"SLURM_CONF": self.environment["SLURM_CONF"], "SLURM_JOB_ID": job_id, "SLURMD_NODENAME": node}
        found = set()
        for process in psutil.process_iter(["environ"]):
            environment = process.info["environ"] or {}
            # Only what belongs to a job has a SLURM_JOB_ID.
            if "SLURM_JOB_ID" in environment and all(
                value in (None, environment.get(name)) for name, value in wanted.items()
            ):
                with contextlib.suppress(psutil.NoSuchProcess):
                    found |= {process, *process.children(recursive=True)}
        return found

    def __exit__(self, *error) -> None:
        """End all jobs, then what they left, then the daemons, each by its process id."""
        jobs = self.run("squeue", "-h", "-o", "%i").stdout.split()
        if jobs:
            self.run("scancel", *jobs)
            for job_id in jobs:
                with contextlib.suppress(AssertionError, KeyError):
                    self.wait(job_id, limit_s=60)
        processes.end([*self.processes(), *self._daemons_as_processes()])

    def _daemons_as_processes(self) -> list[psutil.Process]:
        return [psutil.Process(daemon.pid) for daemon in self._daemons if daemon.poll() is None]
