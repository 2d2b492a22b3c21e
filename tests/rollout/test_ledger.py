"""Requests of engines that die: each has one engine at a time and one answer, and too many deaths are too many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo_rlhf.rollout.ledger import EngineLedger, RequestCounts, TooManyDeaths


def test_the_engine_with_the_least_to_do_takes_a_request():
    ledger = EngineLedger(3, 0)
    assert [ledger.send(name, weight) for name, weight in enumerate((4, 1, 1, 1, 1, 4))] == [0, 1, 2, 1, 2, 1]
    assert ledger.answer(0, 0) and ledger.send("next") == 0


def test_requests_of_a_dead_engine_go_to_others_and_its_late_answer_does_not_count():
    ledger = EngineLedger(2, 1)
    owners = {name: ledger.send(name) for name in range(4)}
    of_0 = [name for name, engine in owners.items() if engine == 0]
    assert ledger.died(0, now=5.0) == dict.fromkeys(of_0, 1) and ledger.died(0, now=5.1) == {}
    assert not ledger.answer(of_0[0], 0), "it was taken from there"
    assert all(ledger.answer(name, 1) for name in range(4)) and not ledger.answer(0, 1)
    assert ledger.counts == RequestCounts(requests=4, answers=4, resent=2, restarts=1) and ledger.pending == 0


def test_without_a_living_engine_requests_wait_for_one():
    ledger = EngineLedger(1, 5)
    assert ledger.send("a") == 0 and ledger.died(0, 0.0) == {"a": None} and ledger.send("b") is None
    assert not ledger.answer("a", 0) and ledger.pending == 2
    assert ledger.back(0) == ["a", "b"] and ledger.answer("a", 0) and ledger.answer("b", 0)


def test_deaths_are_counted_within_the_window():
    ledger = EngineLedger(1, max_restarts=2, window_s=100.0)
    for now in (0.0, 60.0, 101.0, 161.0):  # never more than two within 100 s
        ledger.died(0, now)
        ledger.back(0)
    with pytest.raises(TooManyDeaths) as deaths:
        ledger.died(0, 161.5)
    assert deaths.value.args == (3,)
    with pytest.raises(TooManyDeaths):
        EngineLedger(2, max_restarts=0).died(1, 0.0)


def test_a_request_is_not_sent_twice():
    ledger = EngineLedger(1, 0)
    ledger.send("a")
    with pytest.raises(ValueError, match="has no answer yet"):
        ledger.send("a")


@given(st.lists(st.tuples(st.sampled_from(["send", "answer", "die", "back"]), st.integers(0, 2)), max_size=60))
def test_whatever_happens_every_request_has_one_answer_and_one_engine(events):
    ledger, owner, answered, sent = EngineLedger(3, 10**6), {}, [], 0
    for what, engine in events:
        if what == "send":
            owner[sent] = ledger.send(sent)
            sent += 1
        elif what == "answer":
            for request in [name for name, holder in owner.items() if holder == engine][:1]:
                assert ledger.answer(request, engine)
                answered.append(request)
                del owner[request]
        elif what == "die":
            owner |= ledger.died(engine, 0.0)
        elif engine not in ledger.living:
            owner |= dict.fromkeys(ledger.back(engine), engine)
        assert not (set(owner.values()) - {None} - ledger.living), "no request is with a dead engine"
        assert None not in owner.values() or not ledger.living, "and none waits while one lives"
    for engine in range(3):
        if engine not in ledger.living:
            owner |= dict.fromkeys(ledger.back(engine), engine)
    for request, engine in owner.items():
        assert ledger.answer(request, engine)
        answered.append(request)
    assert sorted(answered) == list(range(sent)) and ledger.counts.answers == ledger.counts.requests == sent
