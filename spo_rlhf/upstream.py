"""The only module that knows OpenRLHF's internals: version check, parser, and the names that are bound anew.

Everything else takes OpenRLHF's classes from here. Importing this module is cheap; the first use of a class loads the stack and
adapts the process to it (flash-attn stand-in, machine without a GPU). Ray's workers get there by unpickling the project's actor
classes, which derive from these.
"""

import argparse
import ast
import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import io
import operator
import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spo_rlhf import cpu, flash_attn_stand_in, upstream_logits
from spo_rlhf.errors import UserError
from spo_rlhf.host import loopback, model_folder
from spo_rlhf.host.files import whole_files
from spo_rlhf.host.ray_calls import ask_all, ask_each
from spo_rlhf.upstream_logits import rebound

OPENRLHF_VERSION = "0.11.2"


def check_version() -> None:
    """Refuse any other OpenRLHF: what is subclassed and rebound here is not a public interface. Raises UserError."""
    try:
        installed = importlib.metadata.version("openrlhf")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"OpenRLHF is not installed: pip install openrlhf=={OPENRLHF_VERSION}") from None
    if installed != OPENRLHF_VERSION:
        raise UserError(
            f"OpenRLHF {installed} is installed, but this needs exactly {OPENRLHF_VERSION}: "
            f"pip install openrlhf=={OPENRLHF_VERSION}"
        )


# name here -> module and attribute there
_NAMES = {
    "train_ppo_ray": ("openrlhf.cli.train_ppo_ray", None),
    "train_sft": ("openrlhf.cli.train_sft", None),
    "train_dpo": ("openrlhf.cli.train_dpo", None),
    "sft_trainer": ("openrlhf.trainer.sft_trainer", None),
    "dpo_trainer": ("openrlhf.trainer.dpo_trainer", None),
    "ppo_trainer": ("openrlhf.trainer.ppo_trainer", None),
    "ppo_trainer_async": ("openrlhf.trainer.ppo_trainer_async", None),
    "ppo_actor": ("openrlhf.trainer.ray.ppo_actor", None),
    "vllm_engine": ("openrlhf.trainer.ray.vllm_engine", None),
    "PromptDataset": ("openrlhf.datasets", "PromptDataset"),
    "blending_datasets": ("openrlhf.datasets.utils", "blending_datasets"),
    "SFTLoss": ("openrlhf.models", "SFTLoss"),
    "DPOLoss": ("openrlhf.models", "DPOLoss"),
    "PolicyLoss": ("openrlhf.models", "PolicyLoss"),
    "compute_approx_kl": ("openrlhf.models.utils", "compute_approx_kl"),
    "Experience": ("openrlhf.trainer.ppo_utils.experience", "Experience"),
    **{
        name: ("openrlhf.trainer.ppo_utils.experience", name)
        for name in ("make_experience_batch", "split_experience_batch", "remove_padding_in_sequences")
    },
    "RemoteExperienceMaker": ("openrlhf.trainer.ppo_utils.experience_maker", "RemoteExperienceMaker"),
    "NaiveReplayBuffer": ("openrlhf.trainer.ppo_utils.replay_buffer", "NaiveReplayBuffer"),
    "collect_prompts": ("openrlhf.trainer.ppo_utils.samples_generator", "_collect_prompt_batch"),
    "batch_vllm_engine_call": ("openrlhf.trainer.ray.vllm_engine", "batch_vllm_engine_call"),
    "SamplesGenerator": ("openrlhf.trainer.ppo_utils.samples_generator", "SamplesGenerator"),
    "ActorPPOTrainer": ("openrlhf.trainer.ray.ppo_actor", "ActorPPOTrainer"),
    "iter_grad_accum_global_norm": ("openrlhf.utils.loss_utils", "iter_grad_accum_global_norm"),
    "get_tokenizer": ("openrlhf.utils.utils", "get_tokenizer"),
    "get_strategy": ("openrlhf.utils", "get_strategy"),
    "DeepspeedStrategy": ("openrlhf.utils.deepspeed", "DeepspeedStrategy"),
    # Ray refuses to subclass decorated actors: these are the classes beneath, to subclass and decorate again.
    "RolloutRayActor": ("openrlhf.trainer.ray.vllm_engine", "RolloutRayActor.__ray_actor_class__"),
    "PolicyModelActor": ("openrlhf.trainer.ray.ppo_actor", "PolicyModelActor.__ray_actor_class__"),
    "ReferenceModelActor": ("openrlhf.trainer.ray.launcher", "ReferenceModelActor.__ray_actor_class__"),
    "CriticModelActor": ("openrlhf.trainer.ray.ppo_critic", "CriticModelActor.__ray_actor_class__"),
    "RewardModelActor": ("openrlhf.trainer.ray.launcher", "RewardModelActor.__ray_actor_class__"),
    "PPOTrainer": ("openrlhf.trainer.ppo_trainer", "PPOTrainer.__ray_actor_class__"),
}


