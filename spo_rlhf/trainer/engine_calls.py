"""Calls to the engines through Ray, for trainer/engine_pool.py; and what an engine's death looks like there."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import exceptions

from spo_rlhf import upstream
from spo_rlhf.errors import RunStopped
from spo_rlhf.host.ray_calls import deaths, first_line
from spo_rlhf.rollout.engine import OtherWeights
from spo_rlhf.trainer.engine_pool import EngineGone


class RayEngineCalls:
    """`engines`: handles of SegmentRolloutActor. `policy`: calls a method of every rank of the policy, a list of refs."""

    def __init__(self, engines: Sequence[Any], policy: Callable[..., list[Any]], timeout_s: float):
        self.engines, self.policy, self.timeout_s = engines, policy, timeout_s

    def call(self, engine: int, method: str, *args: Any) -> Any:
        return getattr(self.engines[engine], method).remote(*args)

    def ready(self, handles: Sequence[Any], limit_s: float) -> list[Any]:
        if not handles:
            time.sleep(limit_s)
            return []
        first, _ = ray.wait(list(handles), num_returns=1, timeout=limit_s)
        return ray.wait(list(handles), num_returns=len(handles), timeout=0)[0] if first else []

    def result(self, handle: Any) -> Any:
        try:
            return ray.get(handle)
        except exceptions.ActorUnavailableError:  # it may be back before Ray knows that it was gone
            raise EngineGone("is gone") from None
        except deaths() as error:
            final = isinstance(error, exceptions.ActorDiedError)
            raise EngineGone(f"died ({first_line(error)})", final=final) from None
        except upstream.engine_dead_error() as error:
            raise EngineGone(f"lost its core ({first_line(error)})", runs=True) from None
        except OtherWeights as error:
            raise EngineGone(f"refused a request ({first_line(error)})", runs=True) from None

    def kill(self, engine: int) -> None:
        ray.kill(self.engines[engine], no_restart=False)

    def send_weights(self, engines: Sequence[int]) -> Any:
        return self.policy("broadcast_to_vllm", engines)[0]  # of the first rank, which ends after all others

    def weights_sent(self, handle: Any) -> tuple[int, int, list[int]]:
        return ray.get(handle)

    def broadcast(self, engines: Sequence[int]) -> tuple[int, int, list[int]]:
        limit_s = 10 * self.timeout_s  # the engines' own limit strikes first, unless a collective waits for a dead one
        try:
            return ray.get(self.policy("broadcast_to_vllm", engines), timeout=limit_s)[0]
        except exceptions.GetTimeoutError:
            raise RunStopped(f"new weights did not reach the engines within {limit_s:g} s") from None
