"""Checked code: functions on the path of a decision, compiled anew so that their sets are seen.

No profiler is told when a loop runs over a set, or what C code calls back. So while a strict replay
runs, each function on the path has the code of its source with a few expressions put through the
functions of ``marblemaker.set_order``: what is iterated, unpacked, handed to ``list``, ``join`` and
their like, compared by ``is``; and ``id``, ``hash``. All else is as it was, line for line.
"""

from __future__ import annotations

import ast
import gc
import linecache
import warnings
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Final

from marblemaker.forbidden import FORBIDDEN_NAMES

__all__ = ["checked_code", "functions"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What takes any iterable and keeps its order, by the name it is called by.
_SENSITIVE: Final = _words(
    """
    list tuple iter next enumerate zip map filter dict str repr format print deque OrderedDict
    Counter defaultdict join extend extendleft update fromkeys from_iterable chain product
    permutations combinations combinations_with_replacement islice cycle accumulate starmap
    takewhile dropwhile filterfalse groupby pairwise batched zip_longest reduce array asarray
    fromiter concat mean fmean median mode stdev variance pstdev pvariance dumps encode writelines
    choice choices sample of merge gather nlargest nsmallest heapify insort Series DataFrame
    ref proxy WeakSet WeakValueDictionary WeakKeyDictionary finalize
    gmtime localtime ctime asctime strftime mktime fromtimestamp astimezone RandomState
    """
)
_FREE_CALLS: Final = _words(
    "any all set frozenset sorted min max len fsum union intersection difference "
    "symmetric_difference issubset issuperset isdisjoint"
)
_NO_SET_CALLS: Final = _words(
    "range enumerate zip sorted list tuple reversed map filter len str int float round abs repr "
    "items keys values split"
)
_NO_SET: Final = (
    ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.ListComp, ast.DictComp, ast.GeneratorExp,
    ast.JoinedStr, ast.Lambda, ast.Compare, ast.UnaryOp, ast.Await,
)  # fmt: skip
_ARITHMETIC: Final = (ast.Add, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult)


def _identifier(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def _cannot_be_a_set(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return _identifier(node.func) in _NO_SET_CALLS
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, _ARITHMETIC)
    return isinstance(node, _NO_SET)


class _Checked(ast.NodeTransformer):
    """Put the expressions that matter through the helpers."""

    def __init__(self) -> None:
        self._in_hash = False
        self._free: dict[ast.expr, str] = {}
        """Comprehensions whose order cannot show, and the helper for what they iterate."""

    def _helper(self, name: str, at: ast.expr, *args: ast.expr) -> ast.expr:
        called = ast.Call(ast.Name(f"__marble_{name}__", ast.Load()), list(args), [])
        return ast.copy_location(called, at)

    def _order(self, node: ast.expr) -> ast.expr:
        visited: ast.expr = self.visit(node)
        return visited if _cannot_be_a_set(node) else self._helper("ordered", node, visited)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        before, self._in_hash = self._in_hash, node.name == "__hash__"
        self.generic_visit(node)
        self._in_hash = before
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        node.iter = self._order(node.iter)
        node.target = self.visit(node.target)
        node.body = [self.visit(one) for one in node.body]
        node.orelse = [self.visit(one) for one in node.orelse]
        return node

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    ) -> ast.AST:
        free = "" if isinstance(node, ast.SetComp) else self._free.get(node)
        for loop in node.generators:
            if free is None:
                loop.iter = self._order(loop.iter)
            else:
                loop.iter = self.visit(loop.iter)
                if free:
                    loop.iter = self._helper(free, loop.iter, loop.iter)
            loop.ifs = [self.visit(one) for one in loop.ifs]
        for name in ("elt", "key", "value"):
            if hasattr(node, name):
                setattr(node, name, self.visit(getattr(node, name)))
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def visit_Starred(self, node: ast.Starred) -> ast.AST:
        load = isinstance(node.ctx, ast.Load)
        node.value = self._order(node.value) if load else self.visit(node.value)
        return node

    def visit_Set(self, node: ast.Set) -> ast.AST:
        node.elts = [self._unstarred(one) for one in node.elts]
        return node

    def _unstarred(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Starred):
            node.value = self.visit(node.value)
            return node
        visited: ast.expr = self.visit(node)
        return visited

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        unpacks = any(
            isinstance(target, (ast.Tuple, ast.List))
            or (isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice))
            for target in node.targets
        )
        node.value = self._order(node.value) if unpacks else self.visit(node.value)
        node.targets = [self.visit(target) for target in node.targets]
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        adds = isinstance(node.op, ast.Add)
        node.value = self._order(node.value) if adds else self.visit(node.value)
        node.target = self.visit(node.target)
        return node

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.AST:
        node.value = self._order(node.value)
        return node

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        node.value = self._order(node.value)
        if node.format_spec is not None:
            node.format_spec = self.visit(node.format_spec)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        visited = node
        self.generic_visit(visited)
        if len(node.ops) > 1 or not isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            return visited
        sides = [node.left, node.comparators[0]]
        if any(_is_singleton(side) for side in sides):
            return visited
        same = self._helper("same", node, *sides)
        if isinstance(node.ops[0], ast.Is):
            return same
        return ast.copy_location(ast.UnaryOp(ast.Not(), same), node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._hand_on(node, node.id)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        # What an attribute is taken of is no function that is handed on.
        node.value = self._plain(node.value)
        return self._hand_on(node, node.attr)

    def _plain(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Name):
            return node
        if isinstance(node, ast.Attribute):
            node.value = self._plain(node.value)
            return node
        visited: ast.expr = self.visit(node)
        return visited

    def _hand_on(self, node: ast.Name | ast.Attribute, name: str) -> ast.AST:
        if not isinstance(node.ctx, ast.Load) or name not in FORBIDDEN_NAMES:
            return node
        if name in ("id", "hash") and (self._in_hash or isinstance(node, ast.Attribute)):
            return node
        return self._helper("named", node, node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = _identifier(node.func)
        keyed = any(word.arg == "key" for word in node.keywords)
        if name in _FREE_CALLS and not keyed:
            self._free |= {arg: "" for arg in node.args if isinstance(arg, ast.expr)}
        if name == "sum" and node.args:
            self._free[node.args[0]] = "note"
        if name in ("id", "hash"):
            node.func = self.visit(node.func)
        else:
            node.func = self._plain(node.func)
        free = name in _FREE_CALLS and not keyed
        node.args = [self._unstarred(a) if free else self.visit(a) for a in node.args]
        for word in node.keywords:
            word.value = self.visit(word.value)
        if name == "sum" and node.args:
            return self._through("sum", node)
        pops = name == "pop" and not node.args and isinstance(node.func, ast.Attribute)
        if pops or name in _SENSITIVE or (name in ("sorted", "min", "max") and keyed):
            return self._through("call", node)
        return node

    def _through(self, helper: str, node: ast.Call) -> ast.AST:
        called = ast.Name(f"__marble_{helper}__", ast.Load())
        checked = ast.Call(called, [node.func, *node.args], node.keywords)
        return ast.copy_location(checked, node)


def _is_singleton(node: ast.expr) -> bool:
    """None, True, False, ... or a type: these are compared by ``is`` as they should be."""
    if isinstance(node, ast.Constant):
        return node.value is None or isinstance(node.value, (bool, type(...)))
    return isinstance(node, ast.Call) and _identifier(node.func) == "type"


_cache: dict[str, tuple[str, dict[CodeType, CodeType]]] = {}


def checked_code(file: str) -> dict[CodeType, CodeType]:
    """Code of each function in a source file, as it is: the code to run instead.

    Empty where the source is not there, or is none; only code that differs is in it.
    """
    linecache.checkcache(file)
    source = "".join(linecache.getlines(file))
    known = _cache.get(file)
    if known is not None and known[0] == source:
        return known[1]
    pairs: dict[CodeType, CodeType] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler gave its warnings when it was loaded
            tree = ast.parse(source, file)
            plain = compile(tree, file, "exec", dont_inherit=True)
            checked = compile(
                ast.fix_missing_locations(_Checked().visit(tree)), file, "exec", dont_inherit=True
            )
    except (SyntaxError, ValueError):
        pass
    else:
        pairs = {old: new for old, new in _pairs(plain, checked) if old != new}
    _cache[file] = source, pairs
    return pairs


def _pairs(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    inside = [[one for one in code.co_consts if isinstance(one, CodeType)] for code in (old, new)]
    if [one.co_name for one in inside[0]] != [one.co_name for one in inside[1]]:
        return
    for a, b in zip(*inside, strict=True):
        yield a, b
        yield from _pairs(a, b)


def functions() -> list[FunctionType]:
    """Every function there is in this process."""
    if gc.get_freeze_count():
        # What is frozen is hidden from the list.
        gc.unfreeze()
        found = [one for one in gc.get_objects() if type(one) is FunctionType]
        gc.freeze()
        return found
    return [one for one in gc.get_objects() if type(one) is FunctionType]
