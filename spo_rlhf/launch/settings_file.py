"""Settings of a run as a YAML file: `spo-train --config FILE.yaml`, and the file that every run writes to be repeated by.

A key is an option without its dashes; nested mappings are names with dots, so these two say the same::

    actor.adam.lr: 1e-6          actor:
                                   adam: {lr: 1e-6}

A value is what would stand behind the flag, as text for the option's own parser: `1e-6`, `on` and `6,6,6` need no quotes. `true` and
`false` are for switches, a list is for options that take several values, `null` leaves an option as if it were not there.
"""

import argparse
import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import replace_text

FLAG = "--config"
# What is of one call and no setting.
NO_SETTINGS = {"config", "help", "dry-run"}


class _Loader(yaml.SafeLoader):
    """YAML in which only null, true and false are anything but text, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.MarkedYAMLError(problem=f"{twice} is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads."""


for _kind in _Loader, _Dumper:
    _kind.yaml_implicit_resolvers = {}
    _kind.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), list("tf"))
    _kind.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("null|~|$"), ["n", "~", ""])


def read(path: str | Path) -> dict[str, Any]:
    """The settings of a file by name, nested ones joined by dots: text, true, false or a list of texts; null left out.

    Raises UserError, which names the file: it is missing, no YAML, or holds something that is no setting.
    """
    try:
        loaded = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{FLAG} {path}: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    except yaml.MarkedYAMLError as error:
        at = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise UserError(f"{FLAG} {path}: {error.problem}{at}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{FLAG} {path}: no YAML: {' '.join(str(error).split())}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UserError(f"{FLAG} {path}: a file of settings is lines of NAME: VALUE")
    settings: dict[str, Any] = {}
    _flatten(loaded, "", settings, path)
    return {name: value for name, value in settings.items() if value is not None}


def _flatten(tree: dict[Any, Any], prefix: str, into: dict[str, Any], path: str | Path) -> None:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            _flatten(value, f"{name}.", into, path)
            continue
        if name in into:
            raise UserError(f"{FLAG} {path}: {name} is there twice")
        if isinstance(value, list) and not all(isinstance(one, str) for one in value):
            raise UserError(f"{FLAG} {path}: {name}: a list holds texts and numbers alone")
        into[name] = value


def as_list(value: Any) -> list[str]:
    """The values of an option that may be repeated."""
    return value if isinstance(value, list) else [] if value is None else [str(value)]


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The settings that a parser knows, by the name a file gives them."""
    return {name: action for action in parser._actions if (name := _name(action)) and name not in NO_SETTINGS}


def _name(action: argparse.Action) -> str:
    """The option without its dashes; empty for what is no option."""
    long = [one for one in action.option_strings if one.startswith("--")]
    return long[0].removeprefix("--") if long else ""


def arguments(files: Iterable[str | Path], parser: argparse.ArgumentParser, argv: Iterable[str]) -> list[str]:
    """The command line that says what the files say; later files win, and what `argv` repeats is left to it.

    Raises UserError, which names the file: an unknown key, with the nearest known one, or a value that the option refuses.
    """
    found: dict[str, list[str]] = {}
    known = options_of(parser)
    named = {argument.partition("=")[0] for argument in argv}
    for path in files:
        here = {name: _as_arguments(name, value, known, path) for name, value in read(path).items()}
        try:
            parser.parse_args([argument for one in here.values() for argument in one])
        except UserError as error:
            raise UserError(f"{FLAG} {path}: {error}") from None
        found |= here
    # An option that may be repeated adds up on one command line; here the flag is to win.
    return [argument for name, one in found.items() if f"--{name}" not in named for argument in one]


def _as_arguments(name: str, value: Any, known: Mapping[str, argparse.Action], path: str | Path) -> list[str]:
    action = known.get(name)
    if action is None:
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(f"{FLAG} {path}: unknown key {name}" + (f"; did you mean {near[0]}?" if near else ""))
    flag, is_switch = f"--{name}", action.nargs == 0
    if is_switch != isinstance(value, bool):
        kind = "is a switch: give true or false" if is_switch else f"takes a value, not {str(value).lower()}"
        raise UserError(f"{FLAG} {path}: {name} {kind}")
    if isinstance(value, bool):
        off = [f"--no-{name}"] if f"--no-{name}" in action.option_strings else []
        return [flag] if value else off
    if not isinstance(value, list):
        return [flag, value] if action.nargs else [f"{flag}={value}"]  # with "=" a text may begin with a dash
    if action.nargs:
        return [flag, *value]
    if isinstance(action, argparse._AppendAction):
        return [f"{flag}={one}" for one in value]
    raise UserError(f"{FLAG} {path}: {name} takes one value, not a list")


def said(parser: argparse.ArgumentParser, argv: list[str]) -> dict[str, Any]:
    """What a command line says, as the file that says the same: its own words, not what became of them."""
    texts: dict[str, list[list[str]]] = {}
    get_values = parser._get_values

    def recorded(action: argparse.Action, arg_strings: list[str]) -> Any:
        texts.setdefault(_name(action), []).append(list(arg_strings))
        return get_values(action, arg_strings)

    parser._get_values = recorded
    try:
        flat = vars(parser.parse_args(argv))
    finally:
        del parser._get_values
    known = options_of(parser)
    return {name: _value(known[name], given, flat) for name, given in texts.items() if name in known}


def _value(action: argparse.Action, given: list[list[str]], flat: Mapping[str, Any]) -> Any:
    if isinstance(action, argparse.BooleanOptionalAction):
        return flat[action.dest]
    if action.nargs == 0:
        return True
    if isinstance(action, argparse._AppendAction):
        return [text for texts in given for text in texts]
    return given[-1] if action.nargs else given[-1][0]


def write(path: Path, settings: Mapping[str, Any], version: str) -> None:
    """Write settings to the file that `read` reads."""
    lines = yaml.dump(
        dict(settings), Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=float("inf")
    )
    head = (
        f"# Repeats this run: spo-train {FLAG} {path.name} --spo.run_dir ANOTHER_FOLDER; flags win over the file.\n"
        f"# spo_rlhf {version}; what is not named has that version's default. Paths as seen from {os.getcwd()}\n"
    )
    replace_text(path, head + (lines if settings else "{}\n"))
