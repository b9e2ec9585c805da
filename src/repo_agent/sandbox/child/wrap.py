"""Where the task's own files compare and calculate, and the calls of `Comparisons` that take the place of it."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator

CALLS = frozenset(
    "eq ne lt le gt ge contains countOf indexOf sub __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __contains__ __sub__ "
    "index count remove equals isclose allclose array_equal array_equiv issubset issuperset isdisjoint".split()
)
OF_MODULES = frozenset(
    "equal not_equal less less_equal greater greater_equal subtract divide true_divide isin in1d allequal "
    "setdiff1d setxor1d intersect1d union1d".split()
)
"""Such calls where they are a module's, numpy's first of all."""
GATHERING = frozenset(
    "set frozenset Counter fromkeys min max sorted union intersection difference symmetric_difference "
    "update intersection_update difference_update symmetric_difference_update "
    "sum groupby SequenceMatcher unified_diff context_diff ndiff".split()
)
"""Calls that compare what they are given with each other, and with what is there."""
PASSED_ON = frozenset("eq ne lt le gt ge contains sub __eq__ __ne__ __contains__ __sub__ isclose".split())
"""Functions that compare, and that a test may hand to another: `map(operator.eq, a, b)`."""
SAYING = frozenset({"assertIs", "assertIsNot", "assertEqual", "assertNotEqual"})
"""Assertions that may say which function something is, as comparisons and those of mocks do; nobody is handed it."""
KEYED = frozenset({"get", "pop", "setdefault", "discard"})
"""Calls that look their first argument up in a dict or a set."""
OF_LAST_CALL = frozenset({"assert_called_with", "assert_called_once_with"})
ASSERTING, OF_MOCKS = "assert_", ("assert_called", "assert_has", "assert_any", "assert_not", "assert_awaited")


class Operators(ast.NodeTransformer):
    """Puts the methods of `Comparisons` in the place of comparisons and calculations, once pytest has rewritten."""

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        parts: list[ast.expr] = []
        left = node.left
        for number, (operator, right) in enumerate(zip(node.ops, node.comparators, strict=True), 1):
            name = "@compare" if number == len(node.ops) else "@link"
            parts.append(_call(name, left, ast.Constant(type(operator).__name__), right))
            left = _call("@linked")
        whole = parts[0] if len(parts) == 1 else ast.BoolOp(ast.And(), parts)
        return ast.copy_location(whole, node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        made = _call("@calculate", node.left, ast.Constant(type(node.op).__name__), node.right)
        return ast.copy_location(made, node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        self.generic_visit(node)
        if not _is_plain(node.target):
            return node
        before = copy.deepcopy(node.target)
        before.ctx = ast.Load()
        value = _call("@change", before, ast.Constant(type(node.op).__name__), node.value)
        return ast.copy_location(ast.Assign([node.target], value), node)


class Calls(ast.NodeTransformer):
    """Wraps what else compares, as it is written: calls by their names, keys, `match`; and marks what tests bring."""

    def __init__(self) -> None:
        self._called: ast.expr | None = None
        self._named: set[ast.expr] = set()
        """Expressions that say which function something is."""
        self._aliases: dict[str, str] = {}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        self._aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self._named |= {node.left, *node.comparators}
        self.generic_visit(node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        name = getattr(node.func, "attr", "") or self._aliases.get(word := getattr(node.func, "id", ""), word)
        if name in SAYING or name.startswith(OF_MOCKS):
            self._named |= {*node.args}
        self._called = node.func
        self.generic_visit(node)
        if name == "approx":
            return ast.copy_location(_call("@own", node), node)
        if name in OF_LAST_CALL and isinstance(node.func, ast.Attribute) and node.args:
            node.func.value = _call("@receiver", node.func.value)
            node.args = [_together(True, node.args, "@received")]
        asserting = name.startswith(ASSERTING) and not name.startswith(OF_MOCKS)
        judge = "@gathered" if name in GATHERING else "@of_module" if name in OF_MODULES else "@arguments"
        if (name in CALLS or asserting) and any(keyword.arg for keyword in node.keywords):
            node.keywords = [_by_name(not node.args, node.keywords)]
        if (name in CALLS or asserting or judge != "@arguments") and node.args:
            method = isinstance(node.func, ast.Attribute)
            if isinstance(node.func, ast.Attribute):
                node.func.value = _call("@receiver", node.func.value)
            node.args = [_together(method, node.args, judge)]
        elif name in KEYED and isinstance(node.func, ast.Attribute) and node.args and _may_answer(node.args[0]):
            node.func.value, node.args[0] = _looked_up(node.func.value, node.args[0])
        return node

    def visit_Set(self, node: ast.Set) -> ast.expr:
        self.generic_visit(node)
        if len(node.elts) > 1 and any(map(_may_answer, node.elts)):
            node.elts = [_together(False, node.elts)]
        return node

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        self.generic_visit(node)
        keys = [key for key in node.keys if key is not None]
        if len(keys) > 1 and len(keys) == len(node.keys) and any(map(_may_answer, keys)):
            said = [one for pair in zip(keys, node.values, strict=True) for one in pair]
            return ast.copy_location(_call("@pairs", *said), node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Store) and not isinstance(node.slice, (ast.Constant, ast.Slice, ast.Tuple)):
            node.value, node.slice = _looked_up(node.value, node.slice)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._reference(node, node.id)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        is_called = self._called is node
        self.generic_visit(node)
        return node if is_called and node.attr != "ANY" else self._reference(node, node.attr)

    def _reference(self, node: ast.Name | ast.Attribute, name: str) -> ast.expr:
        if name == "ANY":
            return _own(node)
        handed = self._called is not node and node not in self._named
        if name in PASSED_ON and handed and isinstance(node.ctx, ast.Load):
            return ast.copy_location(_call("@passed_on", node), node)
        return node

    def visit_Match(self, node: ast.Match) -> ast.stmt:
        self.generic_visit(node)
        if any(isinstance(part, ast.MatchValue) for case in node.cases for part in ast.walk(case.pattern)):
            node.subject = _call("@subject", node.subject)
        return node


def _own(node: ast.Name | ast.Attribute) -> ast.expr:
    return ast.copy_location(_call("@own", node), node) if isinstance(node.ctx, ast.Load) else node


def _may_answer(node: ast.expr) -> bool:
    return not isinstance(node, (ast.Constant, ast.Starred))


def _looked_up(holder: ast.expr, key: ast.expr) -> tuple[ast.expr, ast.expr]:
    return _call("@receiver", holder), _call("@key", key)


def _together(has_receiver: bool, values: list[ast.expr], judge: str = "@arguments") -> ast.Starred:
    return ast.Starred(_call(judge, ast.Constant(has_receiver), *values), ast.Load())


def _by_name(is_first: bool, keywords: list[ast.keyword]) -> ast.keyword:
    keys: list[ast.expr | None] = [ast.Constant(one.arg) if one.arg else None for one in keywords]
    values = ast.Dict(keys, [one.value for one in keywords])
    return ast.keyword(None, _call("@named", ast.Constant(is_first), values))


def _is_plain(target: ast.expr) -> bool:
    """Whether looking a place up once more asks nobody: a name, an attribute of one, a constant key of one."""
    if isinstance(target, ast.Attribute) or (
        isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant)
    ):
        return isinstance(target.value, ast.Name)
    return isinstance(target, ast.Name)


def _call(name: str, *values: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(values), [])


def fix_locations(tree: ast.Module) -> None:
    """As of ast, but for what pytest puts there: it has a beginning and no end, and would be given the module's."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.stmt, ast.expr)) and getattr(node, "end_lineno", None) is None:
            node.end_lineno = getattr(node, "lineno", None)
            node.end_col_offset = getattr(node, "col_offset", None)
    ast.fix_missing_locations(tree)


