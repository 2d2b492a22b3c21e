"""Weights in buckets: how they are packed, and that an engine in another process has them to the bit."""

import asyncio
import contextlib
import math
import multiprocessing
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import sending_policy
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from spo_rlhf import upstream_weights, upstream_worker
from spo_rlhf.host import ray_calls
from spo_rlhf.rollout.engine import SegmentRolloutActor

MIB = 1 << 20
DTYPES = (torch.bfloat16, torch.float32, torch.uint8)


def whole(parameter):
    return contextlib.nullcontext()


# ---- packing -----------------------------------------------------------------------------------------------------------------


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=12),
    limit=st.integers(1, 200),
    data=st.data(),
)
def test_each_parameter_is_packed_once_in_its_order_and_no_bucket_is_larger_than_said_unless_it_has_one_alone(
    shapes, limit, data
):
    named = [
        (f"w{i}", torch.randint(0, 99, shape).to(data.draw(st.sampled_from(DTYPES)))) for i, shape in enumerate(shapes)
    ]
    made = list(upstream_weights.buckets(named, limit, whole))
    assert [tensor for bucket in made for tensor in bucket.tensors] == [
        (name, one.dtype, tuple(one.shape)) for name, one in named
    ]
    sizes = [[math.prod(shape) * dtype.itemsize for _, dtype, shape in bucket.tensors] for bucket in made]
    for bucket, each in zip(made, sizes, strict=True):
        assert bucket.packed.dtype == torch.uint8 and bucket.packed.numel() == sum(each)
        assert sum(each) <= limit or len(each) == 1
    for one, after in zip(sizes, sizes[1:]):
        assert sum(one) + after[0] > limit, "what comes next would have had room"
    packed = torch.cat([bucket.packed for bucket in made]) if made else torch.empty(0).byte()
    assert bytes(packed.tolist()) == b"".join(bytes(one.reshape(-1).view(torch.uint8).tolist()) for _, one in named)


def test_a_parameter_is_whole_while_it_is_packed_and_one_bucket_exists_at_a_time():
    parameters = [torch.nn.Parameter(torch.full((4,), float(i))) for i in range(5)]
    inside: list[float] = []

    @contextlib.contextmanager
    def gathered(parameter):
        inside.append(parameter.data[0].item())
        yield
        parameter.data = torch.empty(0)  # as ZeRO 3 leaves it

    before, found = None, []
    for bucket in upstream_weights.buckets([(str(i), one) for i, one in enumerate(parameters)], 32, gathered):
        assert before is None or before() is None
        before = weakref.ref(bucket.packed)
        found += bucket.packed.view(torch.float32).tolist()
        del bucket
    assert found == [float(i) for i in range(5) for _ in range(4)] and inside == [0.0, 1.0, 2.0, 3.0, 4.0]


# ---- to an engine in another process -----------------------------------------------------------------------------------------


class Worker(upstream_worker.BucketWorker):
    """A worker of an engine whose model takes weights by their names."""

    def __init__(self, group: Any):
        self.device, self.model_config = torch.device("cpu", 0), SimpleNamespace(dtype=torch.bfloat16)
        self._model_update_group = group
        self.model = sending_policy.Model(0, torch.bfloat16)
        self.model_runner = SimpleNamespace(model=self)
        self.loaded: list[list[str]] = []

    def load_weights(self, weights: Any) -> None:
        self.loaded.append([name for name, _ in weights])
        full = [one for _, one in weights if one.numel()]
        assert len({one.untyped_storage().data_ptr() for one in full}) <= 1, "views of one buffer"
        for name, one in weights:
            parameter = dict(self.model.named_parameters())[name]
            assert one.dtype == parameter.dtype and one.shape == parameter.shape
            parameter.data.copy_(one)


