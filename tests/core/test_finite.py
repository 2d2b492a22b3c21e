"""Numbers that are not finite: found, told, and counted in a row."""

import json
import math

import pytest

from spo_rlhf.core.finite import AROUND, Fault, Streak, finite_only, first, speakable, with_zeros

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "position"),
    [([], None), ([0.0, -1e308], None), ([NAN], 0), ([1.0, INF, NAN], 1), ([1, 2, -INF], 2)],
)
def test_the_first_of_them_is_found(values, position):
    assert first(values) == position
    assert first(with_zeros(values)) is None and len(with_zeros(values)) == len(values)


def test_a_zero_takes_their_place_alone():
    assert with_zeros([1.5, NAN, -INF, 0.25]) == [1.5, 0.0, 0.0, 0.25]


@pytest.mark.parametrize("position", [0, 3, 20, 39])
def test_what_stands_around_it_is_told(position):
    values = [float(number) for number in range(40)]
    values[position] = INF
    fault = Fault.at_token(
        "advantage", position, {"advantage": values, "log-prob": list(range(40))}, token_ids=range(40)
    )
    told = fault.around["advantage"]
    assert fault.value == INF and told[position - fault.start] == INF
    assert position - AROUND <= fault.start <= position and len(told) <= 2 * AROUND + 1
    assert fault.around["log-prob"][position - fault.start] == position


def test_json_has_words_for_them():
    told = speakable(
        {"value": NAN, "around": {"reward": [1.0, INF, -INF]}, "tokens": (1, 2), "name": "x", "none": None}
    )
    assert json.loads(json.dumps(told, allow_nan=False)) == {
        "value": "nan",
        "around": {"reward": [1.0, "inf", "-inf"]},
        "tokens": [1, 2],
        "name": "x",
        "none": None,
    }


def test_metrics_keep_what_is_a_number_or_none_at_all():
    kept = {"loss": 0.5, "steps": 3, "rate": None, "samples": ["text", 1.0]}
    assert finite_only({**kept, "kl": NAN, "grad": INF}) == kept


@pytest.mark.parametrize(
    ("made", "length", "hopeless"),
    [
        ([], 0, False),
        ([True, False, False], 2, False),
        ([False, False, True, False], 1, False),
        ([False, False, False], 3, True),
        ([False, False, False, True], 0, True),
    ],
)
def test_a_streak_is_broken_by_a_step_that_was_made(made, length, hopeless):
    at_once, one_by_one = Streak(), Streak()
    at_once.add(made)
    for one in made:
        one_by_one.add([one])
    assert at_once == one_by_one == Streak(length, hopeless)
