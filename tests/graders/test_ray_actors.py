"""The grader inside synchronous, threaded and asynchronous Ray actors, where signals do not work."""

import asyncio

import pytest

from spo_rlhf.graders.parallel import Grader
from spo_rlhf.graders.verdict import Question

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
PAIRS = [
    (Question(r"\frac12"), r"\boxed{0.5}"),
    (Question("5"), r"\boxed{6}"),
    (Question("x^2+1"), r"\boxed{(a+b+c+d+e+f+g+h)^{200}}"),
]


class Plain:
    def grade(self) -> list[tuple[bool, str]]:
        with Grader(workers=1, timeout_s=2) as grader:
            return [(grade.correct, grade.reason) for grade in (grader.grade(*pair) for pair in PAIRS)]


class Asynchronous:
    async def grade(self) -> list[tuple[bool, str]]:
        with Grader(workers=1, timeout_s=2) as grader:
            grades = await asyncio.gather(*(asyncio.wrap_future(grader.submit(*pair)) for pair in PAIRS))
            return [(grade.correct, grade.reason) for grade in grades]


def test_grader_works_in_every_kind_of_actor():
    import ray

    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        ray.cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
        actors = [
            ray.remote(Plain).remote(),
            ray.remote(Plain).options(max_concurrency=2).remote(),
            ray.remote(Asynchronous).remote(),
        ]
        for results in ray.get([actor.grade.remote() for actor in actors]):
            assert [correct for correct, _ in results] == [True, False, False]
            assert "timeout" in results[2][1]
    finally:
        ray.shutdown()