def first_statement(tree: ast.Module) -> int:
    """Where an import may go: after the docstring and `from __future__ import`."""
    at = 0
    for number, statement in enumerate(tree.body):
        text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if (number == 0 and text) or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__"):
            at = number + 1
    return at


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def mark_ends(tree: ast.Module, path: str) -> set[str]:
    """Let each test function of the module and of its classes say that it has come to its end, or returns; what they
    say. None that may be meant to end early: by a decorator of the file's own, or one that wants an exception."""
    defined = (*FUNCTIONS, ast.ClassDef)
    own, ends = {node.name for node in ast.walk(tree) if isinstance(node, defined)}, set()
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for function, base in _tests(tree):
        decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
        early = any("raises" in text or re.split(r"\W", text)[0] in own for text in decorators)
        idle = isinstance(function, ast.AsyncFunctionDef) and base and "Async" not in base
        if early or idle or any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in ast.walk(function)):
            continue
        end = end_of(path, min(node.lineno for node in (function, *function.decorator_list)))
        said = ast.Expr(_call("@ended", ast.Constant(end)))
        function.body = [*map(_Returns(said).visit, function.body), said]
        function.body = [part for parts in function.body for part in (parts if isinstance(parts, list) else [parts])]
        ends.add(end)
    return ends


def end_of(path: str, line: int) -> str:
    """What a function that begins in a line, decorators with it, says at its end."""
    return f"{path}:{line}"


def _tests(node: ast.AST, base: str = "") -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Functions that may be tests, each with what its class inherits."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            if child.name.startswith(("test", "runTest")):
                yield child, base
        elif isinstance(child, ast.ClassDef):
            yield from _tests(child, " ".join(map(ast.unparse, child.bases)))
        elif not isinstance(child, ast.expr):
            yield from _tests(child, base)


class _Returns(ast.NodeTransformer):
    """Puts a statement before each return, those of functions inside aside."""

    def __init__(self, said: ast.stmt) -> None:
        self._said = said

    def visit_Return(self, node: ast.Return) -> list[ast.stmt]:
        return [self._said, node]

    def _as_it_is(self, node: ast.AST) -> ast.AST:
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = _as_it_is
