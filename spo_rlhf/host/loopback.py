"""torch's rendezvous on the loopback interface: TCPStore listens on all interfaces, whatever address it is given."""

import functools
import importlib
import socket
from typing import Any

ADDRESSES = ("127.0.0.1", "localhost")
BACKLOG = 512


def install() -> None:
    """Let the stores that this process's `init_process_group` makes for a loopback address listen there alone; in place."""
    rendezvous: Any = importlib.import_module("torch.distributed.rendezvous")  # the package has a function of that name
    if not isinstance(rendezvous.TCPStore, functools.partial):
        rendezvous.TCPStore = functools.partial(_store, rendezvous.TCPStore)


def _store(tcp_store: Any, host_name: str, port: int, **options: Any) -> Any:
    if options.get("is_master") and host_name in ADDRESSES:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESSES[0], port))
            listener.listen(BACKLOG)
        except OSError:  # a store of this process is there, to be shared
            listener.close()
        else:
            options["master_listen_fd"] = listener.detach()  # the store closes it
    return tcp_store(host_name=host_name, port=port, **options)
