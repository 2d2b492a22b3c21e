"""The modules of this repository and what each imports, read from their source; nothing is imported."""

import ast
import importlib.util
import io
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True)
class Import:
    """`importer` names `imported`, absolute dotted names both; a deferred one stands in a function."""

    importer: str
    imported: str
    deferred: bool

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}{' (in a function)' if self.deferred else ''}"


def import_statements(tree: ast.AST, deferred: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """All import statements below a node, with whether they run only when a function does."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, deferred
        in_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from import_statements(node, deferred or in_function)


def parents(module: str) -> list[str]:
    """The packages that are loaded before the module: a, a.b for a.b.c."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


class ImportGraph:
    """Modules below `root` in the given packages."""

    def __init__(self, root: Path, packages: Iterable[str]):
        self.root = root
        self.path_of = {
            self._name(path): path for package in packages for path in sorted((root / package).rglob("*.py"))
        }

    def _name(self, path: Path) -> str:
        parts = path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def imports(self) -> list[Import]:
        """Every import, those of libraries too: of a module where there is one of that name, else of what is named."""
        return [found for module in self.path_of for found in sorted(self._imports_of(module), key=str)]

    def _imports_of(self, module: str) -> set[Import]:
        path = self.path_of[module]
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        found = set()
        for node, deferred in import_statements(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            else:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                # "from spo_rlhf import trainer" names a module, "from spo_rlhf.errors import UserError" a thing in one.
                members = {f"{base}.{alias.name}" for alias in node.names}
                names = {member if member in self.path_of else base for member in members}
            found |= {Import(module, name, deferred) for name in names}
        return found

    @cached_property
    def edges(self) -> dict[str, set[str]]:
        """Module -> modules of this repository that it names."""
        edges: dict[str, set[str]] = {module: set() for module in self.path_of}
        for one in self.imports:
            if one.imported in self.path_of and one.imported != one.importer:
                edges[one.importer].add(one.imported)
        return edges

    def closure(self, modules: Iterable[str]) -> dict[str, list[str]]:
        """Every module that importing these can load, with a shortest way there: what it names, and the packages of both."""
        ways = {module: [module] for module in modules}
        queue = list(ways)
        for module in queue:
            named = self.edges[module] | {package for package in parents(module) if package in self.path_of}
            for name in sorted(named - ways.keys()):
                ways[name] = [*ways[module], name]
                queue.append(name)
        return ways

    def circles(self) -> list[set[str]]:
        """Groups of modules each of which leads to every other. A package may name its modules, though these load it."""
        reached = {module: self._reached(module) for module in self.path_of}
        groups = {frozenset(other for other in reached[module] if module in reached[other]) for module in reached}
        return [set(group) for group in groups if len(group) > 1]

    def _reached(self, module: str) -> set[str]:
        reached, queue = {module}, [module]
        for one in queue:
            queue += self.edges[one] - reached
            reached |= self.edges[one]
        return reached

    def lines(self, module: str) -> int:
        """Lines of code: without blank ones, comments and docstrings."""
        text = self.path_of[module].read_text(encoding="utf-8")
        lines = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in NO_CODE:
                lines |= set(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                lines -= set(range(node.lineno, node.end_lineno + 1))
        return len(lines)
