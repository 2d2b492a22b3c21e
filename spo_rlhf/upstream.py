"""The only module that knows OpenRLHF's internals: version check, parser, and the names that are bound anew.

Everything else takes OpenRLHF's classes from here. Importing this module imports the whole stack; Ray's workers do so when they
unpickle one of the project's actor classes, which is also what adapts them (flash-attn stand-in, machine without a GPU).
"""

import argparse
import ast
import importlib.metadata
import inspect
from types import SimpleNamespace
from typing import Any, Callable

from spo_rlhf import cpu, flash_attn_stand_in
from spo_rlhf.errors import UserError

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


check_version()
flash_attn_stand_in.install()

import openrlhf.cli.train_ppo_ray as train_ppo_ray  # noqa: E402
import openrlhf.trainer.ppo_trainer as ppo_trainer  # noqa: E402
import openrlhf.trainer.ray.launcher as launcher  # noqa: E402
import openrlhf.trainer.ray.ppo_actor as ppo_actor  # noqa: E402
import openrlhf.trainer.ray.vllm_engine as vllm_engine  # noqa: E402
from openrlhf.datasets.prompts_dataset import PromptDataset, preprocess_data  # noqa: E402, F401
from openrlhf.datasets.utils import blending_datasets  # noqa: E402, F401
from openrlhf.models import PolicyLoss  # noqa: E402, F401
from openrlhf.models.utils import compute_approx_kl  # noqa: E402, F401
from openrlhf.trainer.ppo_utils.experience import Experience, make_experience_batch  # noqa: E402, F401
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker  # noqa: E402, F401
from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer  # noqa: E402, F401
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator  # noqa: E402, F401
from openrlhf.utils.config import hierarchize  # noqa: E402
from openrlhf.utils.loss_utils import iter_grad_accum_global_norm  # noqa: E402, F401
from openrlhf.utils.utils import get_tokenizer  # noqa: E402, F401

if cpu.is_cpu():
    cpu.adapt()

# Ray refuses to subclass decorated actors: these are the classes beneath, to subclass and decorate again.
RolloutRayActor = vllm_engine.RolloutRayActor.__ray_actor_class__
PolicyModelActor = ppo_actor.PolicyModelActor.__ray_actor_class__
ReferenceModelActor = launcher.ReferenceModelActor.__ray_actor_class__
RewardModelActor = launcher.RewardModelActor.__ray_actor_class__
PPOTrainer = ppo_trainer.PPOTrainer.__ray_actor_class__
ActorPPOTrainer = ppo_actor.ActorPPOTrainer


# ---- the command line -------------------------------------------------------------------------------------------------------
# OpenRLHF's parser and its validation stand under `if __name__ == "__main__":` and cannot be called. Both are run from the
# installed source: the statements before `args = parser.parse_args()` build the parser, those after it validate, and the last
# statement, `train(args)`, is left out.


def _main_statements() -> tuple[list[ast.stmt], list[ast.stmt]]:
    tree = ast.parse(inspect.getsource(train_ppo_ray))
    main = tree.body[-1]
    assert isinstance(main, ast.If) and ast.unparse(main.body[-1]) == "train(args)"
    texts = [ast.unparse(statement) for statement in main.body]
    parse = texts.index("args = parser.parse_args()")
    return main.body[:parse], main.body[parse + 1 : -1]


def _run(statements: list[ast.stmt], names: dict[str, Any]) -> dict[str, Any]:
    module = ast.Module(body=statements, type_ignores=[])
    exec(compile(module, train_ppo_ray.__file__, "exec"), names)
    return names


def build_parser() -> argparse.ArgumentParser:
    """OpenRLHF's own parser of `train_ppo_ray`, all flags with their names, defaults and help."""
    statements, _ = _main_statements()
    return _run(statements, dict(vars(train_ppo_ray)))["parser"]


def validate(flat: argparse.Namespace) -> SimpleNamespace:
    """OpenRLHF's own validation: flat names with dots -> nested, derived values filled in. Raises UserError."""
    _, statements = _main_statements()
    try:
        return _run(statements, {**vars(train_ppo_ray), "args": flat})["args"]
    except AssertionError as error:
        raise UserError(str(error) or "OpenRLHF refused the options") from None


# ---- the names that are bound anew ------------------------------------------------------------------------------------------


class EngineFactory:
    """Stands where `create_vllm_engines` expects RolloutRayActor: the same `.options(...).remote(...)`, with more arguments.

    OpenRLHF passes a fixed set of engine arguments; `extra` (a function of them) adds to it or replaces some.
    """

    def __init__(self, actor_class, extra: Callable[[dict[str, Any]], dict[str, Any]]):
        self.actor_class, self.extra = actor_class, extra

    def options(self, **options: Any) -> "EngineFactory":
        return EngineFactory(self.actor_class.options(**options), self.extra)

    def remote(self, **kwargs: Any):
        return self.actor_class.remote(**{**kwargs, **self.extra(kwargs)})


def bind(*, engine, policy, reference, reward, trainer) -> None:
    """Let OpenRLHF's `train` build these Ray classes instead of its own."""
    vllm_engine.RolloutRayActor = engine
    train_ppo_ray.PolicyModelActor = policy
    train_ppo_ray.ReferenceModelActor = reference
    train_ppo_ray.RewardModelActor = reward
    ppo_trainer.PPOTrainer = trainer


def bind_actor_trainer(actor_trainer: type, loss_windows: Callable) -> None:
    """Inside the policy actor: its trainer class, and the iterator that gives every micro-batch its loss normaliser."""
    ppo_actor.ActorPPOTrainer = actor_trainer
    ppo_actor.iter_grad_accum_global_norm = loss_windows


def train(args: SimpleNamespace) -> None:
    """OpenRLHF's own `train`: engines, actors and trainer are built, `fit` runs, the model is saved. Ray must be running."""
    train_ppo_ray.train(args)

