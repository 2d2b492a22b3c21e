"""What a run directory holds of earlier starts: which of it a new start keeps, cuts or replaces."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spo_rlhf.host import event_lines
from spo_rlhf.host.files import read_json, replace_text, write_json
from spo_rlhf.host.versions import versions
from spo_rlhf.launch import settings_file

METRICS, SUMMARY, CONFIG = "metrics.jsonl", "summary.json", "config.json"
SETTINGS = "config.yaml"  # what repeats the first start
NONFINITE = "nonfinite"  # folder of the samples with a number that is not finite
CUT = "metrics.cut.jsonl"  # events of steps after the checkpoint that a run went on from
OTHER_CONFIGS = "config.start*.json"
# Options of one start, not of the run.
OF_A_START = {"ckpt.load_enable", "spo.resume", "logger.wandb.run_name", "dry_run"}

Event = dict[str, Any]


def clear(run_dir: Path) -> None:
    """Remove the record of another run: nothing of it may stand beside the new one."""
    for name in (METRICS, CUT, SUMMARY, CONFIG, SETTINGS, OTHER_CONFIGS, f"{NONFINITE}/step-*.json"):
        for path in run_dir.glob(name):
            path.unlink()


def read_events(run_dir: Path, tell: Callable[[str], None]) -> list[Event]:
    """The events of earlier starts; `tell` gets a line on what cannot be read (host/event_lines.py)."""
    return event_lines.read_events(run_dir / METRICS, tell)


def split(events: list[Event], first_step: int) -> tuple[list[Event], list[Event]]:
    """Events up to the checkpoint of `first_step`, and those after it. Without a checkpoint, step 0, nothing is kept."""
    if first_step == 0:
        return [], events
    for position, event in enumerate(events):
        if event.get("step", 0) > first_step:
            return events[:position], events[position:]
    return events, []


def rewrite(run_dir: Path, kept: list[Event], cut: list[Event]) -> None:
    """metrics.jsonl holds what is kept; what is cut goes to a file beside it first."""
    if cut:
        with open(run_dir / CUT, "a", encoding="utf-8") as file:
            file.write("".join(line(event) for event in cut))
    replace_text(run_dir / METRICS, "".join(line(event) for event in kept))


def line(event: Event) -> str:
    """An event as a line of metrics.jsonl."""
    return json.dumps(event) + "\n"


def store_config(run_dir: Path, config: dict[str, Any], settings: dict[str, Any] | None = None) -> list[str]:
    """Write the resolved options of a start: config.json is that of the first, and of those that equal it.

    One that differs is stored as config.start<N>.json. Returns lines to show: what differs. The `settings` that repeat
    the first start become config.yaml; what only says how it started is left out.
    """
    path = run_dir / CONFIG
    if settings is not None and not (run_dir / SETTINGS).exists():
        repeating = {name: value for name, value in settings.items() if name not in OF_A_START}
        settings_file.write(run_dir / SETTINGS, repeating, versions().get("spo-rlhf", "?"))
    if not path.exists():
        write_json(path, config)
        return []
    first = read_json(path)
    here = json.loads(json.dumps(config, default=str))
    names = sorted(name for name in (first.keys() | here.keys()) - OF_A_START if first.get(name) != here.get(name))
    if names:
        write_json(run_dir / f"config.start{2 + len(list(run_dir.glob(OTHER_CONFIGS)))}.json", config)
    return [f"--{name} is {here.get(name)!r}; at the first start it was {first.get(name)!r}" for name in names]