def __getattr__(name: str) -> Any:
    """The names above, looked up on first use: that loads the stack (about 10 s), so the command line can do without it."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_stack(), name)


@functools.cache
def _stack() -> SimpleNamespace:
    """OpenRLHF under the names above, this process adapted to it; loaded once."""
    check_version()
    flash_attn_stand_in.install()
    loopback.install()
    stack = SimpleNamespace()
    for name, (module_name, path) in _NAMES.items():
        module = importlib.import_module(module_name)
        setattr(stack, name, operator.attrgetter(path)(module) if path else module)
    _add_step_fields(stack.Experience)
    _lock_model_code()
    _format_prompts(stack)
    _save_sound_folders(stack.DeepspeedStrategy)
    if cpu.is_cpu():
        cpu.adapt()
    elif architectures := os.environ.get(_ARCHITECTURES):
        os.environ[_ARCHITECTURES] = plain_architectures(architectures)
    for name, attribute in (("PolicyModelActor", "actor"), ("ReferenceModelActor", "model")):
        setattr(stack, name, upstream_logits.with_chunks(getattr(stack, name), attribute))
    return stack


# What torch compiles extensions for; container images set it.
_ARCHITECTURES = "TORCH_CUDA_ARCH_LIST"


def plain_architectures(listed: str) -> str:
    """TORCH_CUDA_ARCH_LIST without the letters of architecture-specific targets: 9.0a becomes 9.0.

    DeepSpeed 0.19.6 reads the list as numbers when it compiles its optimizer and ends with a ValueError at such a letter.
    """
    return re.sub(r"(?<=\d)[a-z]", "", listed)


# Per-token fields (B, T - 1) of our own in an Experience: the ratio unit of each token, what its clip bounds are multiplied with, and
# the engine's log-prob of the token that was most likely in its place.
STEP_FIELDS = ("unit_ids", "clip_scale", "top_log_probs")


def _add_step_fields(experience: type) -> None:
    """Declare STEP_FIELDS on OpenRLHF's dataclass, in place.

    Its code concatenates, splits, pads and batches the declared fields and drops all others.
    """
    for field in dataclasses.fields(experience):  # dataclass() takes defaults and metadata from the class's attributes
        default: dict[str, Any] = {
            "default": field.default,
            "default_factory": field.default_factory,
            "metadata": field.metadata,
        }
        setattr(experience, field.name, dataclasses.field(**default))
    for name in STEP_FIELDS:
        experience.__annotations__[name] = Any
        setattr(experience, name, dataclasses.field(default=None, metadata={"tensor_role": "step"}))
    del experience.__init__  # dataclass() would keep it
    dataclasses.dataclass(experience)


def _lock_model_code() -> None:
    """Let transformers run Python that comes with a model only where that is trusted, in place.

    OpenRLHF passes `trust_remote_code=True` everywhere. All such code, of configurations, tokenizers and models, is
    imported by one function.
    """
    from transformers import dynamic_module_utils

    run_code = dynamic_module_utils.get_class_in_module

    @functools.wraps(run_code)
    def run_trusted_code(class_name, module_path, *args, **kwargs):
        if not model_folder.code_is_trusted():
            raise UserError(
                f"{class_name} is Python code that comes with the model; let it run by {model_folder.SWITCH}"
            )
        return run_code(class_name, module_path, *args, **kwargs)

    dynamic_module_utils.get_class_in_module = run_trusted_code


def _format_prompts(stack: SimpleNamespace) -> None:
    """Let OpenRLHF's trainer make prompts as every command does (`SpoConfig.prompt_format`), in place."""

    class FormattedPrompts(stack.PromptDataset):
        def __init__(self, dataset, tokenizer, strategy, input_template=None):
            args = strategy.args
            super().__init__([], tokenizer, strategy, input_template)
            form = args.spo.prompt_format(args.data)
            for row in dataset:
                prompt, label = form.pair(row, tokenizer, args.data.input_key, args.data.label_key)
                self.prompts.append(prompt)
                self.labels.append(label)
                self.images.append(row.get(self.image_key))
                self.datasources.append(row.get("datasource", "default"))

    stack.ppo_trainer.PromptDataset = FormattedPrompts


