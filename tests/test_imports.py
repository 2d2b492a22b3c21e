"""What may import what, over the whole way and not only the first step: rooms, light commands, and the evaluation."""

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from import_graph import Import, ImportGraph

ROOT = Path(__file__).parents[1]
# The rooms from the ground up: folders and single modules of spo_rlhf, and the evaluation. Each imports those before it alone.
ROOMS = (
    "errors",
    "core",
    "plugins",
    "host",
    "flash_attn_stand_in",
    "cpu",
    "upstream_logits",
    "upstream",
    "upstream_steps",
    "upstream_weights",
    "upstream_worker",
    "upstream_checkpoints",
    "graders",
    "tasks",
    "rollout",
    "sampling",
    "methods",
    "rollouts",
    "config",
    "trainer",
    "launch",
    "insight",
    "evaluation",
    "cli",
)
# The evaluation is a program of its own: it shares the machinery below and nothing that trains.
EVALUATION_SHARES = ROOMS[: ROOMS.index("sampling") + 1]
KNOWS_OPENRLHF = {"spo_rlhf.cpu"} | {f"spo_rlhf.upstream{part}" for part in ("", "_logits", "_weights", "_worker")}
STACK = {"ray", "vllm", "deepspeed", "openrlhf", "transformers"}
TORCH_CORE = {"log_probs", "loss", "metrics", "ratio"}
LARGEST_SHARE = 0.2

GRAPH = ImportGraph(ROOT, ("spo_rlhf", "evaluation"))
CORE = sorted(module for module in GRAPH.path_of if module.startswith("spo_rlhf.core."))


def room(module: str) -> str:
    """The room of a module of this repository, "" for the package spo_rlhf itself, which holds nothing."""
    package, *rest = module.split(".")
    return package if package != "spo_rlhf" else (rest or [""])[0]


