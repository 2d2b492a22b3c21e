"""The `--spo.*` group: every declared option is in the parser, on the page and in the help, and has one home."""

from pathlib import Path

import pytest

from spo_rlhf.cli.options_page import page
from spo_rlhf.cli.spo_options import misplaced
from spo_rlhf.cli.train import build_parser
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.options import declared
from spo_rlhf.methods import METHODS

ROOT = Path(__file__).parents[2]
OPTIONS = {option.flag: option for option in declared(SpoConfig)}


def test_the_page_of_the_options_is_current() -> None:
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == page(), (
        "run python -m spo_rlhf.cli.options_page --write docs/options.md"
    )


def test_the_parser_has_every_declared_option_and_no_other() -> None:
    flags = {flag for action in build_parser()._actions for flag in action.option_strings if flag.startswith("--spo.")}
    assert flags == {f"--spo.{flag}" for flag in OPTIONS}


def test_the_help_names_owner_bounds_and_default() -> None:
    text = " ".join(build_parser().format_help().split())
    assert "cutpoints per segment; at least 1 (--spo.partition cutpoint; default: 5)" in text
    assert "(--spo.mode tree; default: none, required)" in text


@pytest.mark.parametrize("mode", METHODS)
def test_presets_name_only_options_that_exist_and_that_their_method_has(mode) -> None:
    known = {action.dest for action in build_parser()._actions}
    for settings in METHODS[mode].presets.values():
        assert set(settings) <= known
        chosen = {f"spo.{flag}": option.default for flag, option in OPTIONS.items()} | {"spo.mode": mode} | settings
        ours = [OPTIONS[name.removeprefix("spo.")] for name in settings if name.startswith("spo.")]
        assert [option.flag for option in ours if misplaced(option, chosen)] == []
