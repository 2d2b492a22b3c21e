"""Collecting samples, with an engine that writes what it is told and a reward in this process: no vLLM."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.rollout.protocol import Grade
from spo_rlhf.rollout.reward import NOT_GRADED
from spo_rlhf.sampling.collect import (
    SAMPLE_KEY,
    Limits,
    Progress,
    TokenizedPrompt,
    collect,
    has_grade,
    own_ids,
    requests,
)
from spo_rlhf.sampling.engine import Request, Response
from spo_rlhf.sampling.manifest import prompt_keys
from spo_rlhf.sampling.sample_log import SampleLog

PROMPTS = [TokenizedPrompt(id=7, text="1+1?", label="a", token_ids=[1, 2]), TokenizedPrompt(3, "2+2?", "b", [5])]
FIRST, SECOND = prompt_keys(prompt.token_ids for prompt in PROMPTS)
GRADER = "this code"
LIMITS = Limits(responses=3, max_new_tokens=4, max_len=5)


def decode(token_ids) -> str:
    return "".join(chr(ord("a") + token) for token in token_ids)


class Engine:
    """Answers the last request first: sample 0 is cut by the limit, sample n is n tokens `n`."""

    def __init__(self, fail_after: int | None = None):
        self.asked: list[Request] = []
        self.closed, self.fail_after = False, fail_after

    def generate(self, requests: Iterable[Request]) -> Iterator[Response]:
        self.asked = list(requests)
        for number, request in enumerate(reversed(self.asked)):
            if number == self.fail_after:
                raise KeyboardInterrupt
            sample = request.key[1]
            ids = (0,) * request.max_tokens if sample == 0 else (sample,) * sample
            yield Response(request.key, ids, decode(ids), finished=sample > 0)

    def close(self) -> None:
        self.closed = True


class Reward:
    """1 where the response is the label. With `hold`, no grade comes before all were asked for."""

    def __init__(self, hold: bool = False):
        self.asked: list[tuple[str, str, str]] = []
        self.hold, self.held = hold, []

    def submit(self, query: str, prompt: str, label: str) -> "Future[Grade]":
        self.asked.append((query, prompt, label))
        future: Future[Grade] = Future()
        is_right = query.removeprefix(prompt)[0] == label
        self.held.append((future, Grade(float(is_right), float(is_right))))
        if not self.hold or len(self.asked) == 4:
            for waiting, grade in self.held:
                waiting.set_result(grade)
            self.held = []
        return future


def ignore(*_: object) -> None:
    """In place of what is told, or looked after."""


def run(log: SampleLog, engine: Engine | Callable, reward: Reward, report=ignore, check=ignore) -> Progress:
    start = engine if callable(engine) else lambda: engine
    return collect(PROMPTS, LIMITS, 42, start, decode, reward, lambda: GRADER, log, report, check)


@pytest.fixture
def log(tmp_path):
    return SampleLog(tmp_path / "samples.jsonl", SAMPLE_KEY)


@pytest.mark.parametrize("hold", [False, True], ids=["at once", "late"])
def test_every_sample_is_stored_with_its_grade_and_one_that_was_cut_is_not_graded(log, hold):
    engine, reward = Engine(), Reward(hold)
    progress = run(log, engine, reward)
    assert set(log.rows) == {(prompt, sample) for prompt in (FIRST, SECOND) for sample in range(3)}
    assert log.rows[FIRST, 1] == {
        "id": 7,
        "prompt_hash": FIRST,
        "sample": 1,
        "prompt": "1+1?",
        "label": "a",
        "response": "b",
        "reward": 0.0,
        "truncated": False,
        "tokens": 1,
        "grader": GRADER,
    }
    assert log.rows[SECOND, 1]["reward"] == 1.0
    cut = log.rows[FIRST, 0]
    assert (cut["reward"], cut["truncated"], cut["response"]) == (0.0, True, "aaa")
    assert len(reward.asked) == 4 and ("2+2?cc", "2+2?", "b") in reward.asked
    assert (progress.stored, progress.total, progress.new, progress.reward_sum) == (6, 6, 6, 1.0)
    assert progress.tokens == 3 + 4 + 2 * (1 + 2) and engine.closed


def test_a_response_fits_the_model_and_its_seed_is_its_own():
    asked = requests(PROMPTS, LIMITS, 42, known={})
    assert [request.max_tokens for request in asked] == [3, 3, 3, 4, 4, 4]
    assert len({request.seed for request in asked}) == 6
    again = {request.key: request.seed for request in requests(PROMPTS[1:], LIMITS, 42, known={})}
    assert again == {request.key: request.seed for request in asked[3:]}
    assert not {request.seed for request in requests(PROMPTS, LIMITS, 43, {})} & {request.seed for request in asked}


def test_what_an_interrupted_run_has_stored_is_not_sampled_again(log, tmp_path):
    broken = Engine(fail_after=4)
    with pytest.raises(KeyboardInterrupt):
        run(log, broken, Reward())
    assert broken.closed and len(log.rows) == 4
    log.close()
    resumed, engine = SampleLog(tmp_path / "samples.jsonl", SAMPLE_KEY), Engine()
    stored = []
    progress = run(resumed, engine, Reward(), lambda progress: stored.append(progress.stored))
    assert {request.key for request in engine.asked} == {(FIRST, 0), (FIRST, 1)}
    assert stored[0] == 5 and (progress.new, progress.total, len(resumed.rows)) == (2, 6, 6)
    assert resumed.rows[FIRST, 2] == log.rows[FIRST, 2]


def test_corrected_labels_are_graded_again_and_no_row_number_decides(log):
    run(log, Engine(), Reward())
    before = dict(log.rows)
    changed = [TokenizedPrompt(0, "2+2?", "c", [5]), TokenizedPrompt(1, "1+1?", "a", [1, 2])]
    reward = Reward()
    progress = collect(changed, LIMITS, 42, None, decode, reward, lambda: GRADER, log, ignore, ignore)
    assert (progress.graded_again, progress.new, progress.stored) == (2, 0, 6)
    assert sorted(reward.asked) == [("2+2?b", "2+2?", "c"), ("2+2?cc", "2+2?", "c")], "the one that was cut is not"
    assert [log.rows[SECOND, sample]["reward"] for sample in range(3)] == [0.0, 0.0, 1.0]
    assert {row["label"] for key, row in log.rows.items() if key[0] == SECOND} == {"c"}
    assert log.rows[FIRST, 2] == {**before[FIRST, 2], "id": 1}


def test_what_other_code_has_graded_is_graded_again(log):
    run(log, Engine(), Reward())
    first = dict(log.rows)
    log.append({**log.rows[FIRST, 1], "reward": 0.5, "grader": "other code"})
    log.append({name: value for name, value in log.rows[FIRST, 2].items() if name != "grader"})
    log.append({**log.rows[SECOND, 0], "grader": "other code"})  # it was cut
    reward = Reward()
    assert run(log, None, reward).graded_again == 2 and len(reward.asked) == 2
    assert log.rows == first and run(log, None, reward).graded_again == 0


def test_what_had_no_answer_in_time_is_stored_as_such_and_graded_again(log):
    class Late(Reward):
        def submit(self, *asked: str) -> "Future[Grade]":
            future: Future[Grade] = Future()
            future.set_result(NOT_GRADED)
            return future

    checked = []
    run(log, Engine(), Late(), check=lambda: checked.append(len(log.rows)))
    assert {row["truncated"]: row["grader"] for row in log.rows.values()} == {True: GRADER, False: None}
    assert checked == [1, 2, 3, 4, 5, 6], "after every sample, so that a stop comes in time"
    assert run(log, None, Late(), check=lambda: checked.append(0)).graded_again == 4 and checked[6:] == [0] * 4
    assert run(log, None, Reward()).graded_again == 4 and log.rows[SECOND, 1]["reward"] == 1.0
    assert run(log, None, Reward()).graded_again == 0 and all(map(has_grade, log.rows.values()))


def test_only_new_prompts_are_sampled_and_equal_ones_apart(log):
    run(log, Engine(), Reward())
    engine = Engine()
    prompts = [TokenizedPrompt(0, "0?", "a", [9]), *PROMPTS[:1], TokenizedPrompt(2, "1+1?", "a", [1, 2])]
    progress = collect(prompts, LIMITS, 42, lambda: engine, decode, Reward(), lambda: GRADER, log, ignore, ignore)
    assert {request.key[0] for request in engine.asked} == {prompt_keys([[9]])[0], f"{FIRST}-2"}
    assert len({request.seed for request in engine.asked}) == 6
    assert (progress.stored, progress.total, progress.new) == (9, 9, 6)


def test_where_nothing_is_missing_no_engine_starts(log):
    run(log, Engine(), Reward())

    def start():
        raise AssertionError("started")

    assert run(log, start, Reward()).new == 0


def test_a_reward_file_at_fault_ends_it_and_the_engine(log):
    class Faulty(Reward):
        def submit(self, *asked: str) -> "Future[Grade]":
            future: Future[Grade] = Future()
            future.set_exception(UserError("reward.py: it raised"))
            return future

    engine = Engine()
    with pytest.raises(UserError, match="it raised"):
        run(log, engine, Faulty())
    assert engine.closed and not log.rows


def test_the_time_left_follows_from_what_this_run_has_done():
    assert Progress(stored=60, total=100, new=20, seconds=10.0).seconds_left == 20.0
    assert Progress(stored=60, total=100).seconds_left == 0.0


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        ([None, None], [0, 1]),
        (["a", "b"], ["a", "b"]),
        ([17, None], [17, 1]),
        (["a", "b", "a"], ["0/a", "1/b", "2/a"]),
        ([1, None], ["0/1", "1/1"]),
        ([1, "1"], ["0/1", "1/1"]),
        ([2.5, "b"], ["2.5", "b"]),
    ],
)
def test_rows_keep_their_own_ids_and_no_two_have_one(ids, names):
    assert own_ids(ids) == names
