"""One node of a Ray cluster as a tree of processes below this one, ended with it.

`ray start` leaves daemons that only `ray stop` ends, and `ray stop` ends every Ray of the user on the machine, that of
other jobs included. Here whatever loses its parent is handed to this process, also engines whose worker died. All ports
are free ones and all files lie under one folder, so that nodes of several jobs share a machine.
"""

import ctypes
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from spo_rlhf.errors import UserError
from spo_rlhf.host import compiled, device, processes
from spo_rlhf.host.files import replace_text
from spo_rlhf.host.own_run import compiled_here
from spo_rlhf.host.ray_start import ATTEMPTS, search_path

PROGRAM = "ray_node"
# A head writes its address into this file of its --temp-dir once it takes connections.
ADDRESS_FILE = "address"
# Unix sockets have paths of at most 107 bytes; Ray appends a session name and a socket name.
LONGEST_TEMP_DIR = 40
POLL_S = 0.5
LOG_LINES_SHOWN = 20
STARTING_S = 120.0  # a Ray that ends within these has not started
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def interface_address(name: str) -> str:
    """IPv4 address of a network interface of this machine. Raises UserError."""
    interfaces = psutil.net_if_addrs()
    for entry in interfaces.get(name, []):
        if entry.family == socket.AF_INET:
            return entry.address
    raise UserError(
        f"--interface {name}: no such interface with an IPv4 address; there are {', '.join(sorted(interfaces))}"
    )


def free_port() -> int:
    """A port that nobody listens on now; for the one service of Ray that cannot choose its own."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Node:
    """A node to start: a new folder for its files, and as Ray knows it. Without an address it is the head."""

    temp_dir: Path
    gpus: int  # to offer; logical ones on a machine without
    address: str | None = None  # HOST:PORT of the head
    interface: str | None = None  # network interface; None: the one of the default route
    name: str | None = None


def start_command(node: Node, resources: dict[str, Any]) -> list[str]:
    """The `ray start` command of the node."""
    options = [
        f"--temp-dir={node.temp_dir}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
    ]
    options += [f"--{name.replace('_', '-')}={json.dumps(amount)}" for name, amount in resources.items()]
    if node.name:
        options.append(f"--node-name={node.name}")
    if node.interface:
        options.append(f"--node-ip-address={interface_address(node.interface)}")
    if node.address:
        options.append(f"--address={node.address}")
    else:
        options += ["--head", "--port=0", f"--ray-client-server-port={free_port()}", "--include-dashboard=false"]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *options]


def start(node: Node) -> int:
    """Run the node until SIGTERM, SIGINT or SIGUSR2 (status 0) or until Ray ends by itself (status 1).

    A Ray that ends while it starts is started again, a few times.
    """
    temp_dir = node.temp_dir
    if len(str(temp_dir)) > LONGEST_TEMP_DIR:
        raise UserError(
            f"--temp-dir {temp_dir}: longer than {LONGEST_TEMP_DIR} characters, too long for Ray's sockets below it"
        )
    without_gpu = device.is_cpu()
    command = start_command(node, device.logical_resources(node.gpus) if without_gpu else {"num_gpus": node.gpus})
    compiled.settle()
    environment = (device.RAY_ENVIRONMENT if without_gpu else {}) | os.environ | {"PATH": search_path()}
    environment |= {
        # What the engines here keep among the temporary files, sockets above all, goes with the node.
        "TMPDIR": str(temp_dir),
        **compiled_here(),
    }
    environment.pop("RAY_ADDRESS", None)  # this node is the cluster, or told which by --address
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(name, signal.default_int_handler)
    temp_dir.mkdir(parents=True)
    log = temp_dir / "ray_start.log"
    try:
        for attempt in range(1, ATTEMPTS + 1):
            began = time.monotonic()
            with open(log, "wb") as output:
                process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
                )
            if not node.address:
                publish_address(temp_dir, process)
            if process.returncode is None:
                reap_until(process.pid)
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            print(f"{PROGRAM}: Ray ended on {socket.gethostname()}; its last lines:", *lines, sep="\n", file=sys.stderr)
            # A node that others may have seen is not replaced behind their backs.
            if (temp_dir / ADDRESS_FILE).exists() or time.monotonic() - began > STARTING_S or attempt == ATTEMPTS:
                break
            print(f"{PROGRAM}: attempt {attempt} of {ATTEMPTS} failed, trying again", file=sys.stderr)
            processes.end(processes.descendants())
            shutil.rmtree(temp_dir, ignore_errors=True)
            temp_dir.mkdir()
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(name, signal.SIG_IGN)
        # Twice: what dies may leave or start others.
        for _ in range(2):
            processes.end(processes.descendants())
        shutil.rmtree(temp_dir, ignore_errors=True)


def reap_until(pid: int) -> None:
    """Return when the child has ended; orphans that were handed to this process are taken leave of meanwhile."""
    while os.wait()[0] != pid:
        pass


def publish_address(temp_dir: Path, process: subprocess.Popen) -> None:
    """Wait until the head takes connections, then write its address; return without it when Ray ended."""
    from ray._private.utils import read_ray_address

    while process.poll() is None:
        address = read_ray_address(str(temp_dir))
        if address:
            replace_text(temp_dir / ADDRESS_FILE, address)
            return
        time.sleep(POLL_S)


def wait(address: str, nodes: int, limit_s: float) -> int:
    """Return when so many nodes are alive in the cluster: status 0; after `limit_s` seconds: status 1."""
    import ray

    deadline = time.monotonic() + limit_s
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        print(f"{PROGRAM}: error: no Ray cluster answers at {address}", file=sys.stderr)
        return 1
    while True:
        alive = [node for node in ray.nodes() if node["Alive"]]
        names = ", ".join(sorted(f"{node['NodeName']} ({node['NodeManagerAddress']})" for node in alive))
        if len(alive) >= nodes:
            gpus = sum(node["Resources"].get("GPU", 0) for node in alive)
            print(f"Ray at {address}: {len(alive)} nodes, {gpus:g} GPUs: {names}", flush=True)
            return 0
        if time.monotonic() > deadline:
            message = f"{len(alive)} of {nodes} nodes after {limit_s:g} s: {names}"
            print(f"{PROGRAM}: error: Ray at {address} has {message}", file=sys.stderr)
            return 1
        time.sleep(POLL_S)
