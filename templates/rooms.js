// Rooms: those this connection is in, and what the server knows of all rooms and who is in them.

import { call } from "./api.js";
import { $, confirm, el, number, page, plural } from "./dom.js";
import { hue } from "./log.js";

const REFRESH_AFTER = 300;

/** Join and leave. */
export function joining(wire) {
  const form = $("join");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const problem = $("join-problem");
    problem.textContent = "";
    const room = $("join-room").value.trim();
    if (!room) {
      problem.textContent = "Name a room, such as channel:1.";
      return;
    }
    const { ok, frame } = await wire.request({ type: "join_room", room });
    if (ok) $("join-room").value = "";
    else problem.textContent = frame.data.error;
  });
  const show = () => chips(wire);
  wire.addEventListener("rooms", show);
  wire.addEventListener("state", show);
  show();
}

function chips(wire) {
  const rooms = [...wire.rooms.keys()].sort();
  $("rooms-count").textContent = rooms.length ? number(rooms.length) : "";
  $("chips").replaceChildren(...rooms.map((room) => chip(wire, room)));
  const types = page.rooms.map((room) => `${room.type}:1`).slice(0, 4).join(", ");
  const words = wire.phase === "on" ? `In no room yet. Join one, such as ${types}.` : "Connect first; then join rooms here.";
  $("chips-empty").textContent = rooms.length ? "" : words;
  $("known-rooms").replaceChildren(...rooms.map((room) => el("option", { value: room })));
}

function chip(wire, room) {
  const leave = el("button", { type: "button", title: `Leave ${room}`, "aria-label": `Leave ${room}`, textContent: "×" });
  leave.addEventListener("click", () => wire.request({ type: "leave_room", room }));
  return el("li", { className: `chip hue-${hue(room)}` }, el("span", { textContent: room }), leave);
}

/** The state of the server: rooms, and the members of those that are opened. */
export class People {
  #open = new Set();
  #timer = 0;

  constructor() {
    $("refresh").addEventListener("click", () => this.refresh());
  }

  /** Refresh soon, once for all that happens until then. */
  soon() {
    this.#timer ||= setTimeout(() => this.refresh(), REFRESH_AFTER);
  }

  async refresh() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const { ok, body } = await call("GET", "/api/v1/rooms");
    $("people-problem").textContent = ok ? "" : body.error;
    if (!ok) return;
    const rooms = body.rooms;
    const names = new Set(rooms.map(({ room }) => room));
    this.#open = new Set([...this.#open].filter((room) => names.has(room)));
    const members = await this.#members(rooms);
    $("people-count").textContent = rooms.length ? plural(rooms.length, "room") : "";
    $("people-empty").hidden = rooms.length > 0;
    const focused = document.activeElement?.dataset?.key;
    $("people").replaceChildren(...rooms.map((room) => this.#room(room, members.get(room.room))));
    if (focused) $("people").querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  async #members(rooms) {
    const wanted = rooms.map(({ room }) => room).filter((room) => this.#open.has(room));
    const answers = await Promise.all(wanted.map((room) => call("GET", `${path(room)}/members`)));
    return new Map(wanted.map((room, index) => [room, answers[index]]));
  }

  #room({ room, members: count }, answer) {
    const open = this.#open.has(room);
    const button = el("button", {
      type: "button", className: `room-line hue-${hue(room)}`, "aria-expanded": String(open), "data-key": room,
    }, el("span", { className: "name", textContent: room }), el("span", { className: "count", textContent: number(count) }));
    button.addEventListener("click", () => {
      if (open) this.#open.delete(room);
      else this.#open.add(room);
      this.refresh();
    });
    const item = el("li", {}, button);
    if (open) item.append(answer?.ok ? this.#list(room, answer.body.members) : failure(answer));
    return item;
  }

  #list(room, members) {
    return el("ul", { "aria-label": `Members of ${room}` }, ...members.map((member) => this.#member(room, member)));
  }

  #member(room, { user_id: id, username, connections }) {
    const tabs = connections > 1 ? ` · ${plural(connections, "connection")}` : "";
    const kick = this.#act("Kick", `Take ${username} out of the room ${room}`, room, id, async () => {
      const words = `All connections of ${username} (user ${id}) leave ${room}. Nothing keeps them from joining again.`;
      const sure = await confirm(`Kick ${username} from ${room}?`, words, "Kick");
      return sure && call("DELETE", `${path(room)}/members/${encodeURIComponent(id)}`);
    });
    const disconnect = this.#act("Disconnect", `Disconnect ${username} everywhere`, room, id, async () => {
      const words = `All connections of ${username} (user ${id}) are closed with 4410. Nothing keeps them from coming back.`;
      const sure = await confirm(`Disconnect ${username}?`, words, "Disconnect");
      return sure && call("DELETE", `/api/v1/users/${encodeURIComponent(id)}/connections`);
    });
    return el("li", { className: "member" },
      el("span", { className: "name", textContent: username }),
      el("span", { className: "hint", textContent: `user ${id}${tabs}` }),
      el("span", { className: "actions" }, kick, disconnect));
  }

  #act(label, title, room, id, act) {
    const button = el("button", { type: "button", className: "quiet small", title, textContent: label, "data-key": `${label} ${room} ${id}` });
    button.addEventListener("click", async () => {
      const answer = await act();
      if (!answer) return;
      if (answer.ok) this.soon();
      else $("people-problem").textContent = answer.body.error;
    });
    return button;
  }
}

const path = (room) => `/api/v1/rooms/${encodeURIComponent(room)}`;

function failure(answer) {
  return el("p", { className: "problem", textContent: answer?.body.error ?? "The members could not be loaded." });
}
