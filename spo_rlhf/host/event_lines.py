"""The record of a run, one event a line, as it is found: whole lines are read, the others counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHOWN = 5  # line numbers


def read_events(path: Path, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """The events of a metrics.jsonl; none without the file.

    `tell` gets one line on those that are no event, if there are any. The last one may be half written, by a run that was killed
    or is at work: that is as it should be, and not told.
    """
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    found = {number: _event(line) for number, line in enumerate(lines, 1) if line.strip()}
    if broken := [number for number, event in found.items() if event is None]:
        more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        named = f"line{'s' * (len(broken) > 1)} {', '.join(map(str, broken[:SHOWN]))}{more}"
        tell(f"{path}: {len(broken)} of {len(found)} lines cannot be read and are left out ({named})")
    return [event for event in (*found.values(), _event(last)) if event is not None]


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None
