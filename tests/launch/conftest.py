"""A resolved configuration as far as starting a run looks at it."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import stack

from spo_rlhf.launch.stopping import SIGNALS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task whose model brings no code, with rows of every kind of training in `rows.jsonl`."""
    task = stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=1)
    rows = [{"prompt": "1+1?", "response": "2", "chosen": "2", "rejected": "3"}] * 4
    (task / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return task


@pytest.fixture
def arguments() -> Callable[..., SimpleNamespace]:
    """Builds the part of a configuration that decides what is started."""

    def build(**changes) -> SimpleNamespace:
        """2 policy devices, 2 engines of one device, a reward file and a reference; `changes` has __ for dots."""
        groups = {
            name: SimpleNamespace(num_nodes=1, num_gpus_per_node=2, model_name_or_path=None, remote_url=None)
            for name in ("actor", "ref", "critic", "reward")
        }
        groups["reward"].remote_url = ["reward.py"]
        args = SimpleNamespace(
            **groups,
            train=SimpleNamespace(colocate_all=False, colocate_actor_ref=False, colocate_critic_reward=False),
            algo=SimpleNamespace(kl=SimpleNamespace(init_coef=0.01)),
            vllm=SimpleNamespace(num_engines=2, tensor_parallel_size=1),
        )
        for name, value in changes.items():
            *path, last = name.split("__")
            target = args
            for part in path:
                target = getattr(target, part)
            assert hasattr(target, last), name
            setattr(target, last, value)
        return args

    return build


@pytest.fixture(autouse=True)
def _signals():
    """A command ignores a second Ctrl-C while it cleans up; the tests after it go on in the same process."""
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, *SIGNALS)}
    yield
    for name, handler in handlers.items():
        signal.signal(name, handler)
