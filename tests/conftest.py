"""Puts the folders on the path whose tests share a module, and leaves out the `slow` tests unless SPO_SLOW is set."""

import os
import signal
import sys
from pathlib import Path

import pytest

# Nothing is on the hub for the tests; asking takes half a minute each time. For this process before it loads anything, and for
# all that it starts.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that spin while they wait take the core that another process of the same run needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
for folder in ("", "core", "e2e", "insight", "rollouts", "trainer"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
# A shell's background job ignores Ctrl-C, and so would every program that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what takes many minutes in all, with a reason."""
    if not os.environ.get("SPO_SLOW"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: set SPO_SLOW=1 to run it"))
