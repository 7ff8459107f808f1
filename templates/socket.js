// The connection: one WebSocket, the requests that wait for an answer, the rooms it is in, and coming back.

import { page } from "./dom.js";

// Events carry "<epoch>-<offset>" in their id; answers carry the id of the request.
const EVENTS = new Set(page.events.map((event) => event.type));
const BROWSER_CLOSES = {
  1001: ["Going Away", "The server or the page went away."],
  1005: ["No Status", "The connection was closed without a code."],
  1006: ["Connection Lost", "No closing frame came: the server is not reachable, or the network broke. Is roomcast running?"],
};
const FIRST_DELAY = 500;
const LONGEST_DELAY = 15_000;

/** What a close means, in words, and whether coming back can help. */
export function explain(code, reason) {
  const known = page.closes.find((close) => close.code === code && close.reason === reason)
    ?? page.closes.find((close) => close.code === code);
  if (known) return { code, reason: reason || known.reason || "Normal", meaning: known.meaning, reconnect: known.reconnect };
  const [name, meaning] = BROWSER_CLOSES[code] ?? ["", "This code is none of roomcast's."];
  return { code, reason: reason || name, meaning, reconnect: code !== 1005 };
}

/**
 * Events: "state" (`phase`, `user` or `ended` changed), "rooms", "frame" with {direction, text, message}, and "stray"
 * with an error that answers no request of ours.
 * `phase` is off, connecting, on or waiting; `rooms` maps each joined room to the id of its last event.
 */
export class Wire extends EventTarget {
  phase = "off";
  user = null;
  since = 0;
  ended = null;
  retryAt = 0;
  rooms = new Map();
  comeBack = false;
  #socket = null;
  #token = "";
  #waiting = new Map();
  #count = 0;
  #attempts = 0;
  #timer = 0;
  #resuming = new Map();
  #last = "";
  #leaving = false;

  /** Connect with `token`, as a new start. */
  connect(token) {
    this.#token = token;
    this.#attempts = 0;
    this.#resuming.clear();
    this.again();
  }

  /** Connect once more with the last token, into the rooms that were joined. */
  again() {
    clearTimeout(this.#timer);
    this.#open();
  }

  /** Disconnect, and do not come back. */
  stop() {
    clearTimeout(this.#timer);
    this.#leaving = true;
    if (this.#socket) this.#socket.close(1000);
    else this.#change("off");
  }

  /** Send `text` as it is; whether there was a connection to send it on. */
  send(text) {
    if (this.phase !== "on") return false;
    this.#socket.send(text);
    this.#last = text;
    this.#tell("out", text);
    return true;
  }

  /** Give `message` an id, send it, and resolve to {ok, frame}; never rejects. */
  request(message) {
    const id = `c${++this.#count}`;
    const { type, room, ...rest } = message;
    if (!this.send(JSON.stringify({ type, id, room, ...rest }))) {
      return Promise.resolve(failed("Not connected: connect first, under Rooms."));
    }
    return this.answer(id);
  }

  /** Resolve to the frame that answers the request of `id`. */
  answer(id) {
    return new Promise((resolve) => this.#waiting.set(id, resolve));
  }

  /** Wait no longer for the answer to the request of `id`. */
  forget(id) {
    this.#waiting.delete(id);
  }

  #open() {
    const url = new URL(page.socket, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.#leaving = false;
    if (this.#socket) {
      this.#socket.onclose = this.#socket.onmessage = null;
      this.#socket.close(1000);
    }
    this.#change("connecting");
    // In the subprotocol the token is seen by no log on the way; one that cannot stand there goes into the URL.
    const plain = /^[\w.-]+$/.test(this.#token);
    if (!plain) url.searchParams.set("token", this.#token);
    const socket = plain ? new WebSocket(url, ["bearer", this.#token]) : new WebSocket(url);
    this.#socket = socket;
    socket.onmessage = (event) => this.#heard(event.data);
    socket.onclose = (event) => this.#closed(event);
  }

  #heard(text) {
    let message = null;
    try {
      message = JSON.parse(text);
    } catch {
      // Shown in the log as the text it is.
    }
    this.#tell("in", text, message);
    if (message === null) return;
    this.#note(message);
    const resolve = EVENTS.has(message.type) ? undefined : this.#waiting.get(message.id);
    if (resolve) {
      this.#waiting.delete(message.id);
      resolve({ ok: message.type !== "error", frame: message });
    } else if (message.type === "error") {
      this.dispatchEvent(new CustomEvent("stray", { detail: message }));
    }
  }

  #note({ type, room, id, data }) {
    if (type === "connected") {
      this.user = data;
      this.since = Date.now();
      this.ended = null;
      this.#attempts = 0;
      this.#change("on");
      this.#rejoin();
    } else if (type === "joined_room" || type === "left_room") {
      if (type === "left_room") this.rooms.delete(room);
      else if (!this.rooms.has(room)) this.rooms.set(room, data.last_id ?? null);
      this.dispatchEvent(new Event("rooms"));
    } else if (EVENTS.has(type) && this.rooms.has(room)) {
      this.rooms.set(room, id);
    }
  }

  #rejoin() {
    for (const [room, since] of this.#resuming) {
      this.request(since ? { type: "join_room", room, data: { since } } : { type: "join_room", room });
    }
    this.#resuming.clear();
  }

  #closed({ code, reason }) {
    this.#socket = null;
    const close = explain(code, reason);
    this.ended = { ...close, asked: this.#leaving, last: code === 4403 ? this.#last : "" };
    for (const [room, id] of this.rooms) this.#resuming.set(room, id);
    this.rooms.clear();
    for (const resolve of this.#waiting.values()) resolve(failed("The connection closed before the answer came."));
    this.#waiting.clear();
    this.dispatchEvent(new Event("rooms"));
    const back = this.comeBack && close.reconnect && !this.#leaving;
    if (back) this.#retry();
    this.#change(back ? "waiting" : "off");
  }

  /** Come back after a while that doubles each time, half of it by chance, so that a crowd does not return at once. */
  #retry() {
    const delay = Math.min(FIRST_DELAY * 2 ** this.#attempts++, LONGEST_DELAY) * (0.5 + Math.random() / 2);
    this.retryAt = Date.now() + delay;
    this.#timer = setTimeout(() => this.#open(), delay);
  }

  #change(phase) {
    this.phase = phase;
    this.dispatchEvent(new Event("state"));
  }

  #tell(direction, text, message) {
    this.dispatchEvent(new CustomEvent("frame", { detail: { direction, text, message } }));
  }
}

const failed = (error) => ({ ok: false, frame: { type: "error", data: { error, code: "not_sent" } } });
