"""torch's rendezvous for a loopback address listens there alone, and ranks and second groups still find it."""

import os
import subprocess
import sys

import pytest

from spo_rlhf.host.ray_start import LOOPBACK

PROGRAM = """
import os, socket, sys
import psutil, torch
import torch.distributed as dist
from spo_rlhf.host import loopback
loopback.install()
loopback.install()
dist.init_process_group("gloo", init_method=sys.argv[1])
pair = dist.new_group([0, 1])
total = torch.ones(1)
dist.all_reduce(total)
dist.all_reduce(total, group=pair)
listeners = {one.laddr.ip for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN}
dist.barrier()
print(int(total), *sorted(listeners))
"""


@pytest.mark.parametrize("method", ["env://", "tcp://127.0.0.1:{port}", "tcp://localhost:{port}"])
def test_two_ranks_meet_and_nobody_outside_could_join(method):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = method.format(port=port)
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"} | LOOPBACK
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, url if url == "env://" else f"{url}?rank={rank}&world_size=2"],
            env=os.environ | addresses | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        output, _ = rank.communicate(timeout=120)
        assert rank.returncode == 0
        total, *listeners = output.split()
        assert total == "4" and listeners and set(listeners) == {"127.0.0.1"}
