"""Every recorded case of the segment algebra, through the functions."""

import json
from pathlib import Path

import pytest

from spo_rlhf.core.advantages import chain, to_tokens
from spo_rlhf.core.partition import PARTITIONS, below_threshold

CASES = [json.loads(line) for line in (Path(__file__).parents[1] / "vectors" / "chain.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=range(1, len(CASES) + 1))
def test_chain_vector(case: dict) -> None:
    given, expected = case["input"], case["expected"]
    parameters = dict(given["partition"])
    partition = PARTITIONS.choose(parameters.pop("type"))(**parameters)
    boundary_K = partition.boundaries(given["probs"])
    adv_K = chain(given["values"], given["reward"])
    assert boundary_K == expected["boundaries"]
    assert adv_K.tolist() == pytest.approx(expected["advantages"], abs=1e-12)
    assert to_tokens(adv_K, boundary_K).tolist() == pytest.approx(expected["token_advantages"], abs=1e-12)
    assert below_threshold(given["probs"], given["mask_threshold"]).tolist() == [bool(m) for m in expected["mask"]]