def loaded_by(module: str) -> set[str]:
    """All modules that a fresh interpreter holds after importing one."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def libraries(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def upwards(graph: ImportGraph) -> list[Import]:
    """Imports of a room that stands above that of the importer."""
    height = {name: number for number, name in enumerate(("", *ROOMS))}
    inside = [one for one in graph.imports if one.imported in graph.path_of]
    return [one for one in inside if height.get(room(one.imported), len(height)) > height.get(room(one.importer), -1)]


# ---- rooms -------------------------------------------------------------------------------------------------------------------


def test_every_module_has_a_room() -> None:
    assert {room(module) for module in GRAPH.path_of} <= {"", *ROOMS}, "give the new room its place in ROOMS"


def test_no_arrow_points_upwards() -> None:
    assert [str(one) for one in upwards(GRAPH)] == []


def test_no_circle_between_modules() -> None:
    assert GRAPH.circles() == []


def test_no_room_holds_a_fifth_of_the_code() -> None:
    lines: dict[str, int] = defaultdict(int)
    for module in GRAPH.path_of:
        lines[room(module)] += GRAPH.lines(module)
    total = sum(lines.values())
    table = {name: f"{lines[name]} lines, {lines[name] / total:.1%}" for name in ROOMS if name in lines}
    assert total > 1000 and max(lines.values()) < LARGEST_SHARE * total, table


def test_the_way_of_the_evaluation_never_leads_to_what_trains() -> None:
    ways = GRAPH.closure(module for module in GRAPH.path_of if room(module) == "evaluation")
    assert {room(module) for module in ways} >= {"evaluation", "graders", "sampling"}
    allowed = {"", "evaluation", *EVALUATION_SHARES}
    assert [" -> ".join(way) for module, way in ways.items() if room(module) not in allowed] == []


def test_core_reaches_only_itself_numpy_torch_and_the_standard_library() -> None:
    assert {room(module) for module in GRAPH.closure(CORE)} == {"", "core"}
    allowed = {"spo_rlhf", "numpy", "torch"} | set(sys.stdlib_module_names) - {"asyncio"}
    of_core = [one for one in GRAPH.imports if room(one.importer) == "core"]
    assert [str(one) for one in of_core if one.imported.partition(".")[0] not in allowed] == []


def test_only_the_adapters_name_openrlhf() -> None:
    named = [one for one in GRAPH.imports if one.imported.partition(".")[0] == "openrlhf"]
    assert {one.importer for one in named} <= KNOWS_OPENRLHF


# ---- in a fresh interpreter --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", CORE)
def test_core_loads_nothing_of_the_stack(module: str) -> None:
    loaded = libraries(loaded_by(module))
    assert "spo_rlhf" in loaded
    assert not loaded & STACK
    # torch itself imports asyncio, so this can be asked of the other modules alone.
    if module.rpartition(".")[2] not in TORCH_CORE:
        assert not loaded & {"torch", "asyncio"}


def test_inspect_starts_without_torch_and_the_stack() -> None:
    loaded = libraries(loaded_by("spo_rlhf.cli.inspect"))
    assert "numpy" in loaded
    assert not loaded & (STACK | {"torch"})


def test_the_evaluation_loads_what_its_imports_say_and_nothing_that_trains() -> None:
    loaded = {module for module in loaded_by("evaluation.run") if module in GRAPH.path_of}
    assert "evaluation.run" in loaded
    assert loaded <= GRAPH.closure(["evaluation.run"]).keys(), "an import that the source does not show"
    assert {room(module) for module in loaded} <= {"", "evaluation", *EVALUATION_SHARES}


# ---- the graph itself --------------------------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path: Path):
    """Writes modules (name -> source), their packages included; their graph."""

    def build(**sources: str) -> ImportGraph:
        for name, source in sources.items():
            path = tmp_path.joinpath("spo_rlhf", *name.split("__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in path.parent, tmp_path / "spo_rlhf":
                (folder / "__init__.py").touch()
            path.write_text(source)
        return ImportGraph(tmp_path, ["spo_rlhf"])

    return build


def test_every_form_of_import_is_seen(house) -> None:
    lines = [
        "import ray.util as u",
        "def f():",
        "    from spo_rlhf import trainer",
        "from ..cli import train",
        "from ..errors import UserError",
        "from . import loss",
        "try:",
        "    import spo_rlhf.config",
        "finally:",
        "    pass",
    ]
    names = ("core__loss", "cli__train", "errors", "config", "trainer__loop")
    graph = house(core__module="\n".join(lines), **dict.fromkeys(names, ""))
    assert [str(one).partition("imports ")[2] for one in graph.imports] == [
        "ray.util",
        "spo_rlhf.cli.train",
        "spo_rlhf.config",
        "spo_rlhf.core.loss",
        "spo_rlhf.errors",
        "spo_rlhf.trainer (in a function)",
    ]
    above = {one.imported for one in upwards(graph)}
    assert above == {"spo_rlhf.cli.train", "spo_rlhf.config", "spo_rlhf.trainer"}, "errors stand below, loss beside"


def test_a_way_over_other_modules_is_followed(house) -> None:
    graph = house(
        sampling__collect="import spo_rlhf.upstream",
        upstream="def f():\n    from spo_rlhf.trainer import loop",
        trainer__loop="",
    )
    way = graph.closure(["spo_rlhf.sampling.collect"])["spo_rlhf.trainer.loop"]
    assert way == ["spo_rlhf.sampling.collect", "spo_rlhf.upstream", "spo_rlhf.trainer.loop"]
    assert [str(one) for one in upwards(graph)] == ["spo_rlhf.upstream imports spo_rlhf.trainer.loop (in a function)"]


def test_a_circle_is_found_also_through_a_function(house) -> None:
    a, b = "from spo_rlhf.core import b", "def f():\n    from spo_rlhf.core import a"
    assert house(core__a=a, core__b="").circles() == []
    assert house(core__a=a, core__b=b).circles() == [{"spo_rlhf.core.a", "spo_rlhf.core.b"}]


def test_a_package_that_lists_its_modules_is_no_circle_but_all_of_them_are_on_the_way(house) -> None:
    graph = house(core__a="", core__b="", errors="import spo_rlhf.core.a")
    graph.path_of["spo_rlhf.core"].write_text("from spo_rlhf.core import a, b")
    assert graph.circles() == []
    assert "spo_rlhf.core.b" in graph.closure(["spo_rlhf.errors"])


def test_lines_of_code_are_neither_comments_nor_docstrings_nor_blank(house) -> None:
    source = '"""A docstring\nof two lines."""\n\n# why\nx = 1  # one\n\n\ndef f():\n    """Also."""\n    return (\n        x\n    )\n'
    assert house(core__module=source).lines("spo_rlhf.core.module") == 5
