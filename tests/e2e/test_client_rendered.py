"""roomcast.js on a server that renders pages, in Node, if it is installed: the client is created and not connected."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from node_tools import NODE, run

MODULE = Path(str(files("roomcast.static"))) / "roomcast.js"
PROGRAM = """
import { ChatClient, DEFAULTS } from %s;
const attempt = (make) => {
  try {
    return make().state;
  } catch (error) {
    return String(error);
  }
};
const client = new ChatClient("a token", { url: %s });
console.log(JSON.stringify({
  defaults: [DEFAULTS.url ?? null, DEFAULTS.worker ?? null],
  created: client.state,
  connected: attempt(() => client.connect()),
  missing: attempt(() => new ChatClient("a token")),
}));
"""


def render(folder: Path, url: str, *options: str) -> dict[str, Any]:
    """Run PROGRAM with ``url``, and return what it prints."""
    program = folder / "program.mjs"
    program.write_text(PROGRAM % (json.dumps(MODULE.as_uri()), json.dumps(url)))
    found: dict[str, Any] = json.loads(run(str(NODE), *options, str(program), cwd=folder).stdout)
    return found


if NODE:

    def test_relative_url_is_an_error_of_connect(tmp_path):
        """Without a page, a client with a relative url is created. Its connect() and a missing url throw errors."""
        found = render(tmp_path, "/rt")
        assert (found["defaults"], found["created"]) == ([None, None], "closed")
        assert found["connected"] == "TypeError: The option url must begin with ws, wss, http or https: /rt"
        assert found["missing"].startswith("TypeError: ChatClient needs the option url")

    def test_missing_websocket_is_an_error_of_connect(tmp_path):
        """Without a global WebSocket, as in Node 20, a client is created, and connect() throws an error."""
        found = render(tmp_path, "wss://chat.example.com", "--no-experimental-websocket")
        assert found["created"] == "closed"
        assert found["connected"].startswith("TypeError: There is no WebSocket here: use Node 22 or later")
