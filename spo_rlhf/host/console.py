"""Progress for people: one line that updates on a terminal, plain lines elsewhere."""

import sys
import time
from typing import TextIO

PLAIN_INTERVAL_S = 15.0


class Console:
    """Writes finished lines and one line in the making to `stream`."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self.is_terminal = self.stream.isatty()
        self._width, self._last_plain = 0, 0.0

    def line(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        self.stream.write(text + "\n")
        self.stream.flush()
        self._last_plain = time.monotonic()

    def status(self, text: str) -> None:
        """What is going on now: replaces itself on a terminal, is a line now and then elsewhere."""
        if self.is_terminal:
            self._clear()
            self.stream.write(text)
            self.stream.flush()
            self._width = len(text)
        elif time.monotonic() - self._last_plain >= PLAIN_INTERVAL_S:
            self.line(text)

    def row(self, key: str, cells: dict[str, str], text: str) -> None:
        """A row of a table where there is one (host/live.py): here the line `text`."""
        self.line(text)

    def close(self) -> None:
        """The end of what updates itself."""

    def _clear(self) -> None:
        if self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self._width = 0


def duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 2 min 05 s, 3 h 07 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def count(number: float) -> str:
    """1234 -> 1.2k, 5600000 -> 5.6M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"
