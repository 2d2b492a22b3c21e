"""Starting Ray on this machine, and asking a cluster that runs already."""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host import compiled, processes
from spo_rlhf.host.own_run import OwnRun

# Ray gives up on a node that is not up after 30 s, which a busy machine or a slow file system can need.
ATTEMPTS = 3
GAVE_UP = "timed out during startup"
CONNECT_S = 10.0
# A socket's path has 107 bytes on Linux, and Ray's have up to 81 behind the folder for temporary files:
# /spo-12345678/session_2026-01-31_12-00-00_000000_1234567/sockets/plasma_store.100
LONGEST_TEMP_DIR = 26
SHORT_TEMP_DIR = "/tmp"
# Of a Ray that is started here and whatever runs in it: no listener outside this machine. The first is Ray's own setting for
# machines that cannot have a cluster; without it Ray replaces a loopback address by an outer one.
LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "RAY_USAGE_STATS_ENABLED": "0",  # nor anything sent there
}
# Ray keeps an account of every call, for a page that nobody looks at here: its control process grew by 13 MiB in 100 steps.
NO_ACCOUNT = {"RAY_task_events_report_interval_ms": "0"}

_own: OwnRun | None = None  # of the Ray that was started here


def search_path() -> str:
    """PATH with the folder of this Python first, for Ray and its workers.

    DeepSpeed compiles its operators at the first start with the ninja it finds. Another ninja than the last time, that of an
    environment that is now activated, say, compiles all of it again (minutes), and without any it fails.
    """
    here, others = os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([here, *(folder for folder in others if folder != here)])


def settle_temp_dir() -> list[str]:
    """Let this process, and all that it starts, use /tmp where TMPDIR is too long for a socket's path. Returns lines to show.

    Raises UserError where it is RAY_TMPDIR that is too long.
    """
    asked = os.environ.get("RAY_TMPDIR")
    if asked is not None and len(os.fsencode(asked)) > LONGEST_TEMP_DIR:
        raise UserError(
            f"RAY_TMPDIR {asked}: longer than {LONGEST_TEMP_DIR} bytes, and Ray's sockets do not fit below it; choose another"
        )
    long = os.environ.get("TMPDIR", "")
    if len(os.fsencode(long)) <= LONGEST_TEMP_DIR:
        return []
    os.environ["TMPDIR"], tempfile.tempdir = SHORT_TEMP_DIR, None
    return [f"TMPDIR {SHORT_TEMP_DIR}: sockets do not fit below {long}, which has more than {LONGEST_TEMP_DIR} bytes"]


def init(**options: Any) -> None:
    """`ray.init(**options)`, tried again where Ray found its own start too slow; what it left of that has ended by then.

    A Ray that is started here (address "local") listens on the loopback interface alone, keeps its files in a folder of its own,
    and ends with this process, whatever ends it; `shut_down` ends it before. Raises UserError where another wants a secret.
    """
    global _own
    import ray

    os.environ["PATH"] = search_path()
    compiled.settle()
    if options.get("address") != "local":
        try:
            return _try_init(ray, options)
        except Exception as error:
            address = os.environ.get("RAY_ADDRESS")
            if address and is_refusal(error):
                raise not_let_in(address) from None
            raise
    from ray._private import ray_constants

    _own = OwnRun(os.environ.get("RAY_TMPDIR"))
    ray_constants.ENABLE_RAY_CLUSTER, joins = False, ray_constants.ENABLE_RAY_CLUSTER  # read at the import
    loopback = {name: os.environ.get(name, value) for name, value in (LOOPBACK | NO_ACCOUNT).items()}
    try:
        with changed_environment(loopback | _own.environment):
            _try_init(ray, {**options, "_temp_dir": str(_own.folder)})
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = joins


def _try_init(ray: Any, options: Mapping[str, Any]) -> None:
    before = set(processes.descendants())
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(**options)
            return
        except Exception as error:
            if attempt == ATTEMPTS or GAVE_UP not in str(error):
                raise
        print(f"Ray did not start in time (attempt {attempt} of {ATTEMPTS}), trying again", file=sys.stderr)
        ray.shutdown()
        processes.end([process for process in processes.descendants() if process not in before])


@contextlib.contextmanager
def changed_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Context in which this process, and what it starts, has these environment variables."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def shut_down() -> None:
    """Leave Ray; one that was started here ends with all that ran in it, and its folder is removed."""
    global _own
    import ray

    with contextlib.suppress(Exception):
        ray.shutdown()
    if _own is not None:
        _own.end()
        _own = None


def cluster_nodes(address: str) -> list[dict[str, Any]]:
    """The nodes of a running cluster, as `ray.nodes()` lists them; this process is connected for that moment alone.

    Raises UserError.
    """
    import ray

    check_answers(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return ray.nodes()
    except Exception as error:
        if is_refusal(error):
            raise not_let_in(address) from None
        raise
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, on_sigterm)  # ray.init has set its own


def check_answers(address: str) -> None:
    """Somebody listens at HOST:PORT; Ray itself would try for a quarter of an hour. Raises UserError.

    Addresses in another form ("auto", "ray://...") are left to Ray.
    """
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError:
        raise no_cluster(address) from None


def is_refusal(error: Exception) -> bool:
    """Ray did not let this process in: for want of the cluster's secret, of which it says no more than "failed to connect"."""
    return isinstance(error, ConnectionError) or type(error).__name__ == "AuthenticationError"


def not_let_in(address: str) -> UserError:
    """The error of an address where somebody answers, and Ray lets nobody in."""
    return UserError(
        f"RAY_ADDRESS {address}: no Ray cluster answers there, or it asks for another secret; start one, unset RAY_ADDRESS, or set "
        "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as it was started with"
    )


def no_cluster(address: str | None) -> UserError:
    """The error of an address where nobody answers."""
    return UserError(f"RAY_ADDRESS {address}: no Ray cluster answers there; start one, or unset RAY_ADDRESS")
