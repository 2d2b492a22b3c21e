"""The pages under docs/ say what the code does: metrics, extensions."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documented import DOCS, examples, patterns, undocumented

from spo_rlhf.core.metrics import METRICS
from spo_rlhf.rollout.records import RolloutCounts


def test_every_metric_of_the_loss_and_every_count_of_a_rollout_is_on_the_page() -> None:
    counts = {f"rollout/{field.name}" for field in dataclasses.fields(RolloutCounts)}
    assert undocumented(set(METRICS) | counts) == set()


def test_names_with_a_place_match_what_stands_there() -> None:
    assert undocumented({"replay/age_3", "eval_default_pass1", "eval_my_set_pass16"}) == set()
    assert undocumented({"replay/age_x", "policy_los", "eval_pass1"}) == {"replay/age_x", "policy_los", "eval_pass1"}
    assert len(patterns()) > 80


def test_links_between_the_pages_lead_somewhere() -> None:
    pages = [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


# File -> what it adds to the command, and what it has to compute.
CHECKS = {
    "doubling.py": """
from spo_rlhf.core.partition import PARTITIONS
assert PARTITIONS["doubling"](first_length=2).boundaries([0.5] * 9) == [0, 2, 6, 9]
help_has("tokens of the first segment; at least 1 (--spo.partition doubling; default: 8)")
refuses({"spo.partition": "fixed", "spo.first_length": 4}, "--spo.first_length has no meaning with --spo.partition fixed")
""",
    "thinned.py": """
import asyncio
from spo_rlhf.core.values import monte_carlo
from spo_rlhf.rollout.estimators import ESTIMATORS
async def value(position): return monte_carlo([float(position)])
kept, values = asyncio.run(ESTIMATORS["thinned"]().estimate([0, 3, 5, 8, 9], value))
assert kept == [0, 5, 9] and [one.mean for one in values] == [5.0]
refuses({"spo.estimator": "monte_carlo", "spo.keep_every": 3}, "leave it out or use --spo.estimator thinned")
""",
    "sign.py": """
from spo_rlhf.core.tree import advantages
assert advantages([-1, 0, 0, 0], [0.4, 1.0, 0.2, 0.0], "sign").tolist() == [0, 1, -1, -1]
help_has("{mean,loo,std,shrunk,sign}")
""",
    "scaled.py": """
from spo_rlhf.core.advantages import NORMALIZERS
assert NORMALIZERS["scaled"]()([3.0, -4.0, 0.0], [1, 1, 0]).round(3).tolist() == [0.849, -1.131, 0.0]
refuses({"spo.advantage_norm": "batch", "spo.scale_floor": 0.1}, "use --spo.advantage_norm scaled")
""",
    "pushed.py": """
import torch
from spo_rlhf.core.loss import Clip, spo_loss
logp = torch.zeros(1, 4)
terms = spo_loss(logp, logp, torch.tensor([[1.0, -1.0, 2.0, 9.0]]), torch.tensor([[1, 1, 1, 0]]), clip=Clip(), normalizer=3)
assert terms.mean("pushed_up").item() == 2 / 3
""",
    "sums.py": """
from spo_rlhf.tasks.registry import TASKS
assert TASKS["sums"].files == ("sums.jsonl",)
""",
    "brought.py": """
from spo_rlhf.methods import METHODS
assert METHODS["brought"]().brings_advantages
refuses({"spo.mode": "brought", "spo.mc_rollouts": 3}, "--spo.mc_rollouts has no meaning with --spo.mode brought")
""",
}
PREAMBLE = """
import sys
from spo_rlhf import plugins
plugins.load([sys.argv[1]])
from spo_rlhf.cli import spo_options
from spo_rlhf.cli.train import build_parser
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.options import declared
from spo_rlhf.errors import UserError

def help_has(text):
    assert text in " ".join(build_parser().format_help().split()), text

def refuses(given, says):
    options = {f"spo.{one.flag}": one.default for one in declared(SpoConfig)} | given
    try:
        spo_options.refuse_strangers(options, set(given))
    except UserError as error:
        assert says in str(error), error
    else:
        raise AssertionError("not refused")
"""


def test_every_example_is_checked() -> None:
    assert set(examples()) == set(CHECKS)
    assert all(6 <= len(block.splitlines()) <= 30 for block in examples().values())


@pytest.mark.parametrize("name", CHECKS)
def test_an_example_does_what_the_page_says(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(examples()[name], encoding="utf-8")
    code = PREAMBLE + CHECKS[name]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=DOCS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_site_has_every_page_and_its_tools_are_pinned() -> None:
    listed = re.findall(r"[\w/-]+\.md", (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    pins = (DOCS.parent / "requirements" / "docs.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in pins if not line.startswith("#"))


def test_modules_of_the_reference_are_there() -> None:
    named = re.findall(r"^::: (\S+)", (DOCS / "reference.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) > 10
    for module in named:
        assert (DOCS.parent / f"{module.replace('.', '/')}.py").is_file(), module
