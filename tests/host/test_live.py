"""Progress: a table that updates in place on a terminal, plain lines elsewhere."""

import io
import os
import pty
import re
import select

import pytest

from spo_rlhf.host.console import Console
from spo_rlhf.host.live import ROWS, LiveConsole, console_for

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def terminal(monkeypatch):
    """A stream that is a pseudo terminal, and what has arrived on its other side so far."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    reading, writing = pty.openpty()
    stream = os.fdopen(writing, "w", encoding="utf-8")

    def arrived() -> str:
        stream.flush()
        text = b""
        while select.select([reading], [], [], 0.05)[0]:
            text += os.read(reading, 65536)
        return text.decode()

    yield stream, arrived
    stream.close()
    os.close(reading)


def test_a_terminal_gets_a_table_that_updates_in_place(terminal):
    stream, arrived = terminal
    console = console_for(stream)
    assert isinstance(console, LiveConsole)
    console.line("starting [Ray]")
    console.status("loading")
    before = arrived()
    assert "starting [Ray]\r\n" in before and "\x1b[" not in before, "no table before the first row"
    console.row("step 1", {"step": "1/20", "reward": "0.250", "held out": ""}, "step 1/20  reward 0.250")
    console.row("step 1", {"held out": "40.0%"}, "held-out accuracy 40.0%")
    console.status("step 2/20  generate 3/8")
    console.line("note: [bold] is text")
    shown = arrived()
    assert "\x1b[?25l" in shown and "\x1b[1A" in shown, "it moves up to write over itself"
    text = ESCAPE.sub("", shown)
    assert "0.250" in text and "40.0%" in text and "generate 3/8" in text and "note: [bold] is text" in text
    for step in range(2, 20):
        console.row(f"step {step}", {"step": f"{step}/20", "reward": "1.000"}, "")
    console.close()
    last = ESCAPE.sub("", arrived().rpartition("\x1b[?25h")[0]).split("reward")[-1]
    assert [f" {step}/20" in last for step in range(1, 20)] == [False] * (19 - ROWS) + [True] * ROWS
    console.line("done")
    assert arrived() == "done\r\n"
    console.close()


def test_elsewhere_rows_are_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    console = console_for(stream)
    assert type(console) is Console
    console.row("step 1", {"step": "1/20"}, "step 1/20  reward 0.250")
    console.close()
    assert stream.getvalue() == "step 1/20  reward 0.250\n"


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(terminal, monkeypatch):
    stream, arrived = terminal
    monkeypatch.setenv("TERM", "dumb")
    console_for(stream).row("step 1", {"step": "1"}, "step 1")
    assert arrived() == "step 1\r\n"
