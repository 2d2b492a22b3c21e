"""The projection: its arithmetic by hand, what fits, where each rate is from, and that the page has what the command says."""

import json
import re
from pathlib import Path

import numpy as np
import projection
import pytest
import scaling
from projection import MODELS, RATES, Placed, Projector, decoding, rates_of
from scaling_model import Lengths, Workload

from spo_rlhf.launch.memory_plan import GIB

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "benchmarks" / "results" / "scaling" / "results.md"
WORK = Workload("group", 16, 100, Lengths(400, 0, 900), responses=8)
TREE = projection.WORKLOADS["tree"]


def projector(model="1.5b", **changes):
    return Projector(MODELS[model], rates_of("published", changes))


def test_shapes_have_the_parameters_that_their_names_say():
    assert MODELS["1.5b"].parameters == pytest.approx(1.54e9, rel=0.01)
    assert MODELS["7b"].parameters == pytest.approx(7.61e9, rel=0.01)


def test_two_speeds_of_one_request_say_what_an_iteration_is_made_of():
    rates = {name: 1 / (0.004 + 2 * projection.read_parameters(MODELS[name]) / 1.5e12) for name in MODELS}
    got = decoding(rates)
    assert got.bytes_s == pytest.approx(1.5e12) and got.rest_s == pytest.approx(0.004)


def test_measured_overheads_are_the_kept_figures_of_the_gpu():
    kept = json.loads((ROOT / "benchmarks/results/gpu-h100/results.json").read_text())
    rates = rates_of("measured", {})
    middle = sorted(kept["engine"]["tokens_per_s_unseeded"])[1]
    assert rates["iteration_s"].value * middle == pytest.approx(256)
    measured = {name for name, one in rates.items() if one.kind == projection.MEASURED}
    assert measured == {"iteration_s", "micro_batch_s", "tensor_s"}
    assert not any(one.kind == projection.MEASURED for one in rates_of("published", {}).values())
    assert all(one.source for one in rates.values())


def test_a_step_by_hand():
    """Constant lengths, no overheads: what is left is operations over the peak, bytes over the bandwidth."""
    project = projector(iteration_s=1e-12, micro_batch_s=1e-12, tensor_s=1e-12, switch_s=1e-12, optimizer_steps=1)
    batches = [WORK.batch(np.random.default_rng(0))] * 2
    parameters, rate = MODELS["1.5b"].parameters, {name: one.value for name, one in RATES.items()}
    phases = project.phases(WORK, batches, Placed(2, 4, together=False), packed=False)
    assert phases is not None
    each = 128 * 500 / 4
    assert phases.experience_S[0] == pytest.approx(2 * 2 * parameters * each / (rate["flops"] * rate["forward_mfu"]))
    backward = 6 * parameters * each / (rate["flops"] * rate["training_mfu"])
    exchange = 4 * parameters * 3 / 4 / rate["link"] + 28 * parameters / 4 / rate["bandwidth"]
    assert phases.training_S[0] == pytest.approx(backward + exchange)
    assert phases.sync == pytest.approx(2 * parameters / rate["link"], rel=1e-3) and phases.switch == 0
    bandwidth = rate["bandwidth"] * rate["bandwidth_share"]
    token = 2 * parameters / (rate["flops"] * rate["decode_mfu"]) + 300 * MODELS["1.5b"].kv_bytes / bandwidth
    prefixes = 8 * (100 + 7 * 4) * 2 * parameters / (rate["flops"] * rate["prefill_mfu"])
    assert phases.generation_S[0] == pytest.approx(400 * (2 * parameters / bandwidth + 64 * token) + prefixes)
    assert phases.engine_balance == 1


def test_what_does_not_fit_is_not_projected():
    batches = [WORK.batch(np.random.default_rng(0))] * 2
    ways = projection.project(projector("7b"), WORK, batches, 1, packed=False)
    assert ways == dict.fromkeys(projection.WAYS), "7B and its optimizer on one GPU"
    small = projection.project(projector("1.5b"), WORK, batches, 1, packed=False)
    assert small["shared"] and not small["split"], "one GPU cannot be split"
    load = projector("7b").load(Placed(2, 2, together=False), 1000)
    assert load.zero_stage == 3, "where stage 2 does not fit"
    placed = Placed(1, 8, together=False)
    engines = [projector("7b", memory=size * GIB).engine(projector("7b").load(placed, 2048), TREE) for size in (60, 79)]
    assert engines[0] and engines[1] and engines[0].max_in_flight < engines[1].max_in_flight == 512


def test_one_step_off_is_no_slower_than_the_same_split_in_turn():
    batches = [WORK.batch(np.random.default_rng(0))] * 4
    for gpus in (2, 4, 8):
        ways = projection.project(projector(), WORK, batches, gpus, packed=False)
        split, off, shared = ways["split"], ways["one step off"], ways["shared"]
        assert split and off and shared and off["step_s"] <= split["step_s"]
        assert 0 <= off["engine_idle"] <= 1 and 0 <= off["actor_idle"] <= 1
    packed = projection.project(projector(), WORK, batches, 8, packed=True)["shared"]
    assert packed and packed["training_s"] < shared["training_s"], "the prompt stands once"


def test_own_rates_take_the_place_and_are_called_given(capsys):
    options = ["--models", "1.5b", "--workloads", "group", "--gpus", "2", "--steps", "2", "--prompts", "4"]
    assert scaling.main([*options, "--overhead", "published", "--set", "training_mfu=0.2"]) == 0
    out = capsys.readouterr().out
    assert "| `training_mfu` | 0.2 | given | --set |" in out and "Projected, not measured" in out
    assert scaling.main([*options, "--set", "mfu=0.2"]) == 2
    assert "choose one of memory, flops" in capsys.readouterr().err
    assert scaling.main([*options, "--set", "training_mfu=-1"]) == 2
    assert "above 0" in capsys.readouterr().err
    assert scaling.main(["--models", "3b"]) == 2 and "none of 1.5b, 7b" in capsys.readouterr().err


def test_results_have_rows_rates_and_a_picture(tmp_path):
    options = ["--models", "7b", "--workloads", "group", "--gpus", "1,2", "--steps", "2", "--prompts", "2"]
    assert scaling.main([*options, "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["gpus"] for row in results["rows"]] == [1, 1, 2, 2] and set(results["rates"]) == {
        "measured",
        "published",
    }
    assert (tmp_path / "scaling.png").stat().st_size and "does not fit" in (tmp_path / "results.md").read_text()


def test_the_page_has_the_kept_tables():
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8").splitlines()
    other_gpus = re.compile(r"\| [17][.5]*b \| \w+ \| (1|2|4|16|32) \|")
    kept = [line for line in KEPT.read_text().splitlines() if line.startswith("|") and not other_gpus.match(line)]
    assert len(kept) > 40 and [line for line in kept if line not in page] == []


def test_a_kept_row_is_what_the_command_says_today(capsys):
    assert scaling.main(["--models", "1.5b", "--workloads", "group", "--gpus", "8"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1.5b | group | 8")]
    assert len(rows) == 2 and set(rows) <= set(KEPT.read_text().splitlines())
