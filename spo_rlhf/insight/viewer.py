"""The segment viewer: kept rollouts as one page that asks for nothing, or as text on a terminal."""

import base64
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean
from typing import Any

from spo_rlhf.insight import page
from spo_rlhf.rollouts.schema import Row

BAR_PIECES = 40  # of the small picture of an entry in the list
SAME = 1e-6


@dataclass
class Entry:
    """What the list of the page has a line for: a response, or a tree with all its nodes."""

    rows: list[Row] = field(default_factory=list)

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def is_tree(self) -> bool:
        return any(row["level"] > 1 for row in self.rows)

    def rewards(self) -> list[float]:
        """Those of the response, or of the leaves."""
        return [row["reward"] for row in self.rows if row["reward"] is not None]

    def advantages(self) -> list[float]:
        """Of all segments; of the tokens where segments have none."""
        return [adv for row in self.rows for adv in row["segment_advantages"] or row["advantages"]]


def entries(rows: Iterable[Row], most: int) -> tuple[list[Entry], int]:
    """Responses and trees in their order, and how many there are in all.

    Where these are more than `most`, whole steps are left out, evenly over the run; the last one stays.
    """
    steps: list[list[Entry]] = []
    for _, of_step in groupby(rows, key=lambda row: row["step"]):
        made: list[Entry] = []
        for _, of_prompt in groupby(of_step, key=lambda row: row["slot"]):
            together = list(of_prompt)
            is_tree = any(row["level"] > 1 for row in together)
            made += [Entry(together)] if is_tree else [Entry([row]) for row in together]
        steps.append(made)
    total = sum(map(len, steps))
    while len(steps) > 1 and sum(map(len, steps)) > most:
        steps = steps[::-1][::2][::-1]
    return [entry for step in steps for entry in step], total


def scale(shown: Sequence[Entry]) -> float:
    """Advantage at which the colours are full: nearly all are smaller, and few large ones do not make the rest pale."""
    sizes = sorted(abs(adv) for entry in shown for adv in entry.advantages() if adv)
    return round(sizes[int(0.98 * (len(sizes) - 1))], 3) or 1.0 if sizes else 1.0


def viewer(rows: Iterable[Row], title: str, most: int = 1000) -> str:
    """The page. `most`: responses or trees that it holds at most."""
    shown, total = entries(rows, most)
    prompts: dict[str, int] = {}
    for entry in shown:
        prompts.setdefault(entry.first["prompt_id"], len(prompts))
    first_of = {entry.first["prompt_id"]: entry.first for entry in reversed(shown)}
    left_out = "" if len(shown) == total else f" of {total}; steps were left out evenly, --most holds more"
    noun = "trees" if shown and shown[0].is_tree else "responses"
    data = {
        "summary": f"{shown[0].first['method'] if shown else ''}, {len(shown)} {noun}{left_out}",
        "scale": scale(shown),
        "prompts": [{"text": first_of[one]["prompt"], "label": first_of[one]["label"]} for one in prompts],
        "entries": [_in_list(entry, prompts[entry.first["prompt_id"]]) for entry in shown],
    }
    script = page.part("viewer.js")
    return page.fill(
        "viewer.html",
        {
            "title": page.text(title),
            "style": page.part("common.css") + page.part("viewer.css"),
            "script": script,
            "script_hash": page.script_hash(script),
            "data": page.embedded(data),
            "payloads": "\n".join(_payloads(shown)),
        },
    )


def _payloads(shown: Sequence[Entry]) -> Iterator[str]:
    for number, entry in enumerate(shown):
        packed = gzip.compress(json.dumps([_compact(row) for row in entry.rows], separators=(",", ":")).encode(), 6)
        yield f'<script type="application/octet-stream" id="e{number}">{base64.b64encode(packed).decode()}</script>'


def _in_list(entry: Entry, prompt: int) -> dict[str, Any]:
    first, rewards, advs = entry.first, entry.rewards(), entry.advantages()
    return {
        "k": "t" if entry.is_tree else "r",
        "q": prompt,
        "s": first["step"],
        "n": first["sample"],
        "r": round(fmean(rewards), 4) if rewards else None,
        "c": sum(row["truncated"] for row in entry.rows),
        "l": sum(len(row["token_ids"]) for row in entry.rows),
        "w": first["weight_version"],
        "hi": max(advs, default=0.0),
        "lo": min(advs, default=0.0),
        "bar": _bar(entry),
    }


def _bar(entry: Entry) -> list[tuple[int, float]]:
    """(tokens, advantage) of the segments, neighbours joined where there are too many to see."""
    pieces = [
        (end - start, adv)
        for row in entry.rows
        for start, end, adv in zip(row["boundaries"], row["boundaries"][1:], row["segment_advantages"])
    ]
    while len(pieces) > BAR_PIECES:
        pairs = [pieces[at : at + 2] for at in range(0, len(pieces), 2)]
        pieces = [(sum(size for size, _ in pair), max((adv for _, adv in pair), key=abs)) for pair in pairs]
    return pieces


def _compact(row: Row) -> dict[str, Any]:
    """A row as the page's script wants it; per-token advantages only where they tell more than the segments'."""
    made: dict[str, Any] = {
        "i": row["sample"],
        "p": row["parent"],
        "t": row["token_texts"],
        "m": "".join(map(str, row["mask"])),
        "c": "".join(map(str, row["cuts"])),
        "b": row["boundaries"],
        "a": row["segment_advantages"],
        "v": row["values"],
        "e": row["value_stderrs"],
        "n": row["value_counts"],
        "r": row["reward"],
        "parts": row["reward_parts"],
        "trained": row["trained"],
        "cut": row["truncated"],
    }
    per_token = [
        adv
        for start, end, adv in zip(row["boundaries"], row["boundaries"][1:], row["segment_advantages"])
        for adv in [adv] * (end - start)
    ]
    if not per_token or any(abs(one - two) > SAME for one, two in zip(per_token, row["advantages"])):
        made["ta"] = row["advantages"]
    return made
