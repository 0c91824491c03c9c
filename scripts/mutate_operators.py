"""The mutants of a Python file: each one replaces some bytes of it.

The operators aim at what this project promises: a bound, a condition, a refusal, a statement, the
order of two statements. Texts, annotations, decorators and `if TYPE_CHECKING` are left alone.
A place may have a mutant that does not compile or that means what the file means: ask `is_one`.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = 0  # `function` of what runs at import

_COMPARED: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
_CALCULATED: dict[type[ast.operator], str] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.FloorDiv: "*", ast.Div: "*", ast.Mod: "+",
    ast.LShift: ">>", ast.RShift: "<<", ast.BitAnd: "|", ast.BitOr: "&", ast.BitXor: "|",
}  # fmt: skip
_SYMBOLS: dict[type[ast.AST], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip
_NAMES = {
    "min": "max", "max": "min", "any": "all", "all": "any",
    "startswith": "endswith", "endswith": "startswith",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Mutant:
    """A file with the bytes `start` to `end` replaced by `text`.

    `function` is the first line of the function that has them, MODULE for what runs at import.
    """

    path: str  # below the checkout
    line: int
    function: int
    operator: str
    start: int
    end: int
    text: bytes

    @property
    def name(self) -> str:
        """File, line and operator."""
        return f"{self.path}:{self.line} {self.operator}"

    def applied(self, source: bytes) -> bytes:
        """The file's bytes with the mutant."""
        return source[: self.start] + self.text + source[self.end :]

    def is_one(self, source: bytes) -> bool:
        """True if the changed file compiles and is another program."""
        try:
            changed = ast.parse(self.applied(source))
        except SyntaxError:
            return False
        return ast.dump(changed) != ast.dump(ast.parse(source))

    def diff(self, source: bytes) -> str:
        """The change as a unified diff without its head."""
        before, after = (one.decode().splitlines() for one in (source, self.applied(source)))
        return "\n".join([*difflib.unified_diff(before, after, lineterm="", n=1)][2:])


def mutants(path: str, source: bytes) -> list[Mutant]:
    """All mutants of a file, in the order of their places."""
    found = _Finder(path, source).of_module(ast.parse(source))
    different = {(one.start, one.end, one.text): one for one in found}
    return [different[key] for key in sorted(different)]


