"""Which runs a folder may go on with."""

from dataclasses import replace

import pytest

from evaluation.settings import RunSettings, check_folder
from spo_rlhf.errors import UserError
from spo_rlhf.host.files import read_json

FIRST = RunSettings("model", ("arithmetic",), (64, 256), samples=2)


def test_more_samples_extend_a_run(tmp_path):
    check_folder(FIRST, tmp_path)
    check_folder(replace(FIRST, samples=5), tmp_path)
    assert read_json(tmp_path / "run.json")["samples"] == 5
    check_folder(replace(FIRST, samples=5), tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"samples": 1}, "samples"), ({"samples": 4, "seed": 1}, "samples, seed"), ({"contexts": (64,)}, "contexts")],
)
def test_anything_else_is_refused_and_changes_nothing(tmp_path, changes, named):
    check_folder(FIRST, tmp_path)
    with pytest.raises(UserError, match=f"another {named}; .*only --samples may grow"):
        check_folder(replace(FIRST, **changes), tmp_path)
    check_folder(FIRST, tmp_path)
