"""spo-train's command line beside OpenRLHF's: its flags, their bounds, the help, the dry run and the version that they are of."""

import re
import subprocess
import sys

import pytest
import stack

from spo_rlhf import upstream
from spo_rlhf.cli.train import build_parser
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.options import declared
from spo_rlhf.errors import UserError
from spo_rlhf.launch.bounds import BOUNDS, MAY_BE_INFINITE
from spo_rlhf.launch.offline_run import COMMANDS


def test_wrong_version_of_openrlhf(refused, monkeypatch):
    monkeypatch.setattr(upstream, "OPENRLHF_VERSION", "0.12.0")
    assert "needs exactly 0.12.0" in refused()


def test_every_bound_is_of_an_option_that_openrlhf_has():
    known = {
        action.dest for cli in ("train_ppo_ray", *COMMANDS.values()) for action in upstream.build_parser(cli)._actions
    }
    assert {name for name in BOUNDS if not name.startswith("spo.")} - known == set()


def test_every_number_of_openrlhf_has_bounds():
    numbers = {
        action.dest
        for cli in ("train_ppo_ray", *COMMANDS.values())
        for action in upstream.build_parser(cli)._actions
        if action.type in (int, float)
    }
    # The first is set by DeepSpeed's launcher. A reward may lie anywhere.
    assert numbers - set(BOUNDS) == {"local_rank", "reward.clip_range", "algo.dynamic_filtering_range"}


def test_every_fraction_has_an_upper_bound():
    parsers = [build_parser(), *(upstream.build_parser(cli) for cli in ("train_ppo_ray", *COMMANDS.values()))]
    fractions = {action.dest for parser in parsers for action in parser._actions if action.type is float}
    bounds = BOUNDS | {f"spo.{one.flag}": one.bounds for one in declared(SpoConfig)}
    open_above = {name for name, one in bounds.items() if one.at_most is None and one.below is None}
    assert fractions & open_above == MAY_BE_INFINITE


def test_dry_run_prints_configuration_and_placement_and_starts_nothing(task, tmp_path):
    changes = dict(algo__kl__init_coef=0.001, vllm__num_engines=2, actor__num_gpus_per_node=2, ref__num_gpus_per_node=2)
    arguments = [*stack.options(task, tmp_path, **changes), "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-m", "spo_rlhf.cli.train", *arguments],
        capture_output=True,
        text=True,
        cwd=stack.ROOT,
        env=stack.environment(),
        timeout=180,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "spo.cutpoint_interval = 5" in done.stdout and "algo.kl.use_loss = True" in done.stdout
    for actor in ("policy[1]", "reference[1]", "engine[1]"):
        assert re.search(rf"{re.escape(actor)} +device 1 ", done.stdout)
    assert list(tmp_path.iterdir()) == []


def test_help_shows_both_groups_without_loading_the_stack():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "spo_rlhf.cli.train", "--help"],
        capture_output=True,
        text=True,
        cwd=stack.ROOT,
    )
    assert done.returncode == 0
    assert (
        "--spo.cutpoint_interval" in done.stdout and "--algo.kl.use_loss" in done.stdout and "examples:" in done.stdout
    )
    for heavy in ("vllm", "deepspeed", "ray", "torch"):
        assert not re.search(rf"\| +{heavy}$", done.stderr, re.MULTILINE), heavy


def test_every_upstream_flag_is_still_there():
    upstream_flags = {flag for action in upstream.build_parser()._actions for flag in action.option_strings}
    ours = {flag for action in build_parser()._actions for flag in action.option_strings}
    assert upstream_flags < ours
    assert {flag for flag in ours - upstream_flags if not flag.startswith(("--spo.", "--no-spo."))} == {
        "--dry-run",
        "--config",
    }


def test_version_check_needs_openrlhf(monkeypatch):
    def missing(name):
        raise upstream.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(upstream.importlib.metadata, "version", missing)
    with pytest.raises(UserError, match="not installed"):
        upstream.check_version()
