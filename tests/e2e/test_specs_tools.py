"""Tests of ``specs`` with the tools of their users, if these are installed: AsyncAPI's parser and TypeScript.

The tools are the Node modules ``@asyncapi/parser`` and ``typescript`` in NODE_PATH.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from node_tools import MODULES, NODE, has_modules, run

from roomcast.registry import Registry
from roomcast.specs.asyncapi import asyncapi
from roomcast.specs.typescript import typescript

PARSE = """
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
const { Parser } = createRequire(process.argv[2] + "/")("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[3], "utf8"));
const errors = diagnostics.filter(({ severity }) => severity === 0);
console.log(JSON.stringify({ errors, operations: document?.operations().all().length ?? 0 }));
"""
USE = """
import { ChatClient } from "./roomcast.js";
import "./types.js";

const client = new ChatClient("token");
client.on("task.created", (event) => { const title: string = event.data.title; console.log(title); });
client.on("animal.fed", (event) => { const name: string = event.data.keeper.name; console.log(name); });
client.send({ type: "animal.feed", room: "cage:1", data: { animal: "bear", food: "hay" } });
// @ts-expect-error: an event has no such field
client.on("task.created", (event) => event.data.nothing);
// @ts-expect-error: a bear eats no bread
client.send({ type: "animal.feed", room: "cage:1", data: { animal: "bear", food: "bread" } });
"""


if has_modules("@asyncapi/parser"):

    def test_asyncapi_is_valid(zoo_registry: Registry, tmp_path: Path) -> None:
        """AsyncAPI's parser finds all operations and no error."""
        document = asyncapi(zoo_registry)
        (tmp_path / "asyncapi.json").write_text(json.dumps(document))
        (tmp_path / "parse.mjs").write_text(PARSE)
        found = json.loads(run(str(NODE), "parse.mjs", str(MODULES), "asyncapi.json", cwd=tmp_path).stdout)
        assert found == {"errors": [], "operations": len(document["operations"])}


if has_modules("typescript"):

    def test_typescript_accepts_the_types(zoo_registry: Registry, tmp_path: Path) -> None:
        """Under ``tsc --strict``, events and commands of all plugins have their types."""
        for name in ("roomcast.js", "roomcast.d.ts"):
            (tmp_path / name).write_bytes(files("roomcast.static").joinpath(name).read_bytes())
        (tmp_path / "types.d.ts").write_text(typescript(zoo_registry))
        (tmp_path / "use.ts").write_text(USE)
        options = ("--strict", "--noEmit", "--module", "nodenext", "--target", "es2022", "use.ts", "types.d.ts")
        run(str(NODE), str(MODULES / "typescript" / "bin" / "tsc"), *options, cwd=tmp_path)
