"""Finds calls that block the event loop in the coroutine functions of a module, by reading its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final, NamedTuple

#: Functions that wait, by their full names, each with what to call instead. ``.*`` stands for all names of a module.
BLOCKING: Final = {
    "time.sleep": "await asyncio.sleep(…)",
    "requests.*": "an async client, such as aiohttp or httpx.AsyncClient",
    "urllib.request.*": "an async client, such as aiohttp or httpx.AsyncClient",
    "http.client.*": "an async client, such as aiohttp or httpx.AsyncClient",
    "httpx.get": "httpx.AsyncClient",
    "httpx.post": "httpx.AsyncClient",
    "httpx.request": "httpx.AsyncClient",
    "httpx.Client": "httpx.AsyncClient",
    "subprocess.run": "await asyncio.create_subprocess_exec(…)",
    "subprocess.call": "await asyncio.create_subprocess_exec(…)",
    "subprocess.check_call": "await asyncio.create_subprocess_exec(…)",
    "subprocess.check_output": "await asyncio.create_subprocess_exec(…)",
    "subprocess.Popen": "await asyncio.create_subprocess_exec(…)",
    "os.system": "await asyncio.create_subprocess_shell(…)",
    "os.popen": "await asyncio.create_subprocess_shell(…)",
    "socket.create_connection": "await asyncio.open_connection(…)",
    "socket.getaddrinfo": "await loop.getaddrinfo(…)",
    "socket.gethostbyname": "await loop.getaddrinfo(…)",
    "sqlite3.connect": "a plain def function, or await ctx.in_thread(…)",
    "psycopg2.connect": "psycopg.AsyncConnection",
    "psycopg.connect": "psycopg.AsyncConnection",
    "pymysql.connect": "an async driver",
    "redis.Redis": "redis.asyncio.Redis",
    "smtplib.*": "a plain def function, or await ctx.in_thread(…)",
    "shutil.*": "await ctx.in_thread(…)",
    "open": "await ctx.in_thread(…)",
    "input": "nothing: a server has no terminal",
}
#: Methods of ``pathlib.Path`` that read or write files. No other object is likely to have a method of this name.
_PATH_METHODS: Final = ("read_text", "read_bytes", "write_text", "write_bytes")


class BlockingCall(NamedTuple):
    """A call of ``name`` on ``line``, in the coroutine function ``function``. ``instead`` does not block."""

    line: int
    name: str
    function: str
    instead: str


def find_blocking_calls(source: str) -> list[BlockingCall]:
    """Return the blocking calls in all coroutine functions of a module. Raises ``SyntaxError``."""
    tree = ast.parse(source)
    names = _imported_names(tree)
    found = [
        call
        for function in ast.walk(tree)
        if isinstance(function, ast.AsyncFunctionDef)
        for call in _calls_in(function, names)
    ]
    return sorted(found)


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """Return the full name of each name that the module imports, in any place."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _calls_in(function: ast.AsyncFunctionDef, names: dict[str, str]) -> Iterator[BlockingCall]:
    for node in _own_nodes(function):
        if not isinstance(node, ast.Call):
            continue
        name = _full_name(node.func, names)
        if name is not None and (instead := _instead_of(name)) is not None:
            yield BlockingCall(node.lineno, name, function.name, instead)
        elif isinstance(node.func, ast.Attribute) and node.func.attr in _PATH_METHODS:
            yield BlockingCall(node.lineno, node.func.attr, function.name, BLOCKING["open"])


def _own_nodes(function: ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """Yield the nodes that run on the event loop when the function does, without those of functions inside of it."""
    nodes: list[ast.AST] = [*function.body]
    while nodes:
        node = nodes.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes.extend(ast.iter_child_nodes(node))


def _full_name(node: ast.expr, names: dict[str, str]) -> str | None:
    """Return the full name of what is called, or None if it is not a name or an attribute of an imported name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id if node.id in ("open", "input") else None)
    if isinstance(node, ast.Attribute) and (base := _full_name(node.value, names)) is not None:
        return f"{base}.{node.attr}"
    return None


def _instead_of(name: str) -> str | None:
    if name in BLOCKING:
        return BLOCKING[name]
    while "." in name:
        name = name.rpartition(".")[0]
        if (instead := BLOCKING.get(f"{name}.*")) is not None:
            return instead
    return None
