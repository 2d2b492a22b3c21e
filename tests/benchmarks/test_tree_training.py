"""The benchmark of tree training: the same trees and the same gradient in every layout, and what it counts."""

import json

import pytest
import torch
from tree_layouts import LAYOUTS, Rows, batches, grown
from tree_training import main

from spo_rlhf.core.packing import distinct_tokens


def test_a_tree_is_the_same_in_every_layout():
    rows = grown((2, 3), prompt=4, segment=2, vocabulary=9, seed=0)
    node, path = rows["node"], rows["path"]
    assert len(node.token_B) == 2 + 6 and len(path.token_B) == 6
    assert node.tokens == 2 * 6 + 6 * 8 and path.tokens == 6 * 8
    assert distinct_tokens(node.token_B) == distinct_tokens(path.token_B) == 4 + 8 * 2
    weights = {name: sorted(w for row in one.weight_B for w in row if w) for name, one in rows.items()}
    assert weights["node"] == weights["path"] and len(weights["node"]) == 8 * 2, "each token is trained once"


def test_batches_hold_every_row_once_and_no_more_than_their_tokens():
    rows = grown((3, 2), prompt=5, segment=3, vocabulary=9, seed=1)["node"]
    for layout in ("node", "packed"):
        groups = batches(rows, layout, 20)
        assert sorted(sum(groups, [])) == list(range(len(rows.token_B))) and len(groups) > 1
        for group in groups:
            lengths = [len(rows.token_B[number]) for number in group]
            assert layout == "packed" or max(lengths) * len(group) <= 20
    assert batches(Rows([[1] * 50], [[1.0] * 50]), "path", 30) == [[0]]


def test_the_quick_form_measures_writes_and_draws(tmp_path):
    torch.manual_seed(0)
    assert main(["--quick", "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert set(results) == {"3-3 12/8", "8 12/8"}
    for one in results.values():
        assert max(one["gradient_gap"].values()) < 1e-5, "every layout has the same gradient"
        assert one["mib"]["packed"] < one["mib"]["path"] <= one["mib"]["node"]
        assert one["tokens"]["packed"] == one["distinct"] and one["over_node"]["ideal"] > 2
        assert set(one["seconds"]) == set(LAYOUTS) and one["over_path"]["median"] > 0
    assert (tmp_path / "ratios.png").stat().st_size > 0 and "| 3-3 12/8 |" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("text", ["12", "a/b", "0/4", "1/2/3"])
def test_lengths_are_a_pair(text, tmp_path, capsys):
    assert main(["--output", str(tmp_path), "--lengths", text]) == 2 and "PROMPT/SEGMENT" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["--output", str(tmp_path), "--device", "cuda"]) == 2 and "no GPU" in capsys.readouterr().err
