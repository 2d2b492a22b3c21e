"""The Ray of a job asks for the job's secret: who does not have it gets nothing from it. Real Ray on the loopback interface."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]
SECRET = "0123456789abcdef" * 4
CLIENT = """
import logging, sys, ray
from spo_rlhf.errors import UserError
from spo_rlhf.host import ray_start
try:
    print("nodes:", len(ray_start.cluster_nodes(sys.argv[1])))
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
    print("answer:", ray.get(ray.remote(lambda: 7).remote()))
except UserError as error:
    print("refused:", error)
"""


def client(address: str, home: Path, **variables: str) -> subprocess.Popen:
    """Somebody who knows the address, with this in the environment and no secret in the home folder."""
    environment = {name: value for name, value in stack.environment().items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "PYTHONPATH": str(stack.ROOT)} | variables
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CLIENT, address], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_only_who_has_the_secret_gets_in(tmp_path):
    with tempfile.TemporaryDirectory(prefix="spo-", dir="/tmp") as parent:
        temp_dir = Path(parent) / "node"
        command = [sys.executable, "-W", "ignore", "-m", "spo_rlhf.cli.ray_node", "start", "--temp-dir", str(temp_dir)]
        with_secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRET}
        node = subprocess.Popen(
            [*command, "--gpus", "1", "--interface", "lo"],
            env={**stack.environment(), **with_secret, "PYTHONPATH": str(stack.ROOT)},
        )
        try:
            address = temp_dir / "address"
            deadline = time.monotonic() + 120
            while not address.exists():
                assert node.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
            clients = {
                "right": client(address.read_text(), tmp_path, **with_secret),
                "none": client(address.read_text(), tmp_path),
                "no token": client(address.read_text(), tmp_path, RAY_AUTH_MODE="token"),
                "wrong": client(address.read_text(), tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 64),
            }
            said = {name: one.communicate(timeout=180)[0] for name, one in clients.items()}
        finally:
            node.terminate()
            node.wait(timeout=60)
    print(said)
    assert "nodes: 1" in said.pop("right")
    for name, told in said.items():
        assert told.startswith("refused: RAY_ADDRESS ") and "RAY_AUTH_TOKEN" in told, name
        assert len(told.splitlines()) == 1 and SECRET not in told
    assert os.listdir(tmp_path) == [], "no secret was made for those who had none"
