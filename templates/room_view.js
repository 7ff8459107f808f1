// The view of one joined room: members with their status, users who type, unread messages, and older events.

import { $, el, hueClass, number, page, plural } from "./dom.js";

/** How many older events one press of the button loads. */
const OLDER_EVENTS = 20;
/** Delay before the view is drawn, so that several frames cause one drawing. In milliseconds. */
const DRAW_DELAY = 50;
const commands = new Set(page.commands.map(({ type }) => type));

/** Shows the room that the user has opened, and changes with its frames. */
export class RoomView {
  #connection;
  #states;
  #room = "";
  #timer = 0;
  /** Called when another room is opened, or none. */
  onChange = () => {};

  constructor(connection, states) {
    this.#connection = connection;
    this.#states = states;
    states.addEventListener("change", ({ detail }) => detail === this.#room && this.#drawSoon());
    $("room-status-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#setStatus();
    });
    $("room-older").addEventListener("click", () => this.#loadOlder());
    $("room-read").addEventListener("click", () => this.#markRead());
  }

  /** The room that is shown, or "". */
  get room() {
    return this.#room;
  }

  /** Show `room`, or hide it if it is shown. */
  toggle(room) {
    this.#room = room === this.#room ? "" : room;
    this.#tell("");
    this.onChange();
    this.#draw();
  }

  /** Hide the room if this connection is not in it any more. */
  keepJoined(rooms) {
    if (!this.#room || rooms.has(this.#room)) return;
    this.#room = "";
    this.#draw();
  }

  #drawSoon() {
    this.#timer ||= setTimeout(() => this.#draw(), DRAW_DELAY);
  }

  #draw() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const state = this.#states.get(this.#room);
    $("room-view").hidden = !state;
    if (!state) return;
    if (!state.members && !state.isListRequested && commands.has("members")) {
      state.isListRequested = true;
      this.#request({ type: "members" });
    }
    $("room-view").className = `room-view ${hueClass(this.#room)}`;
    $("room-title").textContent = this.#room;
    $("room-unread").textContent = state.unread ? `${number(state.unread)} unread` : "";
    this.#drawMembers(state);
    const names = [...state.typers.values()].map(([name]) => name);
    $("room-typing").textContent = names.length ? `${listed(names)} ${names.length > 1 ? "are" : "is"} typing…` : "";
    $("room-status-form").hidden = !commands.has("set_presence");
    $("room-older").hidden = !commands.has("history");
    $("room-older").disabled = !state.hasOlder;
    $("room-read").hidden = !commands.has("mark_read");
    $("room-read").disabled = !state.newest || state.unread === 0;
  }

  #drawMembers({ members, memberCount }) {
    const listedMembers = [...(members?.values() ?? [])];
    $("room-member-count").textContent = members ? plural(memberCount, "member") : "";
    $("room-members").replaceChildren(...listedMembers.map(memberItem));
    const rest = memberCount - listedMembers.length;
    if (rest > 0) $("room-members").append(el("li", { className: "hint", textContent: `and ${number(rest)} more` }));
  }

  async #setStatus() {
    const status = $("room-status").value.trim() || null;
    if (await this.#request({ type: "set_presence", data: { status } })) this.#tell(status ? "The status is set." : "The status is cleared.");
  }

  async #loadOlder() {
    const { oldest } = this.#states.get(this.#room);
    const data = oldest ? { before: oldest, limit: OLDER_EVENTS } : { limit: OLDER_EVENTS };
    const frame = await this.#request({ type: "history", data });
    if (!frame) return;
    const rest = frame.data.more ? "" : " There are no older ones.";
    this.#tell(`${plural(frame.data.events.length, "event")} in the reply, see the log.${rest}`);
  }

  async #markRead() {
    const { newest } = this.#states.get(this.#room);
    if (await this.#request({ type: "mark_read", data: { event_id: newest } })) this.#tell("All messages are marked as read.");
  }

  /** Send a command for the room. Return the reply, or null after an error, which is shown. */
  async #request(message) {
    const room = this.#room;
    const { ok, frame } = await this.#connection.request({ ...message, room });
    if (room !== this.#room) return null;
    $("room-problem").textContent = ok ? "" : frame.data.error;
    if (!ok) this.#tell("");
    return ok ? frame : null;
  }

  #tell(text) {
    $("room-problem").textContent = "";
    $("room-outcome").textContent = text;
  }
}

function memberItem({ user_id: id, username, status, data }) {
  const details = data ? el("code", { textContent: JSON.stringify(data) }) : "";
  return el("li", {},
    el("span", { className: "name", textContent: username }), " ",
    el("span", { className: "hint" }, "user ", el("bdi", { textContent: id })), " ",
    status ? el("span", { className: "tag", textContent: status }) : "", " ", details);
}

/** Return up to three names in a sentence. */
function listed(names) {
  if (names.length > 3) return `${names.slice(0, 2).join(", ")} and ${number(names.length - 2)} others`;
  return names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names[0];
}