def _save_sound_folders(strategy: type) -> None:
    """Let models be saved whole or not at all, each tensor once, with a tokenizer that does not cut texts, in place.

    A folder that was there before stays where the disk is full. OpenRLHF's data sets set a length that would go into the
    tokenizer's file; and it copies the weights before it saves them, after which transformers no longer sees which of them
    are one, as an output layer tied to the embedding is.
    """
    save = strategy.save_model

    @functools.wraps(save)
    def save_model(self, model, tokenizer, output_dir, **kwargs):
        model_folder.uncut(tokenizer)
        # The other ranks take part and write nothing.
        whole = whole_files(Path(output_dir)) if self.is_rank_0() else contextlib.nullcontext(output_dir)
        with whole as making, _shared_again(self._unwrap_model(model)):
            save(self, model, tokenizer, str(making), **kwargs)

    strategy.save_model = save_model


@contextlib.contextmanager
def _shared_again(model):
    """Context in which `model.save_pretrained` takes, of weights that are one tensor in the model, one copy under all their names."""
    save = model.save_pretrained

    def save_shared(folder, state_dict=None, **kwargs):
        first: dict[int, str] = {}  # where a weight of the model begins -> the first of its names
        if state_dict:  # adapters alone are saved without
            for name, weight in model.state_dict().items():
                if weight.numel() and name in state_dict:  # ZeRO 3 leaves no elements here, and gathers no second copy
                    state_dict[name] = state_dict[first.setdefault(weight.data_ptr(), name)]
        return save(folder, state_dict=state_dict, **kwargs)

    model.save_pretrained = save_shared
    try:
        yield
    finally:
        del model.save_pretrained  # the class's shows again


def logged_sample(text: str, reward: float) -> dict[str, Any]:
    """What OpenRLHF's wandb and TensorBoard loggers make a table of samples of, as a metric of a step."""
    return {"generated_samples": [text, reward]}


@contextlib.contextmanager
def entropies(actor):
    """Context in which each forward pass of OpenRLHF's Actor also computes entropies: a list of (B, T - 1), one per pass.

    They are those of the whole vocabulary at the sampling temperature; the pass returns what it would return without.
    """
    seen = []

    def ask(module, args, kwargs):
        return args, {**kwargs, "return_output": True, "return_entropy": True}

    def take(module, args, result):
        log_probs, output = result
        seen.append(output.entropy)
        return log_probs

    hooks = [actor.register_forward_pre_hook(ask, with_kwargs=True), actor.register_forward_hook(take)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def head_inputs(actor):
    """Context in which each forward pass of OpenRLHF's Actor leaves what its head read: a list of (B, T - 1, H), one per pass.

    Row t is known before token t + 1 is drawn: it stands where that token's log-prob does.
    """
    seen = []
    model = getattr(actor.model, "module", actor.model)
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda module, args: seen.append(args[0][:, :-1].detach())
    )
    try:
        yield seen
    finally:
        hook.remove()


# ---- the command line -------------------------------------------------------------------------------------------------------
# OpenRLHF's parser and its validation stand under `if __name__ == "__main__":` and cannot be called. Both are run from the
# installed source: the statements before `args = parser.parse_args()` build the parser, those after it validate, and the last
# statement, `train(args)`, is left out. `cli` names the command: train_ppo_ray, train_sft, train_dpo.

_MAIN, _PARSE, _TRAIN = "__name__ == '__main__'", "args = parser.parse_args()", "train(args)"


def _main_statements(cli: str) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """What builds the parser, and what validates its result. Raises UserError where the source looks otherwise."""
    check_version()
    path = _cli_path(cli)
    with open(path, encoding="utf-8") as source:
        last = (ast.parse(source.read()).body or [None])[-1]
    body = last.body if isinstance(last, ast.If) and ast.unparse(last.test) == _MAIN else []
    texts = [ast.unparse(statement) for statement in body]
    if texts.count(_PARSE) != 1 or texts[-1] != _TRAIN:
        raise UserError(
            f"{path} is not OpenRLHF {OPENRLHF_VERSION} as released: its main block does not parse, validate and train; "
            f"pip install --force-reinstall --no-deps openrlhf=={OPENRLHF_VERSION}"
        )
    parse = texts.index(_PARSE)
    return body[:parse], body[parse + 1 : -1]


