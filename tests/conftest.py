"""Puts the folders on the path whose tests share a module, leaves out the `slow` tests unless SPO_SLOW is set, and says how
hypothesis draws."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Nothing is on the hub for the tests; asking takes half a minute each time. For this process before it loads anything, and for
# all that it starts.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that spin while they wait take the core that another process of the same run needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
for folder in (
    "",
    "chaos",
    "core",
    "e2e",
    "evaluation",
    "gpu",
    "insight",
    "methods",
    "mutation",
    "rollouts",
    "trainer",
):
    sys.path.insert(0, str(Path(__file__).parent / folder))
# A shell's background job ignores Ctrl-C, and so would every program that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The one place for what holds of every property test. No verdict depends on how fast the machine is, and the same examples are
# drawn on every run, so that what is green stays green; `--hypothesis-profile=search` draws new ones, and keeps those that fail.
_timeless = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("suite", derandomize=True, **_timeless)
settings.register_profile("search", **_timeless)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what takes many minutes in all, with a reason."""
    if not os.environ.get("SPO_SLOW"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: set SPO_SLOW=1 to run it"))
