"""The benchmark of a probe's sources: its passes are the model's own, its command writes what it measured."""

import json

import numpy as np
import probe_sources
import pytest
import torch
from estimates import Subject

from spo_rlhf.tasks.registry import TASKS


@pytest.fixture(scope="module")
def subject(prepared):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = prepared["arithmetic-short"] / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Subject(model, AutoTokenizer.from_pretrained(folder), TASKS["arithmetic"], [], 16)


def test_padding_and_order_change_nothing_of_a_pass(subject):
    rows = [[5, 6, 7, 8], [9, 8], [7, 7, 7, 7, 7, 7]]
    hidden, logps = (probe_sources.passes(subject, rows, hidden=one) for one in (True, False))
    for row, states_LH, logp_L in zip(rows, hidden, logps, strict=True):
        with torch.no_grad():
            out = subject.model(input_ids=torch.tensor([row]), output_hidden_states=True)
        np.testing.assert_allclose(states_LH, out.hidden_states[-1][0], atol=1e-5)
        expected = out.logits[0, :-1].log_softmax(-1)[range(len(row) - 1), row[1:]]
        np.testing.assert_allclose(logp_L, expected, atol=1e-5)


def test_the_command_measures_each_source(prepared, tmp_path):
    options = ["--task", str(prepared["arithmetic-short"]), "--output", str(tmp_path)]
    assert (
        probe_sources.main([*options, "--prompts", "8", "--responses", "2", "--repeats", "2", "--features", "4"]) == 0
    )
    made = json.loads((tmp_path / "results.json").read_text())
    assert made["repeats"] == 2 and set(made["results"]) == {"hidden", "gold", "both"}
    assert all(set(one) == {"explained", "error", "learned"} for one in made["results"].values())
    assert "| gold |" in (tmp_path / "results.md").read_text()
