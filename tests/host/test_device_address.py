"""An address where no cluster answers is said at once: Ray would go on trying for many minutes."""

import socket
import time

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.host import ray_start


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_nobody_answers():
    address = f"127.0.0.1:{unused_port()}"
    began = time.monotonic()
    with pytest.raises(UserError, match=f"RAY_ADDRESS {address}: no Ray cluster answers there; start one, or unset"):
        ray_start.cluster_nodes(address)
    assert time.monotonic() - began < ray_start.CONNECT_S + 5


def test_somebody_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ray_start.check_answers(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("address", ["auto", "local", "ray://127.0.0.1:1", "head"])
def test_other_forms_of_an_address_are_left_to_ray(address):
    ray_start.check_answers(address)
