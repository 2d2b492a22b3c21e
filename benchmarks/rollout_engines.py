"""Engines of a run without its training, for benchmarks: whole prompts are sent to them, and what they do is timed."""

import argparse
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common

from spo_rlhf import cpu, upstream
from spo_rlhf.errors import UserError
from spo_rlhf.host import device, ray_start
from spo_rlhf.host.console import Console
from spo_rlhf.host.files import read_jsonl
from spo_rlhf.rollout.job import RolloutRequest
from spo_rlhf.rollout.records import Rollout
from spo_rlhf.tasks.registry import TASKS

LIMIT_S = 900.0  # of the start, and of what is asked for at a time
# A request as vLLM gets it: state, continuations, longest, seed, whether log-probs are wanted.
Asked = tuple[list[int], int, int, int | None, bool]


@dataclass(frozen=True)
class Workload:
    """A method, how many responses (or trees) it samples of a prompt, and how long they may be."""

    method: Any
    samples: int
    max_new_tokens: int | None = None


def add_engine_options(parser: argparse.ArgumentParser, *, prompts: int, max_len: int) -> None:
    """What `Engines` needs, but for how many there are."""
    add = parser.add_argument
    add("--task-dir", type=Path, required=True, metavar="DIR", help="model/ and train.jsonl, as spo-prepare makes them")
    add("--task", choices=tuple(TASKS), default="arithmetic", help="whose problems those are (default: arithmetic)")
    add("--prompts", type=int, default=prompts, metavar="N", help="prompts at the most (default: %(default)s)")
    add(
        "--max-len", type=int, default=max_len, metavar="N", help="tokens of prompt and response (default: %(default)s)"
    )
    add("--reward-workers", type=int, default=2, metavar="N", help="as --spo.reward_workers (default: 2)")
    add("--max-num-seqs", type=int, default=512, metavar="N", help="as --spo.max_num_seqs (default: 512)")
    add("--seed", type=int, default=0, metavar="N", help="what the requests' seeds derive from")


def check_task(folder: Path) -> None:
    """Raises UserError where --task-dir has no model."""
    if not (folder / "model" / "config.json").is_file():
        raise UserError(f"--task-dir {folder}: no model there; make it with spo-prepare or the quickstart")


@contextmanager
def ray_running(args: argparse.Namespace) -> Iterator[None]:
    """Ray on this machine, with the environment of a run; sets `args.gpu_share`, an engine's share of a GPU."""
    import ray

    args.gpu_share = 0 if device.is_cpu() else 0.45
    device.settle(device.current())
    environment = device.environment() | {"TOKENIZERS_PARALLELISM": "false"}
    options: dict[str, Any] = {}
    if device.is_cpu():
        environment |= cpu.worker_environment()
        os.environ.update({name: os.environ.get(name, value) for name, value in device.RAY_ENVIRONMENT.items()})
        options = device.logical_resources(2 * args.engines)
    benchmarks = str(Path(__file__).resolve().parent)
    environment["PYTHONPATH"] = os.pathsep.join([str(common.ROOT), benchmarks, os.environ.get("PYTHONPATH", "")])
    ray_start.init(
        address="local", runtime_env={"env_vars": environment}, include_dashboard=False, log_to_driver=False, **options
    )
    try:
        yield
    finally:
        ray.shutdown()


def recording_actor() -> Any:
    """The engine of a run, which also writes down what it asks vLLM for."""
    import ray

    from spo_rlhf.rollout.engine import SegmentRolloutActor

    class RecordingActor(SegmentRolloutActor):
        async def __init__(self, *args: Any, **kwargs: Any) -> None:
            await super().__init__(*args, **kwargs)
            self.asked: list[Asked] = []
            self.recording = False

        async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
            one = sampling_params
            if self.recording:
                with_logprobs = one.logprobs is not None
                self.asked.append((list(prompt_token_ids), one.n, one.max_tokens, one.seed, with_logprobs))
            return await super().generate(prompt_token_ids, sampling_params, multi_modal_data)

        async def forget(self) -> None:
            """Neither prefixes nor values of the last turn, which had the same seeds."""
            self._state_seed = None
            await self.reset_prefix_cache()

        async def record(self, on: bool) -> list[Asked]:
            """Start or stop writing down; what was asked since the start."""
            self.recording = on
            asked, self.asked = self.asked, []
            return asked

    return ray.remote(RecordingActor)