class Engine:
    """A SegmentRolloutActor whose one worker is here, behind vLLM's own messages."""

    def __init__(self, worker: Worker):
        self.llm, self.worker, self.reset = self, worker, 0

    async def collective_rpc(self, method: str, args: tuple) -> Any:
        sent = MsgpackEncoder().encode((method, args))
        name, received = MsgpackDecoder().decode(sent)
        return getattr(self.worker, name)(*received)

    def call(self, method: str, args: tuple) -> Any:
        self.reset += method == "reset_prefix_cache"
        actor: Any = self
        return asyncio.run(SegmentRolloutActor.load_bucket(actor, *args)) if method == "load_bucket" else None


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Pipe to the process of the policy, and the group of both."""
    folder = tmp_path_factory.mktemp("weights")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=sending_policy.policy, args=(theirs, str(folder)))
    process.start()
    group = sending_policy.Gloo(f"{folder}/sync", rank=1)
    yield ours, group
    ours.send(None)
    done = ours.poll(60) and ours.recv()
    process.join(60)
    assert done == "done" and process.exitcode == 0


@pytest.fixture
def sync(other, monkeypatch):
    """Let weights be sent: the engine, what came for it, the sizes of the broadcasts on both sides."""
    pipe, group = other
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # as OpenRLHF's engine sets it
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(upstream_worker, "get_physical_gpu_id", lambda: "the GPU")

    def run(seed, limit, dtype=torch.bfloat16, *, ipc=False, is_vlm=False):
        engine = Engine(Worker(group))
        group.sizes.clear()
        pipe.send((seed, limit, dtype, ipc, is_vlm))
        came = sending_policy.take(pipe, engine.call)
        sizes = pipe.recv()
        assert sizes == group.sizes, "the same broadcasts on both sides"
        return engine, came, sizes

    return run


EXPECTED = {  # bytes of a bucket -> parameters in each; embed has 1.5 MiB, down and up less than half of one
    1: [["empty"], ["embed"], ["scale"], ["conv"], ["norm"], ["up"], ["down"]],
    MIB: [["empty"], ["embed"], ["scale", "conv", "norm", "up", "down"]],
    2 * MIB: [["empty", "embed", "scale", "conv", "norm", "up"], ["down"]],
    64 * MIB: [["empty", "embed", "scale", "conv", "norm", "up", "down"]],
}


@pytest.mark.parametrize("ipc", [False, True], ids=["nccl", "cuda-ipc"])
@pytest.mark.parametrize("limit", EXPECTED)
def test_the_engine_has_the_weights_to_the_bit_with_one_call_and_one_transfer_a_bucket(sync, limit, ipc):
    engine, came, sizes = sync(limit % 97, limit, ipc=ipc)
    assert came[-1] == ("sent", ([],))
    calls = [method for method, _ in came[:-1]]
    assert calls == ["reset_prefix_cache"] + ["load_bucket"] * len(EXPECTED[limit]) and engine.reset == 1
    assert engine.worker.loaded == EXPECTED[limit]
    assert len(sizes) == (0 if ipc else len(EXPECTED[limit]))
    sent = sending_policy.Model(limit % 97, torch.bfloat16).state_dict()
    for name, one in engine.worker.model.state_dict().items():
        assert torch.equal(one.view(torch.int16), sent[name].view(torch.int16)), name


def test_what_a_model_for_images_has_frozen_stays_as_it_is(sync):
    engine, _, _ = sync(1, 64 * MIB, is_vlm=True)
    assert "conv" not in engine.worker.loaded[0] and len(engine.worker.loaded[0]) == 6


def test_weights_of_another_type_are_an_error_that_the_sender_sees_and_leave_no_one_waiting(sync):
    engine, came, sizes = sync(2, MIB, torch.float32)
    assert came[-1] == ("raised", ("TypeError('mismatch dtype of empty: src torch.float32, dst torch.bfloat16')",))
    assert len(sizes) == 1 and engine.worker.loaded == []
    _, came, _ = sync(3, MIB)
    assert came[-1] == ("sent", ([],)), "the next ones arrive"


def test_the_worker_is_openrlhfs_and_takes_no_name_of_vllms():
    from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap
    from vllm.v1.worker.gpu_worker import Worker as VllmWorker

    assert issubclass(upstream_worker.BucketWorker, WorkerWrap)
    added = {name for name in dir(upstream_worker.BucketWorker) if not name.startswith("__")}
    assert {"load_bucket", "init_process_group"} <= added and not [name for name in added if hasattr(VllmWorker, name)]


# ---- engines that do not answer, and other ranks -----------------------------------------------------------------------------


class Handle:
    """Handle of an engine; its answer is what the method returns."""

    def __init__(self, answer: Any = None):
        self.asked: list[str] = []
        self.load_bucket = SimpleNamespace(remote=lambda *args: self.asked.append("load_bucket") or answer)


@pytest.fixture
def plain_answers(monkeypatch):
    monkeypatch.setattr(ray_calls, "answers", lambda refs, limit_s: list(refs))


@pytest.mark.parametrize("gone", [ActorDiedError(), TimeoutError("no answer within 1 s"), EngineDeadError()])
def test_an_engine_that_is_gone_is_asked_no_more_where_others_can_do_without_it(plain_answers, gone):
    handles = [Handle(), Handle(gone), Handle()]
    engines = upstream_weights.Engines(handles, 1.0, apart=True)
    for _ in range(2):
        engines.end(engines.begin("load_bucket"))
    assert [len(handle.asked) for handle in handles] == [2, 1, 2] and engines.failed == {1}
    together = upstream_weights.Engines(handles, 1.0, apart=False)
    with pytest.raises(type(gone)):
        together.end(together.begin("load_bucket"))


def test_what_an_engine_refuses_is_raised(plain_answers):
    engines = upstream_weights.Engines([Handle(TypeError("mismatch"))], 1.0, apart=True)
    with pytest.raises(TypeError, match="mismatch"):
        engines.end(engines.begin("load_bucket"))


def test_other_ranks_take_part_in_gathering_and_send_nothing(monkeypatch):
    gathered, waited = [], []
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(upstream_weights, "wait_for_all", lambda: waited.append(True))
    monkeypatch.setattr(
        upstream_weights, "gathered_parameter", lambda ds, model, one: gathered.append(one) or contextlib.nullcontext()
    )
    model = sending_policy.Model(0, torch.bfloat16)
    trainer = sending_policy.trainer_of(model, None, group="never used")
    upstream_weights.broadcast(trainer, MIB, 1.0)
    assert [id(one) for one in gathered] == [id(one) for one in model.parameters()] and waited == [True]


@pytest.mark.parametrize(("given", "called"), [(0, ["openrlhf"]), (2, [("buckets", 2 * MIB, 300.0)])])
def test_the_policys_trainer_sends_as_the_option_says(monkeypatch, given, called):
    from spo_rlhf import upstream
    from spo_rlhf.config import SpoConfig
    from spo_rlhf.trainer.actor import SegmentActorTrainer

    calls: list[Any] = []
    monkeypatch.setattr(upstream.ActorPPOTrainer, "broadcast_to_vllm", lambda self: calls.append("openrlhf"))
    monkeypatch.setattr(upstream_weights, "broadcast", lambda trainer, *more: calls.append(("buckets", *more)))
    trainer = SegmentActorTrainer.__new__(SegmentActorTrainer)
    trainer.args = SimpleNamespace(spo=SpoConfig(weight_bucket_mib=given))
    trainer.broadcast_to_vllm()
    assert calls == called
