"""The types in roomcast.d.ts, if the TypeScript compiler is installed: what compiles, and what each error names."""

from __future__ import annotations

import re
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from node_tools import MODULES, NODE, TIMEOUT, has_modules

from roomcast.registry import Registry
from roomcast.specs.typescript import typescript

HEAD = """
import { ChatClient, type Member, type RoomMessage, type RoomState } from "./roomcast.js";
import "./types.js";

const client = new ChatClient("token");
const room = client.room("channel:1", { presence: true, last: 50, messages: true });
"""
#: Each of these lines compiles.
GOOD = """
const remove: () => void = room.on("message", ({ data, id, room }) => data.content.length + id.length + room.length);
room.on("user_joined", ({ id, room }) => { const none: undefined = id; return [none, room.length]; });
room.on("*", (event) => event.type === "message.edited" && event.data.message_id.length);
room.on("messageschanged", ({ data }) => { const messages: readonly RoomMessage[] = data.messages; return messages; });
room.on("statechanged", ({ data }) => { const state: RoomState = data.state; return [state, data.error?.code]; });
room.on("animal.fed", (event) => event.data.keeper.name.length + event.id.length);
client.on("message", (event) => event.id.length + event.data.content.length);
client.on("animal.fed", (event) => event.data.keeper.name.length);
client.on("*", (frame) => frame.type);
client.send({ type: "ping" });
client.send({ type: "animal.feed", room: "cage:1", data: { animal: "bear", food: "hay" } }, { timeout: 5 });
client.send({ type: "send_message", data: { content: "x" } }).then(({ data }) => data.event_id.length);
room.command("edit_message", { message_id: "1", content: "x" }, { key: "1" }).then(({ data }) => data.event_id);
room.command("ping");
room.command("members").then(({ data }) => { const members: Member[] = data.members; return members; });
room.send("x", { reply_to: 1 }, { key: "1", timeout: 5 }).then(({ data }) => data.event_id.length);
room.history({ limit: 3 }).then(({ events, more }) => [events[0].id, more]);
(async () => { for await (const event of room) if (event.type === "message") event.data.content.length; })();
remove();
"""
#: Each of these lines does not compile, and the error names what is in the comment.
BAD = """
room.on("mesage", () => {}); // "mesage"
client.on("mesage", () => {}); // "mesage"
client.off("mesage", () => {}); // "mesage"
room.on("connected", () => {}); // "connected"
room.on("message", (event) => event.data.contnt); // contnt
room.on("user_joined", (event) => event.id.length); // event.id
client.on("message", (event) => event.room.length); // event.room
client.on("animal.fed", (event) => event.data.keper); // keper
room.on("memberschanged", ({ data }) => data.membrs); // membrs
client.send({ type: "send_mesage", data: { content: "x" } }); // "send_mesage"
client.send({ type: "send_message", data: { contnt: "x" } }); // contnt
client.send({ type: "send_message", data: { content: 1 } }); // content
client.send({ type: "send_message", data: {} }); // content
client.send({ type: "send_message" }); // data
client.send({ type: "animal.feed", room: "cage:1", data: { animal: "bear", food: "bread" } }); // food
room.command("edit_mesage", {}); // "edit_mesage"
room.command("edit_message", { message_id: "1" }); // content
room.command("edit_message"); // 2-3 arguments
room.command("set_presence", { status: 1 }); // status
room.send({ content: "x" }); // { content: string; }
room.setPresence({ stats: "away" }); // stats
room.history({ limit: "all" }); // limit
client.room("channel:1", { lst: 50 }); // lst
client.room(1); // number
room.members.push(); // push
room.state = "left"; // state
"""


def compile_errors(folder: Path, registry: Registry, lines: str) -> dict[str, str]:
    """Compile HEAD and ``lines`` under ``tsc --strict``. Return the errors, by the line of the source.

    An error has the compiler's sentences and the source from the column that the compiler points to.
    """
    for name in ("roomcast.js", "roomcast.d.ts"):
        (folder / name).write_bytes(files("roomcast.static").joinpath(name).read_bytes())
    (folder / "types.d.ts").write_text(typescript(registry))
    source = f"{HEAD}{lines}"
    (folder / "use.ts").write_text(source)
    options = ("--strict", "--noEmit", "--module", "nodenext", "--target", "es2022", "use.ts", "types.d.ts")
    command = (str(NODE), str(MODULES / "typescript" / "bin" / "tsc"), *options)
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT).stdout
    errors: dict[str, str] = {}
    for error in re.split(r"^(?=\S)", output, flags=re.MULTILINE)[1:]:
        found = re.match(r"use\.ts\((\d+),(\d+)\): error (.*)", error, re.DOTALL)
        assert found is not None, error
        line = source.splitlines()[int(found[1]) - 1]
        errors[line] = f"{errors.get(line, '')}{line[int(found[2]) - 1 :].partition(' //')[0]}: {found[3]}"
    return errors


if has_modules("typescript"):

    def test_right_use_compiles(zoo_registry: Registry, tmp_path: Path) -> None:
        """Ids, rooms and data have the types of the event or command, also of plugins."""
        assert compile_errors(tmp_path, zoo_registry, GOOD) == {}

    def test_wrong_use_does_not_compile(zoo_registry: Registry, tmp_path: Path) -> None:
        """Unknown types and wrong data are errors, and the compiler names the type or the field."""
        errors = compile_errors(tmp_path, zoo_registry, BAD)
        expected = [line.partition(" // ") for line in BAD.splitlines() if line]
        assert [line for line, _, name in expected if name not in errors.get(f"{line} // {name}", "")] == []
        assert len(errors) == len(expected)

    @pytest.mark.parametrize("target", ["es2018", "esnext"])
    def test_declarations_need_no_option_of_the_compiler(tmp_path: Path, target: str) -> None:
        """The declarations themselves compile for old and new targets, without `skipLibCheck`."""
        (tmp_path / "roomcast.d.ts").write_bytes(files("roomcast.static").joinpath("roomcast.d.ts").read_bytes())
        compiler = str(MODULES / "typescript" / "bin" / "tsc")
        command = (str(NODE), compiler, "--strict", "--noEmit", "--target", target, "roomcast.d.ts")
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)
        assert done.stdout == ""
