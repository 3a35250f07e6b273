"""Small wrong changes of a Python file: what a slip, or a check that was left out, looks like.

Nothing is changed where no test should look: annotations, texts of errors and of log
lines, assertions, documentation, and the values of limits (`NAME = 1024` in a module), which
are choices: a test that tells 1,024 from 1,025 holds the choice, not the product.
"""

import ast
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARE: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_SQL = re.compile(r"\b(SELECT|DELETE FROM|UPDATE|INSERT)\b|\bkind = '")
_SQL_CHANGES = ((" AND ", " OR "), (" OR ", " AND "), (" < ", " <= "), (" = ", " >= "))
_SILENT = ("log", "logger", "logging", "warnings")


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        kind: of change.
        first, last: lines (from 1) of the statement or expression that is changed.
        start, end: the bytes of the file that are replaced.
        old, new: by what.
        text: the line where the change begins, without its indentation.
        column: where in `text` it begins, in characters from 0.
    """

    kind: str
    first: int
    last: int
    start: int
    end: int
    old: str
    new: str
    text: str
    column: int

    def apply(self, source: bytes) -> bytes:
        """The file with the change."""
        assert source[self.start : self.end] == self.old.encode()
        return source[: self.start] + self.new.encode() + source[self.end :]


def mutants(source: bytes) -> list[Mutant]:
    """All changes that this file knows of, in the order of the lines; each compiles."""
    return sorted(_Finder(source).found, key=lambda one: (one.start, one.end, one.new))


def sample(found: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """So many of them by chance, the same for the same seed; a second of a line comes last."""
    shuffled = random.Random(seed).sample(found, len(found))
    lines: Counter[int] = Counter()
    ranked = []
    for place, one in enumerate(shuffled):
        ranked.append((lines[one.first], place, one))
        lines[one.first] += 1
    chosen = [one for _, _, one in sorted(ranked, key=lambda each: each[:2])[:count]]
    return sorted(chosen, key=lambda one: (one.start, one.new))


class _Finder:
    def __init__(self, source: bytes) -> None:
        self.found: list[Mutant] = []
        self._source = source
        self._lines = source.decode().splitlines()
        self._offsets = [0]
        for line in source.splitlines(keepends=True):
            self._offsets.append(self._offsets[-1] + len(line))
        self._visit(ast.parse(source), in_function="")

    # --- the walk ---------------------------------------------------------------------

    def _visit(self, node: ast.AST, in_function: str) -> None:
        for change in self._changes(node, in_function):
            self._add(*change)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            in_function = node.name
        for child in self._children(node):
            self._visit(child, in_function)

    def _children(self, node: ast.AST) -> Iterator[ast.AST]:
        """What is inside and may be changed."""
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr) or _is_silent(node):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Module):
            yield from (child for child in node.body if not _is_limit(child))
            return
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                    continue
                if isinstance(child, ast.AST):
                    yield child

    def _span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self._offsets[node.lineno - 1] + node.col_offset,  # type: ignore[attr-defined]
            self._offsets[node.end_lineno - 1] + node.end_col_offset,  # type: ignore[attr-defined]
        )

    def _text(self, start: int, end: int) -> str:
        return self._source[start:end].decode()

    def _add(self, kind: str, new: str, start: int, end: int) -> None:
        old = self._text(start, end)
        first = self._source[:start].count(b"\n") + 1
        last = self._source[:end].count(b"\n") + 1
        line = self._lines[first - 1]
        before = self._source[self._offsets[first - 1] : start].decode()
        column = len(before) - len(line) + len(line.lstrip())
        one = Mutant(kind, first, last, start, end, old, new, line.strip(), column)
        try:
            compile(one.apply(self._source), "mutant", "exec")
        except SyntaxError:
            return
        if old != new and one not in self.found:
            self.found.append(one)

    # --- the changes ------------------------------------------------------------------

    def _changes(self, node: ast.AST, in_function: str) -> Iterator[tuple[str, str, int, int]]:
        match node:
            case ast.Compare():
                yield from self._compare(node)
            case ast.BoolOp():
                yield from self._bool_op(node)
            case ast.UnaryOp(op=ast.Not()):
                yield "drop not", f"({self._text(*self._span(node.operand))})", *self._span(node)
            case ast.BinOp(op=ast.Add() | ast.Sub()) if not isinstance(node.left, ast.Constant):
                yield from self._between(node.left, node.right, "arithmetic", "+", "-")
                yield from self._between(node.left, node.right, "arithmetic", "-", "+")
            case ast.Constant():
                yield from self._constant(node)
            case ast.JoinedStr():
                yield from self._sql(node)
            case ast.If() if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield "never", "False", *self._span(node.test)
                yield "always", "True", *self._span(node.test)
            case ast.comprehension():
                for test in node.ifs:
                    yield "drop filter", "True", *self._span(test)
            case _:
                yield from self._statement(node, in_function)

    def _statement(self, node: ast.AST, in_function: str) -> Iterator[tuple[str, str, int, int]]:
        match node:
            case ast.Expr(value=ast.Constant() | ast.Yield() | ast.YieldFrom()):
                return
            case ast.Expr() if not _is_silent(node):
                yield "drop statement", "pass", *self._span(node)
            case ast.Raise():
                yield "drop raise", "pass", *self._span(node)
            case ast.Return(value=ast.expr()):
                yield "return None", "return None", *self._span(node)
            case ast.AugAssign():
                yield "drop assignment", "pass", *self._span(node)
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                if in_function != "__init__":
                    yield "drop assignment", "pass", *self._span(node)
            case ast.Continue() | ast.Break():
                yield "drop jump", "pass", *self._span(node)

    def _compare(self, node: ast.Compare) -> Iterator[tuple[str, str, int, int]]:
        for left, op, right in zip(
            [node.left, *node.comparators], node.ops, node.comparators, strict=False
        ):
            old, new = _COMPARE[type(op)]
            yield from self._between(left, right, "compare", old, new)

    def _bool_op(self, node: ast.BoolOp) -> Iterator[tuple[str, str, int, int]]:
        old, new, neutral = (
            ("and", "or", "True") if isinstance(node.op, ast.And) else ("or", "and", "False")
        )
        if len(node.values) == 2:
            yield from self._between(*node.values, "and/or", old, new)
        for value in node.values:
            yield "drop operand", neutral, *self._span(value)

    def _between(
        self, left: ast.AST, right: ast.AST, kind: str, old: str, new: str
    ) -> Iterator[tuple[str, str, int, int]]:
        start, end = self._span(left)[1], self._span(right)[0]
        text = self._text(start, end)
        if text.strip(" ()\n") == old:
            yield kind, text.replace(old, new, 1), start, end

    def _constant(self, node: ast.Constant) -> Iterator[tuple[str, str, int, int]]:
        match node.value:
            case bool():
                yield "constant", str(not node.value), *self._span(node)
            case int():
                yield "constant", f"({node.value} + 1)", *self._span(node)
            case bytes() if node.value:
                changed = bytes([node.value[0] ^ 1]) + node.value[1:]
                yield "constant", repr(changed), *self._span(node)
            case str():
                yield from self._sql(node)

    def _sql(self, node: ast.AST) -> Iterator[tuple[str, str, int, int]]:
        start, end = self._span(node)
        text = self._text(start, end)
        if not _SQL.search(text):
            return
        for old, new in _SQL_CHANGES:
            for hit in re.finditer(re.escape(old), text):
                at = start + len(text[: hit.start()].encode())
                yield "SQL", new, at, at + len(old)


def _is_limit(node: ast.AST) -> bool:
    """Whether a statement gives a number a name in capitals, or documents the one before."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            parts = [each for each in ast.walk(value) if not isinstance(each, ast.operator)]
            return name.isupper() and all(
                isinstance(each, ast.BinOp)
                or (isinstance(each, ast.Constant) and isinstance(each.value, int | float))
                for each in parts
            )
        case ast.Expr(value=ast.Constant()):
            return True
    return False


def _is_silent(node: ast.AST) -> bool:
    """Whether a statement only tells people something."""
    match node:
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))):
            return name in _SILENT
    return False
