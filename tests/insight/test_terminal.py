"""Segments on a terminal."""

import re

import kept_toy
import made_up

from spo_rlhf.insight import terminal
from spo_rlhf.insight.viewer import entries

ESCAPE = re.compile(r"\x1b\[[\d;]*m")


def test_without_colours_borders_and_advantages_are_text():
    [row] = made_up.rows(steps=1, prompts=1, samples=1, length=8)
    [text] = terminal.shown(entries([row], 9)[0], colours=False)
    assert "\x1b" not in text and text.startswith("step 1, response 1  reward ")
    for k, adv in enumerate(row["segment_advantages"]):
        words = "".join(row["token_texts"][2 * k : 2 * k + 2])
        assert (
            f"▏{row['values'][k]:.2f}±0.25 [{adv:+.2f}|{words}]" if adv else f"▏{row['values'][k]:.2f}±0.25 {words}"
        ) in text


def test_with_colours_the_text_is_the_same_and_every_colour_ends():
    shown = entries(made_up.rows(), 99)[0]
    for entry, coloured in zip(shown, terminal.shown(shown, colours=True), strict=True):
        row = entry.first
        plain = ESCAPE.sub("", coloured)
        assert re.sub(r"▏[\d.±]+", "", plain).strip().endswith(row["response"].strip())
        assert coloured.rstrip().endswith(terminal.RESET)
        for adv in row["segment_advantages"]:
            colours = terminal.HELPED if adv > 0 else terminal.HURT
            assert not adv or any(f"48;5;{colour}m" in coloured for colour in colours)


def test_a_tree_is_indented_by_level():
    rows = kept_toy.rows("tree", steps=1, prompts=2)
    text = "\n".join(terminal.shown(entries(rows, 9)[0], colours=False))
    for row in rows:
        assert re.search(rf"^{'  ' * row['level']}node {row['sample']}  A ", text, re.MULTILINE)


def test_no_text_of_a_run_steers_the_terminal():
    shown = entries(made_up.hostile(), 99)[0]
    text = "\n".join(terminal.shown(shown, colours=True))
    assert "\x1b[31m" not in text and "\x07" not in text and "\\x1b[31m\\x07" in ESCAPE.sub("", text)
    text.encode()
