"""What comes back from Ray: a death of an engine is told from an error of its work, and what is left of it is ended."""

from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayTaskError
from vllm.v1.engine.exceptions import EngineDeadError

from spo_rlhf.errors import UserError
from spo_rlhf.rollout.engine import OtherWeights
from spo_rlhf.trainer.engine_calls import RayEngineCalls
from spo_rlhf.trainer.engine_pool import EngineGone


def raised_in_the_actor(error: Exception) -> Exception:
    """As `ray.get` raises what a method of an actor raised."""
    return RayTaskError("rollout", "the traceback", error).as_instanceof_cause()


@pytest.fixture
def result(monkeypatch):
    """Result of a call that Ray answers with this error."""

    def of(error: Exception) -> Any:
        def get(handle):
            raise error

        monkeypatch.setattr(ray, "get", get)
        return RayEngineCalls([], lambda *_: [], 1.0).result("handle")

    return of


@pytest.mark.parametrize(
    ("error", "said", "runs", "final"),
    [
        (ActorUnavailableError("socket closed", None), "is gone", False, False),
        (ActorDiedError(), r"died \(The actor died", False, True),
        (OutOfMemoryError("too much memory"), r"died \(too much memory\)", False, False),
        (raised_in_the_actor(EngineDeadError()), r"lost its core \(", True, False),
        (raised_in_the_actor(OtherWeights("it has weights 0")), r"refused a request \(it has weights 0\)", True, False),
    ],
)
def test_a_death_is_one_and_a_process_that_may_be_left_is_to_be_killed(result, error, said, runs, final):
    with pytest.raises(EngineGone, match=f"^{said}") as gone:
        result(error)
    assert (gone.value.runs, gone.value.final) == (runs, final) and "\n" not in str(gone.value)


def test_an_error_of_the_work_is_no_death(result):
    with pytest.raises(UserError):
        result(raised_in_the_actor(UserError("the reward file is wrong")))
