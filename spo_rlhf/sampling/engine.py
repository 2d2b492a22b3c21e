"""vLLM: one engine in this process, or one per GPU through Ray. Responses come out as they finish.

An engine in an actor that dies is replaced, and the requests that it had are sent again; with seeds of their own they have the
responses that they would have had. What cannot go on ends with one line, and whoever keeps the responses goes on from them.
"""

import itertools
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from spo_rlhf.cpu import engine_kwargs as cpu_engine_kwargs
from spo_rlhf.errors import RunStopped
from spo_rlhf.host import device, ray_start, watcher
from spo_rlhf.host.own_run import OwnRun
from spo_rlhf.host.ray_calls import deaths, first_line

# Requests handed to vLLM ahead of those it is working on: enough to keep its batches full, few enough to start at
# once.
QUEUED_AHEAD = 512
MOST_DEATHS = 3  # engines that die and are replaced
GOES_ON = "what was sampled is kept, and the same command goes on"
SILENCE_S = 3600.0  # without any response, the start of the engines included


@dataclass(frozen=True)
class Request:
    """One response to sample. `seed` alone decides its random numbers, whatever runs beside it. `key` comes back with
    the response. `likeliest`: so many log-probs come with each token; None: none.
    """

    key: tuple
    prompt_ids: Sequence[int]
    max_tokens: int
    seed: int
    likeliest: int | None = None


@dataclass(frozen=True)
class Response:
    """token_ids: T sampled tokens, the end-of-text token included. finished: ended by itself, not by the limit.
    logprobs: (T,) by token, of the sampled one and of the likeliest that were asked for.
    """

    key: tuple
    token_ids: tuple[int, ...]
    text: str
    finished: bool
    logprobs: tuple[dict[int, float], ...] | None = None


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is built from. max_model_len counts prompt and response. engine_args go to vLLM as they are."""

    model: str
    max_model_len: int
    temperature: float
    top_p: float
    stop: tuple[str, ...] = ()
    seed: int = 0
    tensor_parallel: int = 1
    gpu_memory_utilization: float = 0.9
    dtype: str = "auto"
    trust_remote_code: bool = False
    eager: bool = False  # without CUDA graphs, whose capture costs a start more than a short run can win
    engine_args: dict[str, Any] = field(default_factory=dict)


class SamplingEngine(Protocol):
    """Samples responses to requests; what `start_engine` returns."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Each request's response, in the order in which they finish."""
        ...

    def close(self) -> None:
        """Stop the engine's processes."""
        ...


