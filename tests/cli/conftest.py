"""What the tests of spo-train's command line share: a task, and how a refusal looks."""

import pytest
import stack

from spo_rlhf.cli.train import main


@pytest.fixture(scope="session")
def task(tmp_path_factory):
    """Read by all, changed by none."""
    return stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=8)


@pytest.fixture
def refused(task, tmp_path, capfd):
    """Runs spo-train with changed options; its one line on standard error."""

    def run(**changes) -> str:
        assert main(stack.options(task, tmp_path, **changes)) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.startswith("spo-train: error: ") and len(err.splitlines()) == 1, err
        assert not (tmp_path / "run").exists(), "a refused run left output behind"
        return err

    return run
