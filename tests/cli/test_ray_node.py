"""The command of one Ray node: what it refuses, in one line."""

import pytest

from spo_rlhf.cli.ray_node import main


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "command; see ray_node --help"),
        (["start", "--gpus", "1"], "--temp-dir; see ray_node start --help"),
        (["wait", "--address", "h:1", "--nodes", "1"], "--limit; see ray_node wait --help"),
        (["wait", "--address", "h:1", "--nodes", "one", "--limit", "3"], "argument --nodes: invalid int value: 'one'"),
    ],
)
def test_wrong_usage_is_one_line(arguments, says, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("ray_node: error: ") and says in told and told.count("\n") == 1


def test_a_temp_dir_too_long_for_sockets_is_refused(tmp_path, capsys):
    long = tmp_path / ("x" * 50)
    assert main(["start", "--temp-dir", str(long), "--gpus", "1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not long.exists()
