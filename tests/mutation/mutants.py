"""Small wrong versions of a module: what a test suite that can fail should notice.

Left alone are what says nothing of behaviour (annotations, docstrings, texts, decorators, sizes of caches, asserts) and
what stands inside an f-string.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type, tuple[str, ...]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}
SIZES_ONLY = {"maxsize"}  # keyword arguments that change no result


@dataclass(frozen=True)
class Mutant:
    """One change of a module's text. `lines`: first and last line of the statement that it lies in, as far as it is executed
    with it; None where it is executed when the module is imported."""

    line: int
    column: int
    change: str
    text: str
    lines: tuple[int, int] | None


def mutants(source: str) -> Iterator[Mutant]:
    """All mutants of a module, in the order of its text."""
    yield from _Finder(source).found()


class _Finder:
    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self.rows = [line.encode() for line in source.splitlines(keepends=True)]  # ast counts columns in bytes

    def found(self) -> Iterator[Mutant]:
        yield from sorted(self._below(self.tree, None, False), key=lambda one: (one.line, one.column, one.change))

    def _below(self, node: ast.AST, statement: ast.stmt | None, in_function: bool) -> Iterator[Mutant]:
        """Mutants of a node and what is below it."""
        lines = _lines(statement) if statement is not None and in_function else None
        for replaced, change, new in _changes(node):
            yield self._spliced(replaced, change, new, lines)
        for child, inside in _children(node, in_function):
            yield from self._below(child, child if isinstance(child, ast.stmt) else statement, inside)

    def _spliced(self, node: ast.AST, change: str, new: str, lines: tuple[int, int] | None) -> Mutant:
        first, last = node.lineno - 1, node.end_lineno - 1
        before = b"".join(self.rows[:first]) + self.rows[first][: node.col_offset]
        after = self.rows[last][node.end_col_offset :] + b"".join(self.rows[last + 1 :])
        text = (before + new.encode() + after).decode()
        return Mutant(node.lineno, node.col_offset + 1, change, text, lines)


def _children(node: ast.AST, in_function: bool) -> Iterator[tuple[ast.AST, bool]]:
    """What is mutated below a node, and whether it is executed by a call."""
    if isinstance(node, (ast.JoinedStr, ast.Assert)):
        return
    skipped = {"annotation", "returns", "decorator_list", "type_comment", "bases"}
    for name, value in ast.iter_fields(node):
        if name in skipped:
            continue
        inside = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and name == "body"
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_left_alone(child):
                yield child, inside


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.keyword) and node.arg in SIZES_ONLY


def _lines(statement: ast.stmt) -> tuple[int, int]:
    """The lines of a statement, of a compound one those of its head."""
    body = getattr(statement, "body", None)
    if not body or isinstance(statement, ast.Expr):
        return statement.lineno, statement.end_lineno
    return statement.lineno, max(statement.lineno, body[0].lineno - 1)


def _changes(node: ast.AST) -> Iterator[tuple[ast.AST, str, str]]:
    """What is replaced, in words, and by which source."""
    if isinstance(node, (ast.expr, ast.stmt)):
        was = ast.unparse(node)
        for new in _others(node):
            yield node, f"{was} to {new}" if new != "pass" else f"{was} removed", new
    tests = node.ifs if isinstance(node, ast.comprehension) else [getattr(node, "test", None)]
    for test in tests:
        if isinstance(test, (ast.Name, ast.Attribute, ast.Call, ast.NamedExpr)):
            yield test, f"if {ast.unparse(test)}: negated", f"(not ({ast.unparse(test)}))"


def _others(node: ast.expr | ast.stmt) -> Iterator[str]:
    """Source of what may stand in the place of an expression or a statement."""
    if isinstance(node, ast.stmt):
        yield from _other_statements(node)
    elif isinstance(node, ast.Constant):
        yield from _other_constants(node.value)
    elif isinstance(node, ast.Compare):
        for at, op in enumerate(node.ops):
            for new in COMPARISONS[type(op)]:
                yield _compared(node, at, new)
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield f"({ast.unparse(ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right))})"
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.BoolOp):
        yield f"({ast.unparse(ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values))})"
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in CALLS:
        yield CALLS[node.id]
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in CALLS:
        yield f"({ast.unparse(node.value)}).{CALLS[node.attr]}"


def _other_statements(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield ast.unparse(ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value))
    if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield "return None"
    called = isinstance(node, ast.Expr) and isinstance(node.value, (ast.Call, ast.Await))
    if called or isinstance(node, (ast.AugAssign, ast.Raise, ast.Continue, ast.Break)):
        yield "pass"


def _other_constants(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield str(not value)
    elif isinstance(value, (int, float)):
        yield from (f"({value + 1})", f"({value - 1})")


def _symbol(op: ast.cmpop) -> str:
    return ast.unparse(ast.Compare(ast.Name("a"), [op], [ast.Name("b")]))[2:-2]


def _compared(node: ast.Compare, at: int, new: str) -> str:
    parts = [f"({ast.unparse(node.left)})"]
    for number, (op, right) in enumerate(zip(node.ops, node.comparators)):
        parts += [new if number == at else _symbol(op), f"({ast.unparse(right)})"]
    return f"({' '.join(parts)})"
