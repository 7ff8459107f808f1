"""TypeScript declarations of a server's events and commands, for the client's ``on`` and ``send``."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from ..registry import Registry
from .catalog import Entry, JsonSchema, catalog

#: Where the client's own declarations are, as the file that imports these sees it.
CLIENT: Final = "./roomcast.js"
#: Declared by the client itself.
_KNOWN: Final = frozenset(
    {"join_room", "leave_room", "ping", "refresh_token", "send_message", "user_joined", "user_left"}
)
_IDENTIFIER: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")


def typescript(registry: Registry, client: str = CLIENT) -> str:
    """Return a declaration file that adds the types of these plugins to those of the module ``client``."""
    entries = [entry for entry in catalog(registry) if entry.type not in _KNOWN]
    events = [entry for entry in entries if entry.kind == "event"]
    commands = [entry for entry in entries if entry.kind == "command"]
    return "\n".join(
        [
            "// What a roomcast server speaks, beyond what its client knows by itself. Made by `roomcast schema`.",
            "",
            f'import type {{ Frame }} from "{client}";',
            "",
            f'declare module "{client}" {{',
            "  interface Events {",
            *(line for entry in events for line in _event(entry)),
            "  }",
            "",
            "  interface Commands {",
            *(line for entry in commands for line in _command(entry)),
            "  }",
            "}",
            "",
        ]
    )


def _event(entry: Entry) -> list[str]:
    name = json.dumps(entry.type)
    return [*_comment(entry.description, 4), f"    {name}: Frame<{name}, {_data(entry, 4)}>;"]


def _command(entry: Entry) -> list[str]:
    reply = "{ event_id: string }" if entry.reply == "sent" else "Record<string, unknown>"
    optional = "" if entry.data and entry.data.get("required") else "?"
    return [
        *_comment(entry.description, 4),
        f"    {json.dumps(entry.type)}: {{",
        f"      data{optional}: {_data(entry, 6)};",
        f"      reply: Frame<{json.dumps(entry.reply)}, {reply}>;",
        "    };",
    ]


def _comment(text: str, indent: int) -> list[str]:
    line = " ".join(text.split()).replace("*/", "*\\/")
    return [f"{' ' * indent}/** {line} */"] if line else []


def _data(entry: Entry, indent: int) -> str:
    return _type(entry.data or {"type": "object"}, entry.data or {}, indent, ())


def _type(schema: JsonSchema, root: JsonSchema, indent: int, within: tuple[str, ...]) -> str:
    """The type of ``schema``; ``within`` are the references it is inside of: one may contain itself."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return "unknown" if name in within else _type(root["$defs"][name], root, indent, (*within, name))
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " | ".join(dict.fromkeys(_type(one, root, indent, within) for one in schema[several]))
    if "allOf" in schema:
        return " & ".join(dict.fromkeys(_type(one, root, indent, within) for one in schema["allOf"]))
    types = schema.get("type", "object" if "properties" in schema else None)
    kinds = types if isinstance(types, list) else [types]
    return " | ".join(dict.fromkeys(_simple(kind, schema, root, indent, within) for kind in kinds))


def _simple(kind: Any, schema: JsonSchema, root: JsonSchema, indent: int, within: tuple[str, ...]) -> str:
    if kind == "array":
        items = _type(schema.get("items", {}), root, indent, within)
        return f"({items})[]" if " " in items else f"{items}[]"
    if kind == "object":
        return _object(schema, root, indent, within)
    return {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}.get(
        kind, "unknown"
    )


def _object(schema: JsonSchema, root: JsonSchema, indent: int, within: tuple[str, ...]) -> str:
    properties = schema.get("properties")
    if not properties:
        values = schema.get("additionalProperties")
        return f"Record<string, {_type(values, root, indent, within) if isinstance(values, dict) else 'unknown'}>"
    pad = " " * (indent + 2)
    lines = []
    for name, inner in properties.items():
        optional = "" if name in schema.get("required", ()) else "?"
        shown = name if _IDENTIFIER.fullmatch(name) else json.dumps(name)
        lines += _comment(str(inner.get("description", "")), indent + 2)
        lines.append(f"{pad}{shown}{optional}: {_type(inner, root, indent + 2, within)};")
    return "{\n" + "\n".join(lines) + f"\n{' ' * indent}}}"