class _Finder:
    """Finds the places of one file."""

    def __init__(self, path: str, source: bytes) -> None:
        self._path = path
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def of_module(self, tree: ast.Module) -> Iterator[Mutant]:
        for statement in tree.body:
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
                yield from self._elements(statement.value)
        yield from self._block(tree.body, MODULE)

    def _elements(self, value: ast.expr) -> Iterator[Mutant]:
        """A table of the module without one of its elements."""
        for node in _walk(value):
            if isinstance(node, (ast.Set, ast.List, ast.Tuple)) and len(node.elts) > 1:
                for one in node.elts:
                    yield self._without(one, MODULE, "an element less")
            elif isinstance(node, ast.Dict) and len(node.keys) > 1:
                for key, held in zip(node.keys, node.values, strict=True):
                    if key is not None:
                        yield self._without(key, MODULE, "an element less", last=held)

    def _block(
        self, body: list[ast.stmt], function: int, *, has_order: bool = True
    ) -> Iterator[Mutant]:
        for statement in body:
            yield from self._statement(statement, function)
        if function != MODULE and has_order:
            for first, second in itertools.pairwise(body):
                yield from self._swapped(first, second, function)

    def _statement(self, node: ast.stmt, function: int) -> Iterator[Mutant]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
                yield from self._expression(default, function)
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            yield from self._block(node.body, first, has_order=node.name != "__init__")
            return
        if isinstance(node, ast.ClassDef):
            yield from self._block(node.body, function)
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if function != MODULE:
            yield from self._removed(node, function)
        if isinstance(node, (ast.If, ast.While)):
            yield from self._condition(node.test, function, has_true=isinstance(node, ast.If))
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr) and child is not getattr(node, "annotation", None):
                yield from self._expression(child, function)
            elif isinstance(child, ast.withitem):
                yield from self._expression(child.context_expr, function)
            elif isinstance(child, ast.ExceptHandler):
                yield from self._handler(child, function)
            elif isinstance(child, ast.match_case):
                yield from self._block(child.body, function)
        for name in ("body", "orelse", "finalbody"):
            yield from self._block(getattr(node, name, []), function)

    def _handler(self, node: ast.ExceptHandler, function: int) -> Iterator[Mutant]:
        if isinstance(node.type, ast.Tuple):
            for one in node.type.elts:
                yield self._without(one, function, "an exception less")
        yield from self._block(node.body, function)

    def _removed(self, node: ast.stmt, function: int) -> Iterator[Mutant]:
        if isinstance(node, ast.Return):
            if node.value is not None and ast.unparse(node.value) != "None":
                yield self._made(node.value, function, "return None", b"None")
        elif isinstance(node, ast.Break):
            yield self._made(node, function, "continue instead of break", b"continue")
        elif isinstance(node, ast.Continue):
            yield self._made(node, function, "break instead of continue", b"break")
        elif _is_removable(node):
            yield self._made(node, function, "a statement less", b"pass")

    def _swapped(self, first: ast.stmt, second: ast.stmt, function: int) -> Iterator[Mutant]:
        """Two statements in the other order; one of them calls something."""
        if not (_is_removable(first) and _is_removable(second)):
            return
        if not any(isinstance(one, ast.Call) for one in (*_walk(first), *_walk(second))):
            return
        if isinstance(first, ast.Raise) or isinstance(second, ast.Raise):
            return
        start, end = self._span(first)[0], self._span(second)[1]
        between = self._source[self._span(first)[1] : self._span(second)[0]]
        text = self._text(second) + between + self._text(first)
        yield Mutant(self._path, first.lineno, function, "two statements swapped", start, end, text)

    def _condition(self, node: ast.expr, function: int, *, has_true: bool) -> Iterator[Mutant]:
        yield self._made(node, function, "condition False", b"False")
        if has_true:
            yield self._made(node, function, "condition True", b"True")

    def _expression(self, root: ast.expr, function: int) -> Iterator[Mutant]:
        for node in _walk(root):
            if isinstance(node, ast.BoolOp):
                for one in node.values:
                    yield self._operand_less(node, one, function)
            elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
                yield self._made(node, function, "without not", self._text(node.operand))
            elif isinstance(node, ast.Compare):
                yield from self._compared(node, function)
            elif isinstance(node, ast.BinOp) and type(node.op) in _CALCULATED:
                if isinstance(node.op, ast.BitOr) and _is_type(node):
                    continue
                parts = self._text(node.left), _CALCULATED[type(node.op)], self._text(node.right)
                text = b"(%b) %b (%b)" % (parts[0], parts[1].encode(), parts[2])
                yield self._made(node, function, "another operator", b"(%b)" % text)
            elif isinstance(node, ast.IfExp):
                yield from self._condition(node.test, function, has_true=True)
            elif isinstance(node, ast.comprehension):
                for one in node.ifs:
                    yield from self._condition(one, function, has_true=True)
            elif isinstance(node, ast.Constant):
                yield from self._constant(node, function)
            elif isinstance(node, ast.Call):
                yield from self._call(node, function)

    def _operand_less(self, node: ast.BoolOp, less: ast.expr, function: int) -> Mutant:
        word = b" and " if isinstance(node.op, ast.And) else b" or "
        kept = [b"(%b)" % self._text(one) for one in node.values if one is not less]
        return self._made(node, function, "an operand less", b"(%b)" % word.join(kept), less)

    def _compared(self, node: ast.Compare, function: int) -> Iterator[Mutant]:
        for changed in range(len(node.ops)):
            text = self._text(node.left)
            for number, (operator, right) in enumerate(
                zip(node.ops, node.comparators, strict=True)
            ):
                symbols = _COMPARED if number == changed else _SYMBOLS
                text += b" %b %b" % (symbols[type(operator)].encode(), self._text(right))
            yield self._made(node, function, "another comparison", b"(%b)" % text)

    def _constant(self, node: ast.Constant, function: int) -> Iterator[Mutant]:
        value = node.value
        if isinstance(value, bool):
            yield self._made(node, function, "the other truth", b"%b" % str(not value).encode())
        elif isinstance(value, (int, float)):
            yield self._made(node, function, "one more", b"(%b)" % repr(value + 1).encode())

    def _call(self, node: ast.Call, function: int) -> Iterator[Mutant]:
        called = node.func
        if isinstance(called, ast.Name) and called.id in _NAMES:
            yield self._made(called, function, "another function", _NAMES[called.id].encode())
        elif isinstance(called, ast.Attribute) and called.attr in _NAMES:
            text = b"%b.%b" % (self._text(called.value), _NAMES[called.attr].encode())
            yield self._made(called, function, "another function", text)
        for keyword in node.keywords:
            if keyword.arg is not None:
                yield self._without(keyword, function, "an argument less")

    def _without(
        self, node: ast.AST, function: int, operator: str, *, last: ast.AST | None = None
    ) -> Mutant:
        """Without the node and the comma behind it, or the one before it."""
        start, end = self._span(node)[0], self._span(last or node)[1]
        rest = self._source[end:]
        spaces = len(rest) - len(rest.lstrip())
        if rest[spaces : spaces + 1] == b",":
            end += spaces + 1
            end += len(self._source[end:]) - len(self._source[end:].lstrip(b" "))
        else:
            start = len(self._source[:start].rstrip().removesuffix(b","))
        return Mutant(self._path, node.lineno, function, operator, start, end, b"")

    def _made(
        self, node: ast.AST, function: int, operator: str, text: bytes, at: ast.AST | None = None
    ) -> Mutant:
        start, end = self._span(node)
        return Mutant(self._path, (at or node).lineno, function, operator, start, end, text)

    def _text(self, node: ast.AST) -> bytes:
        start, end = self._span(node)
        return self._source[start:end]

    def _span(self, node: ast.AST) -> tuple[int, int]:
        first, last = self._starts[node.lineno - 1], self._starts[node.end_lineno - 1]
        return first + node.col_offset, last + node.end_col_offset


def _walk(root: ast.AST) -> Iterator[ast.AST]:
    """As ast.walk, but not into f-strings: Python 3.11 misplaces what is in them."""
    yield root
    if not isinstance(root, ast.JoinedStr):
        for child in ast.iter_child_nodes(root):
            yield from _walk(child)


def _is_removable(node: ast.stmt) -> bool:
    """True for a statement that is run for what it does, and that defines no local name."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign):
        return all(isinstance(one, (ast.Attribute, ast.Subscript)) for one in node.targets)
    return isinstance(node, (ast.AugAssign, ast.Raise, ast.Delete))


def _is_type(node: ast.BinOp) -> bool:
    """True for `X | None` as a type outside of an annotation, as in TypeAlias."""
    sides = (node.left, node.right)
    return any(isinstance(one, ast.Constant) and one.value is None for one in sides) or all(
        isinstance(one, (ast.Name, ast.BinOp)) and ast.unparse(one)[0].isupper() for one in sides
    )
