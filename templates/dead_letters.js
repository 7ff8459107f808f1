// The dead letters of webhooks: events that the receiver did not accept, to be delivered again or deleted.

import { call } from "./api.js";
import { $, clock, confirm, el, number, page } from "./dom.js";

const PATH = page.dead_letters;

/** Set up the panel. It is hidden while there are no dead letters. */
export function setUpDeadLetters() {
  if (!PATH) return;
  $("dead-letters-refresh").addEventListener("click", refresh);
  $("refresh").addEventListener("click", refresh);
  $("dead-letters-retry").addEventListener("click", () => change("retry"));
  $("dead-letters-delete").addEventListener("click", async () => {
    if (await confirm("Delete all dead letters?", "Their events are not delivered.", "Delete all")) await change("delete");
  });
  refresh();
}

async function refresh() {
  const { ok, body } = await call("GET", PATH);
  $("dead-letters-problem").textContent = ok ? "" : body.error;
  if (!ok) return;
  if (body.total) $("dead-letters-panel").hidden = false;
  const { dead_letters: letters, total } = body;
  $("dead-letters-count").textContent = total ? number(total) : "";
  $("dead-letters").replaceChildren(...letters.map(row));
  $("dead-letters-empty").hidden = letters.length > 0;
  $("dead-letters-retry").disabled = $("dead-letters-delete").disabled = !letters.length;
}

function row({ id, event, reason, time }) {
  const button = (action, label) => {
    const made = el("button", { type: "button", className: "small", textContent: label });
    made.addEventListener("click", () => change(action, [id]));
    return made;
  };
  const name = el("strong", { textContent: `${event.type} in ${event.room}` });
  const more = el("p", { className: "hint", textContent: `${clock(time * 1000)} · ${reason}` });
  return el("li", {}, name, more, el("div", { className: "actions" }, button("retry", "Retry"), button("delete", "Delete")));
}

/** Retry or delete the dead letters with `ids`, or all. */
async function change(action, ids) {
  const { ok, body } = await call("POST", `${PATH}/${action}`, ids ? { ids } : {});
  await refresh();
  if (!ok) $("dead-letters-problem").textContent = body.error;
}
