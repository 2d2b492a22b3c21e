"""What may import what: the core stays pure, light commands stay light, and imports point one way."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "spo_rlhf"
STACK = {"ray", "vllm", "deepspeed", "openrlhf", "transformers"}
CORE = sorted(path.stem for path in (PACKAGE / "core").glob("*.py") if path.stem != "__init__")
TORCH_CORE = {"loss", "metrics", "ratio"}
LAYERS = ("core", "rollout", "sampling", "trainer", "cli")  # a layer imports those before it, never those after it
KNOWS_OPENRLHF = {PACKAGE / "upstream.py", PACKAGE / "cpu.py"}


def loaded_by(module: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after importing ``module``."""
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def imports_of(path: Path) -> set[str]:
    """Modules that the file names in its import statements, wherever these stand, as absolute dotted names."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            # "from spo_rlhf import trainer" names a module as well.
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def files_of(*parts: str) -> list[Path]:
    return sorted(ROOT.joinpath(*parts).rglob("*.py"))


def offenders(paths: list[Path], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in sorted(imports_of(path))
        if any(name == module or name.startswith(module + ".") for module in forbidden)
    ]


@pytest.mark.parametrize("name", CORE)
def test_core_loads_nothing_of_the_stack(name: str) -> None:
    loaded = loaded_by(f"spo_rlhf.core.{name}")
    assert "spo_rlhf" in loaded
    assert not loaded & STACK
    # torch itself imports asyncio, so this can be asked of the other modules alone.
    if name not in TORCH_CORE:
        assert not loaded & {"torch", "asyncio"}


def test_core_imports_only_itself_numpy_torch_and_the_standard_library() -> None:
    allowed = {"numpy", "torch"} | set(sys.stdlib_module_names) - {"asyncio"}
    for path in files_of("spo_rlhf", "core"):
        for name in imports_of(path):
            assert name.partition(".")[0] in allowed or name.startswith("spo_rlhf.core"), f"{path.name}: {name}"


def test_inspect_starts_without_torch_and_the_stack() -> None:
    loaded = loaded_by("spo_rlhf.cli.inspect")
    assert "numpy" in loaded
    assert not loaded & (STACK | {"torch"})


@pytest.mark.parametrize("layer", LAYERS[:-1])
def test_imports_point_from_cli_over_trainer_and_rollout_to_core(layer: str) -> None:
    paths = files_of("spo_rlhf", layer)
    above = tuple(f"spo_rlhf.{name}" for name in LAYERS[LAYERS.index(layer) + 1 :])
    assert paths
    assert offenders(paths, above) == []


def test_only_the_adapters_name_openrlhf() -> None:
    assert offenders([path for path in files_of("spo_rlhf") if path not in KNOWS_OPENRLHF], ("openrlhf",)) == []


def test_the_evaluation_never_imports_the_trainer() -> None:
    assert offenders(files_of("evaluation"), ("spo_rlhf.trainer", "spo_rlhf.cli")) == []


def test_every_form_of_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "spo_rlhf" / "core" / "module.py"
    path.parent.mkdir(parents=True)
    lines = ["import ray.util as u", "def f():", "    from spo_rlhf import trainer", "from ..cli import train"]
    path.write_text("\n".join([*lines, "from . import loss"]))
    assert {"ray.util", "spo_rlhf.trainer", "spo_rlhf.cli.train", "spo_rlhf.core.loss"} <= imports_of(path)
    assert offenders([path], ("spo_rlhf.trainer", "ray")) == [
        "spo_rlhf/core/module.py imports ray.util",
        "spo_rlhf/core/module.py imports spo_rlhf.trainer",
    ]
