"""Progress on a terminal: a compact table of the latest rows that updates in place, lines above it as they come."""

import os
from typing import Any, TextIO

from spo_rlhf.host.console import Console

ROWS = 8  # of the table; earlier ones are gone from the terminal, not from the record


class LiveConsole(Console):
    """A console whose `row`s stand in a table, from the first one until `close`. Without rows it is a plain one."""

    def __init__(self, stream: TextIO, width: int | None = None):
        super().__init__(stream)
        self._rows: dict[str, dict[str, str]] = {}
        self._columns: list[str] = []
        self._status, self._width_asked = "", width
        self._live: Any = None

    def row(self, key: str, cells: dict[str, str], text: str) -> None:
        """Add to the row of `key`, or make it: column -> cell, where empty ones leave what is there. `text` is what a console without a table writes."""
        self._columns += [name for name in cells if name not in self._columns]
        known = self._rows.pop(key, {})
        self._rows[key] = {**known, **{name: cell for name, cell in cells.items() if cell or name not in known}}
        for oldest in list(self._rows)[:-ROWS]:
            del self._rows[oldest]
        if self._live is None:
            self._clear()
            self._live = self._start()
        self._live.update(self._table(), refresh=True)

    def line(self, text: str) -> None:
        """A line that stays, above the table."""
        if self._live is None:
            super().line(text)
        else:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def status(self, text: str) -> None:
        """What is going on now: beneath the table."""
        if self._live is None:
            super().status(text)
        else:
            self._status = text
            self._live.update(self._table(), refresh=True)

    def close(self) -> None:
        """Leave the table as it is and go on with plain lines. Safe to call twice."""
        if self._live is not None:
            self._status = ""
            self._live.update(self._table(), refresh=True)
            self._live.stop()
            self._live, self._rows = None, {}

    def _start(self) -> Any:
        from rich.console import Console as RichConsole
        from rich.live import Live

        console = RichConsole(file=self.stream, force_terminal=True, width=self._width_asked)
        # No thread of its own, and nobody's output taken over: lines come through here alone.
        live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        live.start()
        return live

    def _table(self) -> Any:
        from rich.table import Table

        table = Table(box=None, padding=(0, 1), caption=self._status or None, caption_justify="left")
        for name in self._columns:
            table.add_column(name, justify="right", no_wrap=True)
        for cells in self._rows.values():
            table.add_row(*(cells.get(name, "") for name in self._columns))
        return table


def console_for(stream: TextIO) -> Console:
    """The console of a stream: with a table on a terminal that can move its cursor, plain lines elsewhere."""
    can_move = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return LiveConsole(stream) if can_move else Console(stream)
