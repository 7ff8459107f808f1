// Rooms: those that this connection has joined, and all rooms on the server with their members.

import { call } from "./api.js";
import { $, confirm, el, hueClass, number, page, plural } from "./dom.js";

/** Delay before a refresh, so that several changes cause one refresh. In milliseconds. */
const REFRESH_DELAY = 300;

/** Set up the form to join rooms, and the list of joined rooms, one of which `view` can show. */
export function setUpJoinForm(connection, view) {
  $("join").addEventListener("submit", async (event) => {
    event.preventDefault();
    const problem = $("join-problem");
    problem.textContent = "";
    const room = $("join-room").value.trim();
    if (!room) {
      problem.textContent = "Name a room, such as channel:1.";
      return;
    }
    const data = joinOptions();
    const { ok, frame } = await connection.request({ type: "join_room", room, ...(data && { data }) });
    if (ok) $("join-room").value = "";
    else problem.textContent = frame.data.error;
  });
  const show = () => showJoined(connection, view);
  view.onChange = show;
  const options = page.commands.find(({ type }) => type === "join_room").schema.properties ?? {};
  $("join-presence").parentElement.hidden = !options.presence;
  connection.addEventListener("rooms", show);
  connection.addEventListener("state", show);
  show();
}

/** Return the data of a join, or undefined. A text that is no number is sent as it is, to show the server's answer. */
function joinOptions() {
  const last = $("join-last").value.trim();
  const data = {};
  if ($("join-presence").checked) data.presence = true;
  if (last) data.last = /^\d+$/.test(last) ? Number(last) : last;
  return Object.keys(data).length ? data : undefined;
}

function showJoined(connection, view) {
  view.keepJoined(connection.rooms);
  const rooms = [...connection.rooms].sort();
  $("rooms-count").textContent = rooms.length ? number(rooms.length) : "";
  $("chips").replaceChildren(...rooms.map((room) => chip(connection, view, room)));
  const examples = page.rooms.map((room) => `${room.type}:1`).slice(0, 4).join(", ");
  const isOn = connection.phase === "on";
  const empty = isOn ? `No rooms joined yet. Join one, such as ${examples}.` : "Connect first; then join rooms here.";
  $("chips-empty").textContent = rooms.length ? "" : empty;
  $("known-rooms").replaceChildren(...rooms.map((room) => el("option", { value: room })));
}

function chip(connection, view, room) {
  const show = el("button", {
    type: "button", className: "chip-name", title: `Show ${room}`, textContent: room, "aria-expanded": String(view.room === room),
  });
  show.addEventListener("click", () => view.toggle(room));
  const leave = el("button", { type: "button", title: `Leave ${room}`, "aria-label": `Leave ${room}`, textContent: "×" });
  leave.addEventListener("click", () => connection.request({ type: "leave_room", room }));
  return el("li", { className: `chip ${hueClass(room)}` }, show, leave);
}

/** The rooms on the server, with the members of those that the user has expanded. */
export class RoomList {
  #expanded = new Set();
  #timer = 0;

  constructor() {
    $("refresh").addEventListener("click", () => this.refresh());
  }

  refreshSoon() {
    this.#timer ||= setTimeout(() => this.refresh(), REFRESH_DELAY);
  }

  async refresh() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const { ok, body } = await call("GET", "api/v1/rooms");
    $("people-problem").textContent = ok ? "" : body.error;
    if (!ok) return;
    const rooms = body.rooms;
    const names = new Set(rooms.map(({ room }) => room));
    this.#expanded = new Set([...this.#expanded].filter((room) => names.has(room)));
    const members = await this.#loadMembers(rooms);
    $("people-count").textContent = rooms.length ? plural(rooms.length, "room") : "";
    $("people-empty").hidden = rooms.length > 0;
    const focused = document.activeElement?.dataset?.key;
    $("people").replaceChildren(...rooms.map((room) => this.#roomItem(room, members.get(room.room))));
    if (focused) $("people").querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  async #loadMembers(rooms) {
    const wanted = rooms.map(({ room }) => room).filter((room) => this.#expanded.has(room));
    const answers = await Promise.all(wanted.map((room) => call("GET", `${roomPath(room)}/members`)));
    return new Map(wanted.map((room, index) => [room, answers[index]]));
  }

  #roomItem({ room, members: count }, answer) {
    const isExpanded = this.#expanded.has(room);
    const button = el("button", {
      type: "button", className: `room-line ${hueClass(room)}`, "aria-expanded": String(isExpanded), "data-key": room,
    }, el("span", { className: "name", textContent: room }), el("span", { className: "count", textContent: number(count) }));
    button.addEventListener("click", () => {
      if (isExpanded) this.#expanded.delete(room);
      else this.#expanded.add(room);
      this.refresh();
    });
    const item = el("li", {}, button);
    if (isExpanded) item.append(answer?.ok ? this.#memberList(room, answer.body.members) : problem(answer));
    return item;
  }

  #memberList(room, members) {
    return el("ul", { "aria-label": `Members of ${room}` }, ...members.map((member) => this.#memberItem(room, member)));
  }

  #memberItem(room, { user_id: id, username, connections }) {
    const count = connections > 1 ? ` · ${plural(connections, "connection")}` : "";
    const kick = this.#actionButton("Kick", `Remove ${username} from the room ${room}`, room, id, async () => {
      const words = `All connections of ${username} (user ${id}) leave ${room}. The user can join it again.`;
      const isConfirmed = await confirm(`Kick ${username} from ${room}?`, words, "Kick");
      return isConfirmed && call("DELETE", `${roomPath(room)}/members/${encodeURIComponent(id)}`);
    });
    const disconnect = this.#actionButton("Disconnect", `Disconnect ${username} everywhere`, room, id, async () => {
      const words = `All connections of ${username} (user ${id}) are closed with 4410. The user can connect again.`;
      const isConfirmed = await confirm(`Disconnect ${username}?`, words, "Disconnect");
      return isConfirmed && call("DELETE", `api/v1/users/${encodeURIComponent(id)}/connections`);
    });
    return el("li", { className: "member" },
      el("span", { className: "name", textContent: username }),
      el("span", { className: "hint" }, "user ", el("bdi", { textContent: id }), count),
      el("span", { className: "actions" }, kick, disconnect));
  }

  /** Create a button. `act` resolves to the answer of an API call, or to false if the user cancelled. */
  #actionButton(label, title, room, id, act) {
    const key = `${label} ${room} ${id}`;
    const button = el("button", { type: "button", className: "quiet small", title, textContent: label, "data-key": key });
    button.addEventListener("click", async () => {
      const answer = await act();
      if (!answer) return;
      if (answer.ok) this.refreshSoon();
      else $("people-problem").textContent = answer.body.error;
    });
    return button;
  }
}

const roomPath = (room) => `api/v1/rooms/${encodeURIComponent(room)}`;

function problem(answer) {
  return el("p", { className: "problem", textContent: answer?.body.error ?? "The members could not be loaded." });
}
