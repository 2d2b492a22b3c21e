"""Following the events of a run while it works: a thread fetches them and hands them on."""

import _thread
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

POLL_S = 0.2
LAST_ROUND_S = 10.0  # for the events of the end


@contextlib.contextmanager
def following(
    fetch: Callable[[], list[dict[str, Any]]], take: Callable[[dict[str, Any]], None], poll_s: float = POLL_S
) -> Iterator[None]:
    """While the block runs, and once after it, `take` gets each event that `fetch` returns.

    An error of either ends the block as Ctrl-C would and is raised in its place: a run whose record has stopped would go on for
    hours that nobody can look at afterwards. An error of the block itself comes first.
    """
    stop = threading.Event()
    failed: list[Exception] = []

    def follow() -> None:
        try:
            while True:
                last_round = stop.is_set()
                for event in fetch():
                    take(event)
                if last_round:
                    return
                stop.wait(poll_s)
        except Exception as error:
            failed.append(error)
            if not stop.is_set():
                _thread.interrupt_main()

    thread = threading.Thread(target=follow, daemon=True)
    try:
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=LAST_ROUND_S)
    except KeyboardInterrupt:
        if not failed:
            raise
    if failed:
        raise failed[0]
