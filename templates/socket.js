// The connection: roomcast's own client, with every frame and all that it does by itself before the developer's eyes.

import { ChatClient } from "/static/roomcast.js";
import { number, page } from "./dom.js";

const BROWSER_CLOSES = {
  1001: ["Going Away", "The server or the page went away."],
  1005: ["No Status", "The connection was closed without a code."],
  1006: ["Connection Lost", "No closing frame came: the server is not reachable, or the network broke. Is roomcast running?"],
};
// The one who tries the server out is one user; a crowd that comes back together is none.
const RECONNECT = { base: 500, max: 15_000, drain: 1_000 };

/** What a close means, in words, and whether coming back can help. */
export function explain(code, reason) {
  const known = page.closes.find((close) => close.code === code && close.reason === reason)
    ?? page.closes.find((close) => close.code === code);
  if (known) return { code, reason: reason || known.reason || "Normal", meaning: known.meaning, reconnect: known.reconnect };
  const [name, meaning] = BROWSER_CLOSES[code] ?? ["", "This code is none of roomcast's."];
  return { code, reason: reason || name, meaning, reconnect: code !== 1005 };
}

/**
 * Events: "state" (`phase`, `user` or `ended` changed), "rooms", "frame" with {direction, text, message}, "note" with
 * {type, text, data} of what the client does by itself, and "stray" with an error that answers no request of ours.
 * `phase` is off, connecting, on or waiting.
 */
export class Wire extends EventTarget {
  phase = "off";
  user = null;
  since = 0;
  ended = null;
  retryAt = 0;
  comeBack = false;
  #client = null;
  #waiting = new Map();
  #last = "";
  #leaving = false;
  #quiet = false;

  /** The rooms that this connection is in. */
  get rooms() {
    return new Set(this.phase === "on" ? this.#client.rooms : []);
  }

  /** Connect with `token`, as a new start. */
  connect(token) {
    this.#quietly(() => this.#client?.close());
    const url = new URL(page.socket, location.href);
    const trace = (direction, text) => this.#frame(direction, text);
    // The longest message is for the server to refuse, and for the developer to see.
    const client = new ChatClient(token, { url, trace, reconnect: RECONNECT, maxSize: Infinity });
    this.#client = client;
    client.on("state", ({ data }) => this.#quiet || this.#changed(data));
    client.on("*", (message) => this.#heard(message));
    client.on("error", () => {}); // shown where it was asked
    this.again();
  }

  /** Connect once more with the last token, into the rooms that were joined. */
  again() {
    this.#leaving = false;
    this.#quietly(() => this.#client.close());
    this.#client.connect();
  }

  /** Disconnect, and do not come back. */
  stop() {
    this.#leaving = true;
    this.#client.close();
  }

  /** Send `text` as it is; whether there was a connection to send it on. */
  send(text) {
    return this.#client?.sendText(text) ?? false;
  }

  /** Send `message`, and resolve to {ok, frame}; never rejects. */
  async request(message) {
    if (this.phase !== "on") return failed("Not connected: connect first, under Rooms.", "not_sent");
    try {
      return { ok: true, frame: await this.#client.send(message) };
    } catch ({ message: error, code, fields }) {
      return failed(error, code, fields);
    }
  }

  /** Resolve to the frame that answers the request of `id`. */
  answer(id) {
    return new Promise((resolve) => this.#waiting.set(id, resolve));
  }

  /** Wait no longer for the answer to the request of `id`. */
  forget(id) {
    this.#waiting.delete(id);
  }

  #frame(direction, text) {
    const message = direction === "in" ? JSON.parse(text) : undefined;
    this.dispatchEvent(new CustomEvent("frame", { detail: { direction, text, message } }));
    if (direction === "out") {
      this.#last = text;
      return;
    }
    const resolve = this.#waiting.get(message.id);
    if (resolve) {
      this.#waiting.delete(message.id);
      resolve({ ok: message.type !== "error", frame: message });
    } else if (message.type === "error" && typeof message.id !== "number") { // the client's own ids are numbers
      this.dispatchEvent(new CustomEvent("stray", { detail: message }));
    }
  }

  #heard({ type, room, data }) {
    if (type === "connected") this.#welcomed();
    if (type === "joined_room" || type === "left_room") this.dispatchEvent(new Event("rooms"));
    if (type === "joined_room" && data.recovered) this.#note("resumed", "What was missed, if anything, follows", { room });
    if (type === "resync") this.#note("resync", `${room ?? "notifications"}: ${data.message}`, { room, ...data });
  }

  #welcomed() {
    this.user = this.#client.user;
    this.since = Date.now();
    this.ended = null;
    this.#change("on");
  }

  #changed({ state, code, reason, delay, retryAt, attempts }) {
    if (state === "open") return; // the welcome comes next
    if (state === "connecting") {
      this.#change("connecting");
      return;
    }
    if (!this.#leaving) this.#closed(code, reason);
    else if (this.phase !== "waiting") this.ended = { ...explain(1000, ""), asked: true, last: "" };
    if (state === "waiting" && !this.comeBack) {
      this.#quietly(() => this.#client.close());
      this.#change("off");
      return;
    }
    if (state === "closed") {
      this.#change("off");
      return;
    }
    this.retryAt = retryAt;
    this.#change("waiting");
    this.#note("waiting", `Attempt ${number(attempts)} in ${number(Math.round(delay))} ms`, { code, reason, delay, attempts });
  }

  #change(phase) {
    this.phase = phase;
    this.dispatchEvent(new Event("state"));
    this.dispatchEvent(new Event("rooms"));
  }

  #closed(code, reason) {
    this.ended = { ...explain(code, reason), asked: false, last: code === 4403 ? this.#last : "" };
    for (const resolve of this.#waiting.values()) resolve(failed("The connection closed before the answer came.", "closed"));
    this.#waiting.clear();
  }

  #quietly(act) {
    this.#quiet = true;
    act();
    this.#quiet = false;
  }

  #note(type, text, data) {
    this.dispatchEvent(new CustomEvent("note", { detail: { type, text, data } }));
  }
}

const failed = (error, code, fields) => ({ ok: false, frame: { type: "error", data: { error, code, fields } } });
