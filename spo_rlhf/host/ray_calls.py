"""Calls of Ray actors that have a limit, and what their errors say."""

from collections.abc import Sequence
from typing import Any


def ask_all(actors: Sequence[Any], method: str, *args: Any, limit_s: float) -> list[Any]:
    """Results of a method of all actors, in their order; an actor's exception, or a TimeoutError, stands in place of its result."""
    return ask_each(actors, method, [args] * len(actors), limit_s)


def ask_each(actors: Sequence[Any], method: str, arguments: Sequence[tuple], limit_s: float) -> list[Any]:
    """The same with arguments of its own for each actor."""
    return answers(begin_each(actors, method, arguments), limit_s)


def begin_each(actors: Sequence[Any], method: str, arguments: Sequence[tuple]) -> list[Any]:
    """Call a method of all actors and wait for none: what `answers` takes."""
    return [getattr(actor, method).remote(*args) for actor, args in zip(actors, arguments, strict=True)]


def answers(refs: Sequence[Any], limit_s: float) -> list[Any]:
    """Results as of `ask_all`."""
    import ray

    refs = list(refs)
    ready = ray.wait(refs, num_returns=len(refs), timeout=limit_s)[0] if refs else []
    return [_result(ray, ref) if ref in ready else TimeoutError(f"no answer within {limit_s:g} s") for ref in refs]


def _result(ray: Any, ref: Any) -> Any:
    try:
        return ray.get(ref)
    except Exception as error:
        return error


def deaths() -> tuple[type[Exception], ...]:
    """What a call raises where the actor's process has ended, or Ray cannot reach it."""
    from ray import exceptions

    return exceptions.RayActorError, exceptions.OutOfMemoryError, exceptions.WorkerCrashedError


def first_line(error: BaseException) -> str:
    """Of what an error says; of what a method of an actor raised, not of Ray's account of it.

    Where the actor's start raised, Ray has only the text of it, in the last line of its account.
    """
    if getattr(error, "actor_init_failed", False):
        return str(error).strip().splitlines()[-1][:200]
    error = getattr(error, "cause", None) or error
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