def _cli_path(cli: str) -> str:
    package = importlib.util.find_spec("openrlhf")
    assert package is not None and package.submodule_search_locations, "check_version() has found it"
    return os.path.join(package.submodule_search_locations[0], "cli", f"{cli}.py")


def _run(cli: str, statements: list[ast.stmt], names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(ast.Module(body=statements, type_ignores=[]), _cli_path(cli), "exec"), names)
    return names


def build_parser(cli: str = "train_ppo_ray") -> argparse.ArgumentParser:
    """OpenRLHF's own parser of a command, all flags with their names, defaults and help."""
    statements, _ = _main_statements(cli)
    return _run(cli, statements, {"argparse": argparse, "datetime": datetime})["parser"]


def validate(flat: argparse.Namespace, cli: str = "train_ppo_ray") -> tuple[SimpleNamespace, list[str]]:
    """OpenRLHF's own validation: flat names with dots -> nested, derived values filled in; and what it says of them.

    Raises UserError.
    """
    _stack()
    _, statements = _main_statements(cli)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            args = _run(cli, statements, {"args": flat})["args"]
    except AssertionError as error:
        message = str(error) or "OpenRLHF refused the options"
        if message.startswith("The number of sample batches"):  # names no option, and 8 devices are the default
            message += " Lower --actor.num_gpus_per_node (8 where it is left out) or --rollout.micro_batch_size"
        raise UserError(message) from None
    return args, [
        f"OpenRLHF: {line.removeprefix('[Warning] ')}" for line in said.getvalue().splitlines() if line.strip()
    ]


def policy_ranks(args: SimpleNamespace) -> int:
    """Data-parallel ranks of the policy: those that get different samples. Raises UserError where there are none."""
    devices, per_rank = (
        args.actor.num_nodes * args.actor.num_gpus_per_node,
        args.ds.ring_attn_size * args.ds.tensor_parallel_size,
    )
    if devices % per_rank:
        raise UserError(
            f"--ds.ring_attn_size x --ds.tensor_parallel_size = {per_rank} devices hold one copy of the policy, and it has {devices}; "
            "give a multiple (--actor.num_gpus_per_node)"
        )
    return devices // per_rank


# ---- the names that are bound anew ------------------------------------------------------------------------------------------


class EngineFactory:
    """Stands where `create_vllm_engines` expects RolloutRayActor: the same `.options(...).remote(...)`, with more arguments.

    OpenRLHF passes a fixed set of engine arguments; `extra` (a function of them) adds to it or replaces some. Code that
    comes with the model runs only where it is trusted.
    """

    def __init__(self, actor_class, extra: Callable[[dict[str, Any]], dict[str, Any]]):
        self.actor_class, self.extra = actor_class, extra

    def options(self, **options: Any) -> "EngineFactory":
        # Ray starts a dead engine again, as often as trainer/engine_pool.py lets it; requests are sent again there. Signs of life
        # must not wait behind requests, of which an asynchronous actor takes 1000 at a time by default.
        again = {"max_restarts": -1, "max_task_retries": 0, "max_concurrency": 100_000}
        return EngineFactory(self.actor_class.options(**options, **again), self.extra)

    def remote(self, **kwargs: Any):
        trusted = {"trust_remote_code": model_folder.code_is_trusted()}
        return self.actor_class.remote(**{**kwargs, **trusted, **self.extra(kwargs)})


def engine_dead_error() -> type[Exception]:
    """What a vLLM engine raises whose core has died."""
    from vllm.v1.engine.exceptions import EngineDeadError

    return EngineDeadError