class LocalEngine:
    """One vLLM engine, driven step by step."""

    def __init__(self, settings: EngineSettings) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        if device.is_cpu():
            # Everything in this process: further ones would only load the same libraries again, which takes longer
            # than a small run.
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # What the engine leaves among the temporary files, its sockets, goes with this process, whatever ends it; in an actor,
        # with whoever started Ray. The process of its core, which may be forked and bear no mark, is bound below.
        self._own = None if device.is_cpu() or watcher.MARK in os.environ else OwnRun()
        from vllm import EngineArgs, LLMEngine

        arguments: dict[str, Any] = {
            "model": settings.model,
            "max_model_len": settings.max_model_len,
            "seed": settings.seed,
            "dtype": settings.dtype,
            "tensor_parallel_size": settings.tensor_parallel,
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "enable_prefix_caching": True,
            "trust_remote_code": settings.trust_remote_code,
            "enforce_eager": settings.eager,
            "use_tqdm_on_load": False,  # its bar would stand between those of the evaluation
        }
        if settings.tensor_parallel == 1:
            from spo_rlhf.host.engine_core import BoundExecutor

            arguments["distributed_executor_backend"] = BoundExecutor
        if device.is_cpu():
            arguments |= cpu_engine_kwargs(settings.max_model_len)
        with ray_start.changed_environment(self._own.environment if self._own else {}):
            self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments | settings.engine_args))
        self._settings = settings

    def generate(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Each request's response, in the order in which they finish. Raises RunStopped where the engine's core died."""
        from vllm import RequestOutput, SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        queue, running = deque(requests), {}
        names = map(str, itertools.count())
        while queue or running:
            while queue and len(running) < QUEUED_AHEAD:
                request, name = queue.popleft(), next(names)
                running[name] = request
                self._engine.add_request(
                    name,
                    {"prompt_token_ids": list(request.prompt_ids)},
                    SamplingParams(
                        temperature=self._settings.temperature,
                        top_p=self._settings.top_p,
                        max_tokens=request.max_tokens,
                        seed=request.seed,
                        stop=list(self._settings.stop) or None,
                        logprobs=request.likeliest,
                        output_kind=RequestOutputKind.FINAL_ONLY,
                    ),
                )
            try:
                outputs = cast("list[RequestOutput]", self._engine.step())
            except EngineDeadError as error:
                raise RunStopped(f"the engine died ({first_line(error)}); {GOES_ON}") from None
            for output in outputs:
                if output.finished:
                    # vLLM's own name of a request has a random end; its output carries the name given above.
                    request = running.pop(output.request_id)
                    sampled = output.outputs[0]
                    finished, known = sampled.finish_reason == "stop", None
                    if request.likeliest is not None:
                        at_T = sampled.logprobs or ()
                        known = tuple({token: one.logprob for token, one in at.items()} for at in at_T)
                    yield Response(request.key, tuple(sampled.token_ids), sampled.text, finished, known)

    def close(self) -> None:
        """Stop the engine's processes."""
        self._engine.engine_core.shutdown()
        if self._own:
            self._own.end()


class RayEngines:
    """`replicas` engines in Ray actors, each with its own GPUs. Requests with the same prompt go to the same engine
    (prefix cache).
    """

    def __init__(self, settings: EngineSettings, replicas: int) -> None:
        import ray

        self._started_ray = not ray.is_initialized()
        if self._started_ray:
            on_sigterm = signal.getsignal(signal.SIGTERM)
            # "local": without an address Ray would join one that somebody else runs on this machine.
            where = {} if os.environ.get("RAY_ADDRESS") else {"address": "local"}
            ray_start.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR", **where)
            signal.signal(signal.SIGTERM, on_sigterm)  # ray.init has set its own
        asked, cluster = device.asked_for(), device.cluster_of(ray.nodes()) if os.environ.get("RAY_ADDRESS") else None
        device.settle(device.decide(asked, device.has_gpu(), cluster))
        gpus = 0 if device.is_cpu() else settings.tensor_parallel
        self._actor = ray.remote(num_gpus=gpus, num_cpus=1, runtime_env={"env_vars": device.environment()})(LocalEngine)
        self._settings = settings
        self._actors: list[Any] = [self._actor.remote(settings) for _ in range(replicas)]

    def generate(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Each request's response, once, in the order in which they finish.

        Raises:
            RunStopped: more than MOST_DEATHS engines died, or none has answered for SILENCE_S seconds.
            ray.exceptions.RayError: an engine failed, or did not start.
        """
        import ray

        open_by_engine: list[dict[tuple, Request]] = [{} for _ in self._actors]
        shard_of: dict[tuple, int] = {}
        for request in requests:
            shard = shard_of.setdefault(tuple(request.prompt_ids), len(shard_of) % len(self._actors))
            open_by_engine[shard][request.key] = request
        streams = {self._ask(engine, waiting): engine for engine, waiting in enumerate(open_by_engine) if waiting}
        deaths_so_far = 0
        while streams:
            ready, _ = ray.wait(list(streams), num_returns=1, timeout=SILENCE_S)
            if not ready:
                raise RunStopped(f"no engine has answered for {SILENCE_S:g} s; {GOES_ON}")
            for stream in cast("list[Any]", ready):
                engine = streams[stream]
                waiting = open_by_engine[engine]
                try:
                    response = cast(Response, ray.get(next(stream)))
                except StopIteration:
                    del streams[stream]
                    continue
                except Exception as error:
                    if not has_died(error):
                        raise
                    deaths_so_far += 1
                    died = f"engine {engine} died ({first_line(error)})"
                    if deaths_so_far > MOST_DEATHS:
                        raise RunStopped(f"{died}, the {deaths_so_far}th; {GOES_ON}") from None
                    print(f"{died}: it is started again, {len(waiting)} requests are sent again", file=sys.stderr)
                    del streams[stream]
                    self._replace(engine)
                    if waiting:
                        streams[self._ask(engine, waiting)] = engine
                    continue
                if waiting.pop(response.key, None):
                    yield response

    def _ask(self, engine: int, waiting: Mapping[tuple, Request]) -> Any:
        return self._actors[engine].generate.options(num_returns="streaming").remote(list(waiting.values()))

    def _replace(self, engine: int) -> None:
        import ray

        ray.kill(self._actors[engine])  # its process may be there still, without the engine's core
        self._actors[engine] = self._actor.remote(self._settings)

    def close(self) -> None:
        """Stop the engines, and Ray if this object started it."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        if self._started_ray:
            ray_start.shut_down()


def has_died(error: Exception) -> bool:
    """An engine that has started has ended, by what a call of its actor raised; not one whose start failed."""
    if isinstance(getattr(error, "cause", None), RunStopped):  # `LocalEngine.generate`
        return True
    return isinstance(error, deaths()) and not getattr(error, "actor_init_failed", False)


def start_engine(settings: EngineSettings, data_parallel: int) -> SamplingEngine:
    """One engine here, or `data_parallel` of them through Ray. Raises UserError where this machine's GPU or build does not do."""
    if data_parallel == 1 or not os.environ.get("RAY_ADDRESS"):
        device.check_here()
    return LocalEngine(settings) if data_parallel == 1 else RayEngines(settings, data_parallel)
