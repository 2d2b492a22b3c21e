"""Calls of Ray actors that have a limit."""

from collections.abc import Sequence
from typing import Any


def ask_all(actors: Sequence[Any], method: str, *args: Any, limit_s: float) -> list[Any]:
    """Results of a method of all actors, in their order; an actor's exception, or a TimeoutError, stands in place of its result."""
    return ask_each(actors, method, [args] * len(actors), limit_s)


def ask_each(actors: Sequence[Any], method: str, arguments: Sequence[tuple], limit_s: float) -> list[Any]:
    """The same with arguments of its own for each actor."""
    import ray

    refs = [getattr(actor, method).remote(*args) for actor, args in zip(actors, arguments, strict=True)]
    ready = ray.wait(refs, num_returns=len(refs), timeout=limit_s)[0] if refs else []
    return [_result(ray, ref) if ref in ready else TimeoutError(f"no answer within {limit_s:g} s") for ref in refs]


def _result(ray: Any, ref: Any) -> Any:
    try:
        return ray.get(ref)
    except Exception as error:
        return error
