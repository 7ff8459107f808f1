"""Finds calls of coroutine methods of a context or service that are not awaited, by reading the source of a module.

Python only warns of such a call, and nothing happens: no event is published. Only calls that are a statement of their
own are found, because other code may await the result later.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Final, NamedTuple

from ..context import Context
from ..service import Service

_CLASSES: Final = ("Context", "MemberContext", "Service")
#: The names of parameters without an annotation that are taken for a context or a service.
_NAMES: Final = ("ctx", "context", "service")


def _coroutine_methods() -> Iterator[str]:
    """Yield the names of the methods whose result must be awaited. ``publish`` is no coroutine function itself."""
    for cls in (Context, Service):
        for name, method in inspect.getmembers(cls, inspect.isfunction):
            returns = str(inspect.signature(method).return_annotation)
            if not name.startswith("_") and (inspect.iscoroutinefunction(method) or returns.startswith("Awaitable[")):
                yield name


METHODS: Final = frozenset(_coroutine_methods())


class UnawaitedCall(NamedTuple):
    """A call on ``line``. ``name`` is what is called, such as ``ctx.publish``; ``instead`` is how to call it."""

    line: int
    name: str
    function: str
    instead: str


def find_unawaited_calls(source: str) -> list[UnawaitedCall]:
    """Return the calls in all functions of a module. Raises ``SyntaxError``."""
    return sorted(_calls_in(ast.parse(source), frozenset(), None))


def _calls_in(
    node: ast.AST, receivers: frozenset[str], function: ast.FunctionDef | ast.AsyncFunctionDef | None
) -> Iterator[UnawaitedCall]:
    """Yield the calls below ``node``, which is in ``function``. ``receivers`` are names of contexts and services."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function, receivers = node, receivers | {*_receivers(node)}
    if (
        function is not None
        and isinstance(node, ast.Expr)
        and isinstance(call := node.value, ast.Call)
        and isinstance(method := call.func, ast.Attribute)
        and method.attr in METHODS
        and isinstance(method.value, ast.Name)
        and method.value.id in receivers
    ):
        name = f"{method.value.id}.{method.attr}"
        is_async = isinstance(function, ast.AsyncFunctionDef)
        instead = f"await {name}(…)" if is_async else f"{method.value.id}.from_thread({name}, …)"
        yield UnawaitedCall(node.lineno, name, function.name, instead)
    for child in ast.iter_child_nodes(node):
        yield from _calls_in(child, receivers, function)


def _receivers(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for parameter in (*function.args.posonlyargs, *function.args.args):
        annotation = "" if parameter.annotation is None else ast.unparse(parameter.annotation)
        if (parameter.arg in _NAMES and not annotation) or annotation.strip("'\"").partition("[")[0] in _CLASSES:
            yield parameter.arg
