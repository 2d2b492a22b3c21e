"""The Ray node of batch jobs: nothing in its command is shared with other jobs' nodes, and nothing is left of it."""

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.host import ray_node
from spo_rlhf.host.ray_start import ATTEMPTS


def options_of(**changes) -> dict[str, str]:
    node = ray_node.Node(Path("/tmp/spo-1.0-0"), gpus=4, name="n1", **changes)
    command = ray_node.start_command(node, {"num_gpus": 4})
    return dict(part.partition("=")[::2] for part in command[command.index("start") + 1 :])


def test_no_port_is_fixed():
    ports = {name: value for name, value in options_of().items() if name.endswith("port")}
    client = int(ports.pop("--ray-client-server-port"))
    assert set(ports) == {"--port", "--min-worker-port", "--max-worker-port", "--dashboard-agent-listen-port"}
    assert set(ports.values()) == {"0"}
    with socket.socket() as probe:
        probe.bind(("", client))


def test_head_and_other_nodes():
    head, other = options_of(), options_of(address="192.0.2.1:6000", interface="lo")
    assert "--head" in head and "--address" not in head
    assert (
        "--head" not in other and other["--address"] == "192.0.2.1:6000" and other["--node-ip-address"] == "127.0.0.1"
    )
    assert head["--num-gpus"] == other["--num-gpus"] == "4"


def test_unknown_interface_names_those_there_are():
    with pytest.raises(UserError, match=r"--interface ib9: no such interface.* lo"):
        ray_node.interface_address("ib9")


def test_a_ray_that_does_not_start_is_tried_again_a_few_times(tmp_path):
    """With a command in Ray's place that notes each of its starts and leaves a child behind."""
    starts, temp_dir = tmp_path / "starts", Path(tempfile.mkdtemp(prefix="spo-", dir="/tmp")) / "node"
    program = (
        "import sys; from pathlib import Path; from spo_rlhf.host import ray_node;"
        f"ray_node.start_command = lambda node, resources: ['sh', '-c', 'echo up >> {starts}; sleep 600 & exit 1'];"
        f"sys.exit(ray_node.start(ray_node.Node(Path('{temp_dir}'), gpus=1, address='h:1')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and starts.read_text().split() == ["up"] * ATTEMPTS
    assert "attempt 1 of 3 failed" in done.stderr and "attempt 3" not in done.stderr
    assert not temp_dir.exists(), "what was started in vain has ended and nothing is left"
