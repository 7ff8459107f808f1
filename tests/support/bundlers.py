"""Builds an application with the bundlers of front-end developers, and looks for private data in the result."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node_tools import MODULES, NODE, has_modules, run

#: The arguments are the folder of the Node modules, that of the project, the tool, and the folder for the result.
BUILD = """
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, project, tool, output] = process.argv.slice(2);
const require = createRequire(join(modules, "x.js"));
const [name, format] = tool.split("-");

if (name.startsWith("vite")) {
  const { build } = await import(pathToFileURL(join(modules, name, "dist", "node", "index.js")));
  await build({ root: project, configFile: false, logLevel: "warn", build: { outDir: output } });
} else if (name === "webpack") {
  const compiler = require("webpack")({ mode: "production", context: project, output: { path: output } });
  const stats = await new Promise((resolve, reject) =>
    compiler.run((error, stats) => (error ? reject(error) : resolve(stats))));
  console.log(stats.toString({ all: false, errors: true, warnings: true }));
  process.exitCode = stats.hasErrors() ? 1 : 0;
} else if (name === "esbuild") {
  const options = { absWorkingDir: project, entryPoints: ["src/index.js"], outdir: output };
  await require("esbuild").build({ ...options, format, bundle: true, minify: true });
}
"""
#: The modules that each tool needs.
TOOLS = {
    "vite6": ("vite6",),
    "vite7": ("vite7",),
    "vite8": ("vite8",),
    "webpack": ("webpack",),
    "next": ("next", "react", "react-dom"),
    "esbuild-esm": ("esbuild",),
    "esbuild-iife": ("esbuild",),
    "esbuild-cjs": ("esbuild",),
}
#: The tools that are installed.
INSTALLED = [tool for tool, modules in TOOLS.items() if has_modules(*modules)]

#: The name of the folder of the project, which is a part of every path of the build machine.
FOLDER = "home-of-the-developer"
#: In each planted file. It has a multiple of three bytes, so that its base64 is the same wherever it is repeated.
SECRET = "private key!"
#: Private files. Bundlers embed assets below 4 KB as base64, and write others into files.
PLANTED = {
    **dict.fromkeys((".env", ".npmrc", "id_rsa", "server.key", "service-account.json", "notes.md"), SECRET * 500),
    "small.txt": SECRET * 5,
    "other.js": f'console.log("{SECRET}");',
}
NEXT_CONFIG = 'export default { output: "export", turbopack: { root: import.meta.dirname + "/../.." } };'
PAGE = '<!doctype html><link rel="icon" href="data:,"><script type="module" src="%s"></script>'


@contextmanager
def project(files: dict[str, str]) -> Iterator[Path]:
    """Create a project with ``files``, and with private files in each folder; it is deleted at the end.

    The project is next to the Node modules, because Next.js needs them in a folder above.
    """
    with tempfile.TemporaryDirectory(dir=MODULES.parent) as parent:
        folder = Path(parent, FOLDER)
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for directory in (Path(parent), folder, *(path for path in folder.rglob("*") if path.is_dir())):
            for name, text in PLANTED.items():
                (directory / name).write_text(text)
        yield folder


def build(tool: str, folder: Path) -> tuple[Path, str]:
    """Build ``src/index.js`` of a project. Return the folder of the files to publish, and what the tool wrote."""
    if tool == "next":
        (folder / "next.config.mjs").write_text(NEXT_CONFIG)
        done = run(str(NODE), str(MODULES / "next/dist/bin/next"), "build", cwd=folder, NEXT_TELEMETRY_DISABLED="1")
        return folder / "out", done.stdout + done.stderr
    (folder / "index.html").write_text(PAGE % "/src/index.js")
    (folder / "build.mjs").write_text(BUILD)
    output = folder.parent / "output"
    done = run(str(NODE), "build.mjs", str(MODULES), str(folder), tool, str(output), cwd=folder)
    if not tool.startswith("vite"):
        name = "main.js" if tool == "webpack" else "index.js"
        kind = "module" if tool == "esbuild-esm" else "text/javascript"
        (output / "index.html").write_text((PAGE % f"/{name}").replace("module", kind))
    return output, done.stdout + done.stderr


def private_data(output: Path) -> list[str]:
    """Return the names of the files below ``output`` that contain a planted file or a path of the build machine."""
    needles = (SECRET.encode(), base64.b64encode(SECRET.encode()), FOLDER.encode())
    files = [path for path in output.rglob("*") if path.is_file()]
    return [path.name for path in files if any(needle in path.read_bytes() for needle in needles)]