def factory_of(args: argparse.Namespace) -> upstream.EngineFactory:
    """What makes the engines of a run, here with `recording_actor`."""
    from spo_rlhf.rollout.engine import engine_factory

    factory = engine_factory(
        reward_workers=args.reward_workers,
        reward_timeout=10.0,
        max_num_seqs=args.max_num_seqs,
        use_fast_tokenizer=True,
        chat_template=False,
        partial_rollouts=False,
    )
    factory.actor_class = recording_actor()
    return factory


class Engines:
    """Engines of a run and the problems: rollouts of whole prompts, timed."""

    def __init__(self, args: argparse.Namespace, console: Console):
        import ray

        self.args, self.console, self.ray = args, console, ray
        self.task = TASKS[args.task]
        self.model = str(args.task_dir / "model")
        self.rows = list(itertools.islice(read_jsonl(args.task_dir / "train.jsonl"), args.prompts))
        if len(self.rows) < args.prompts:
            raise UserError(f"--prompts {args.prompts}: {args.task_dir / 'train.jsonl'} has {len(self.rows)} problems")
        self.reward_file = str(self.task.reward)
        factory = factory_of(args)
        self.engine_args = {
            "model": self.model,
            "max_model_len": args.max_len,
            "enable_prefix_caching": True,
            "seed": 0,
            "distributed_executor_backend": "uni",
            "dtype": "bfloat16",
            "enforce_eager": True,
        }
        self.engines = [
            factory.options(num_cpus=0, num_gpus=args.gpu_share).remote(
                **self.engine_args,
                worker_extension_cls="openrlhf.trainer.ray.vllm_worker_wrap.WorkerWrap",
                tensor_parallel_size=1,
                full_determinism=False,
                bundle_indices=None,
                num_gpus=1,
                remote_rm_url=[self.reward_file],
                gpu_memory_utilization=0.4,
            )
            for _ in range(args.engines)
        ]
        ray.get([engine.get_num_unfinished_requests.remote() for engine in self.engines], timeout=LIMIT_S)
        tokenizer = upstream.get_tokenizer(self.model, None, "left")
        self.labels = {}
        for row in self.rows:
            prompt = (self.task.template or "{}").format(row["problem"])
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            self.labels[tuple(ids)] = (prompt, str(row["answer"]))

    def requests(self, work: Workload) -> list[RolloutRequest]:
        """One for each problem."""
        return [
            RolloutRequest(
                prompt=prompt,
                label=label,
                slot=slot,
                seed=(self.args.seed, "train", 0),
                num_samples=work.samples,
                max_length=self.args.max_len,
                max_new_tokens=work.max_new_tokens,
                temperature=1.0,
                top_p=1.0,
                top_k=-1,
                method=work.method,
                seeded=True,
            )
            for slot, (prompt, label) in enumerate(self.labels.values())
        ]

    def rollouts(self, requests: Sequence[RolloutRequest], engines: int) -> tuple[list[Rollout], float]:
        """In the order of their end, from so many engines with empty caches; and seconds from the first sent to the last here."""
        ray, used = self.ray, self.engines[:engines]
        ray.get([engine.forget.remote() for engine in used], timeout=LIMIT_S)
        start, done = time.monotonic(), []
        pending = [used[slot % len(used)].rollout.remote(one) for slot, one in enumerate(requests)]
        while pending:
            ready, pending = ray.wait(pending, num_returns=1, timeout=LIMIT_S)
            if not ready:
                raise UserError(f"no rollout within {LIMIT_S:g} s; see Ray's logs")
            done += ray.get(ready)
        return done, time.monotonic() - start

    def pipeline(self, work: Workload) -> tuple[int, float]:
        """Tokens and seconds from the first prompt sent to the last rollout here."""
        rollouts, seconds = self.rollouts(self.requests(work), len(self.engines))
        return sum(rollout.counts.generated_tokens for rollout in rollouts), seconds