class WeightSender:
    """On a rank of the policy: OpenRLHF's weight sync to some engines, each of which gets all of it or is told as failed."""

    def __init__(self, engines: list[Any], limit_s: float):
        self.engines, self.limit_s = engines, limit_s

    def send(self, trainer: Any, chosen: list[int], version: int) -> list[int]:
        """Weights of the ActorPPOTrainer to the engines of these numbers; every rank calls it. Returns those that failed."""
        import torch.distributed as dist

        if dist.get_rank():
            trainer.broadcast_to_vllm()
            return []
        asked = ask_all([self.engines[engine] for engine in chosen], "prepare_weights", limit_s=self.limit_s)
        found = {engine: one for engine, one in zip(chosen, asked, strict=True) if not isinstance(one, Exception)}
        reached = [engine for engine in chosen if engine in found]
        trainer.vllm_engines, trainer.failed_engines = [self.engines[engine] for engine in reached], []
        self._join(trainer, [found[engine][1] for engine in reached])
        try:
            trainer.broadcast_to_vllm()
        finally:
            trainer.vllm_engines = self.engines
        took = [engine for i, engine in enumerate(reached) if i not in trainer.failed_engines]
        done = ask_each(
            [self.engines[i] for i in took], "finish_weights", [(found[i][0], version) for i in took], self.limit_s
        )
        whole = {engine for engine, result in zip(took, done, strict=True) if not isinstance(result, Exception)}
        return [engine for engine in chosen if engine not in whole]

    def _join(self, trainer: Any, groups: list["SyncGroup | None"]) -> None:
        """Make the NCCL group anew where it is not of just these processes; `groups`: the last one that each has joined.

        A process that was started again has joined none, so it needs no memory here of what OpenRLHF made at the start.
        """
        vllm = trainer.strategy.args.vllm
        size = 1 + len(groups) * vllm.tensor_parallel_size
        if cpu.is_cpu() or trainer.use_cuda_ipc or not groups:
            return
        if groups[0] is not None and groups[0].size == size and set(groups) == {groups[0]}:
            return
        engines, vllm.num_engines = vllm.num_engines, len(groups)
        try:
            trainer._init_vllm_sync_group(vllm.sync_backend)
        finally:
            vllm.num_engines = engines


@dataclasses.dataclass(frozen=True)
class SyncGroup:
    """The NCCL group of one making: where its processes met, and how many they are, the policy's first rank included."""

    address: str
    port: int
    size: int


def bind(*, engine, policy, critic, reference, reward, trainer) -> None:
    """Let OpenRLHF's `train` build these Ray classes instead of its own."""
    stack = _stack()
    stack.vllm_engine.RolloutRayActor = engine
    stack.train_ppo_ray.PolicyModelActor = policy
    stack.train_ppo_ray.CriticModelActor = critic
    stack.train_ppo_ray.ReferenceModelActor = reference
    stack.train_ppo_ray.RewardModelActor = reward
    stack.ppo_trainer.PPOTrainer = trainer
    stack.ppo_trainer_async.PPOTrainerAsync = trainer  # what --train.async_enable builds: one loop does both


def actor_trainer(cls: type):
    """Context in which PolicyModelActor builds `cls` in place of ActorPPOTrainer."""
    return rebound(_stack().ppo_actor, "ActorPPOTrainer", cls)


def loss_windows(windows: Callable):
    """Context in which ActorPPOTrainer takes the micro-batches and their loss normalisers from `windows`."""
    return rebound(_stack().ppo_actor, "iter_grad_accum_global_norm", windows)


def sft_loss(cls: Callable[..., Any]):
    """Context in which SFTTrainer builds `cls` in place of SFTLoss."""
    return rebound(_stack().sft_trainer, "SFTLoss", cls)


def dpo_loss(cls: Callable[..., Any]):
    """Context in which DPOTrainer builds `cls` in place of DPOLoss."""
    return rebound(_stack().dpo_trainer, "DPOLoss", cls)


def reported_steps(cli: str, report: Callable[[int, int, dict[str, float]], None]):
    """Context in which train_sft or train_dpo calls `report(step, planned steps, metrics)` after every optimizer step."""
    module = getattr(_stack(), cli)
    name = {"train_sft": "SFTTrainer", "train_dpo": "DPOTrainer"}[cli]

    class ReportingTrainer(getattr(module, name)):
        def fit(self, args, consumed_samples=0, num_update_steps_per_epoch=None):
            self.planned_steps = num_update_steps_per_epoch * self.epochs
            super().fit(args, consumed_samples, num_update_steps_per_epoch)

        def save_logs_and_checkpoints(self, args, global_step, step_bar, logs_dict=None, client_states=None):
            report(global_step, self.planned_steps, dict(logs_dict or {}))
            super().save_logs_and_checkpoints(args, global_step, step_bar, logs_dict, client_states)

    return rebound(module, name, ReportingTrainer)


def train(args: SimpleNamespace) -> None:
    """OpenRLHF's own `train`: engines, actors and trainer are built, `fit` runs, the model is saved. Ray must be running."""
    _stack().train_ppo_ray.train(args)
