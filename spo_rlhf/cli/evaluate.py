"""`spo-eval`: the evaluation, once it is certain that it is this project's.

`evaluation` is a top-level package, and a user's project may well have a folder of that name. Python takes the first it
finds: one in the working directory (`python -m ...`) or on PYTHONPATH stands in front of an installed one, and in front
of an editable install even a folder without `__init__.py` does.
"""

import functools
import importlib.util
import sys
from pathlib import Path

import spo_rlhf
from spo_rlhf.errors import UserError
from spo_rlhf.host.command import run_command

PROGRAM = "spo-eval"
OURS = Path(spo_rlhf.__file__).resolve().parents[1] / "evaluation"


def check_evaluation() -> None:
    """Raises UserError where `import evaluation` would find another package or module, or none."""
    spec = importlib.util.find_spec("evaluation")
    if spec is None:
        raise UserError(
            f"there is no package `evaluation` in {OURS.parent}, beside spo_rlhf: install the project again"
        )
    found = Path((spec.submodule_search_locations or [spec.origin or ""])[0]).resolve()
    if found != OURS:
        raise UserError(
            f"{found} stands in front of this project's own `evaluation`: run from another folder, rename it, or take "
            f"{found.parent} off PYTHONPATH"
        )


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 the user's mistake, 130 interrupted."""
    return run_command(PROGRAM, functools.partial(_checked, argv))


def _checked(argv: list[str] | None) -> int:
    check_evaluation()
    from evaluation.__main__ import main as evaluate

    return evaluate(argv)


if __name__ == "__main__":
    sys.exit(main())
