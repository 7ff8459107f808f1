"""Functions that plugins declare: which function a call runs, plain functions in threads, and annotations."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from .errors import PluginError

if TYPE_CHECKING:
    from .service import Service


#: The function of a decorator that was written with parentheses, as in ``@polls.on_connect()``.
NO_FUNCTION: Final[Any] = None


class FunctionChecks:
    """Checks the functions that a plugin declares. The base class of ``Plugin``."""

    name: str

    def _check_given(self, function: Any, decorator: str) -> None:
        """Raise ``PluginError`` if a decorator without arguments was written with parentheses."""
        if function is NO_FUNCTION:
            usage = f"@{self.name}.{decorator}"
            raise PluginError(
                f"{decorator} of plugin {self.name!r} takes no arguments; write {usage} without parentheses"
            )

    def _async_function(self, what: str, function: Any, *parameters: str) -> Callable[..., Awaitable[Any]]:
        """Return ``function``, or a coroutine function that runs it in a thread if it is a plain one.

        Raises ``PluginError`` if it is of another kind, or cannot be called with one argument for each of
        ``parameters``.
        """
        called = called_function(function)
        is_generator = inspect.isasyncgenfunction(called) or inspect.isgeneratorfunction(called)
        if is_generator or isinstance(function, type) or not callable(function):
            raise PluginError(f"{what} must be an `async def` or a plain `def` function, without yield")
        self._check_signature(what, function, *parameters)
        return function if inspect.iscoroutinefunction(called) else run_in_thread(function)

    def _check_signature(self, what: str, function: Any, *parameters: str) -> None:
        """Raise ``PluginError`` unless ``function`` can be called with one argument for each of ``parameters``."""
        signature = inspect.signature(function)
        try:
            signature.bind(*parameters)
        except TypeError:
            name, expected = getattr(function, "__name__", "handler"), ", ".join(parameters)
            sentence = f"{what} of plugin {self.name!r} is called as {name}({expected}), but is {name}{signature}"
            raise PluginError(sentence) from None


def called_function(function: Any) -> Any:
    """Return the function that a call of ``function`` runs: a ``partial`` and an object may hide it."""
    while isinstance(function, functools.partial):
        function = function.func
    is_object = not (inspect.isroutine(function) or isinstance(function, type))
    return getattr(type(function), "__call__", None) if is_object else function  # noqa: B004


def run_in_thread(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Return a coroutine function that runs ``function`` in a thread of the node."""

    @functools.wraps(function)
    async def run(service: Service, *arguments: Any) -> Any:
        result = await service.in_thread(function, service, *arguments)
        # Also if a decorator hides that the function is a coroutine function.
        return await result if inspect.isawaitable(result) else result

    return run


def may_be_bool(annotation: Any) -> bool:
    """Return True if ``annotation``, of a return value, includes bool or a type that is not built in, such as Any."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return text != "None" and re.search(r"\b(bool|object|[A-Z]\w*)\b", text) is not None
