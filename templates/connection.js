// The console's connection: a ChatClient, with every frame and every automatic action reported as an event.

import { ChatClient } from "../../static/roomcast.js";
import { root } from "./api.js";
import { number, page } from "./dom.js";

/** Close codes that browsers report themselves: [name, meaning]. */
const BROWSER_CLOSES = {
  1001: ["Going Away", "The server or the page closed the connection."],
  1005: ["No Status", "The connection was closed without a code."],
  1006: ["Connection Lost", "The connection ended without a close frame: the network failed, or roomcast is not running."],
};
/** One developer reconnects sooner than a crowd of users should. */
const RECONNECT = { base: 500, max: 15_000, drain: 1_000 };

/** Return {code, reason, meaning, reconnect} of a close. `reconnect` is true if reconnecting can help. */
export function explainClose(code, reason) {
  const known = page.closes.find((close) => close.code === code && close.reason === reason)
    ?? page.closes.find((close) => close.code === code);
  if (known) return { code, reason: reason || known.reason || "Normal", meaning: known.meaning, reconnect: known.reconnect };
  const [name, meaning] = BROWSER_CLOSES[code] ?? ["", "roomcast does not use this code."];
  return { code, reason: reason || name, meaning, reconnect: code !== 1005 };
}

/**
 * Emits these events:
 *
 * - "state": `phase`, `user` or `lastClose` has changed. `phase` is "off", "connecting", "on" or "waiting".
 * - "rooms": the joined rooms have changed.
 * - "frame" with {direction, text, message}: a frame was sent or received.
 * - "note" with {type, text, data}: the client did something by itself, for example it resumed a room.
 * - "unmatched-error" with a frame: an error that answers no known request.
 */
export class ConsoleConnection extends EventTarget {
  phase = "off";
  user = null;
  connectedAt = 0;
  /** How the last connection ended: see explainClose(), and `byUser` and `lastSent`. */
  lastClose = null;
  retryAt = 0;
  /** True if the client reconnects after a lost connection. */
  autoReconnect = false;
  #client = null;
  /** Callbacks of the requests sent as text, by id. */
  #pending = new Map();
  #lastSent = "";
  #lastId = 0;
  #isStopping = false;
  #isMuted = false;

  get rooms() {
    return new Set(this.phase === "on" ? this.#client.rooms : []);
  }

  /** Connect with `token`, as a new client without rooms. */
  connect(token) {
    this.#closeSilently();
    const url = new URL(page.socket, root);
    const trace = (direction, text) => this.#traced(direction, text);
    const client = new ChatClient(token, { url, trace, reconnect: RECONNECT });
    this.#client = client;
    client.on("state", ({ data }) => this.#isMuted || this.#stateChanged(data));
    client.on("*", (message) => this.#received(message));
    client.on("error", () => {}); // Errors are shown at the form that sent the request.
    this.reconnect();
  }

  /** Connect again with the last token, and resume the joined rooms. */
  reconnect() {
    this.#isStopping = false;
    this.#closeSilently();
    this.#client.connect();
  }

  /** Disconnect without reconnecting. */
  stop() {
    this.#isStopping = true;
    this.#client.close();
  }

  /** Send `text` unchanged. Return false if there is no connection. */
  sendText(text) {
    return this.#client?.sendText(text) ?? false;
  }

  /** Send `message`. Resolves to {ok, frame}; never rejects. */
  async request(message) {
    if (this.phase !== "on") return failed("Not connected: connect first, under Rooms.", "not_sent");
    const { type, data } = message;
    if (type === "join_room" && ("last" in (data ?? {}) || "presence" in (data ?? {}))) return this.#requestAsText(message);
    try {
      return { ok: true, frame: await this.#client.send(message) };
    } catch ({ message: error, code, fields }) {
      return failed(error, code, fields);
    }
  }

  /** Send a join with options that ChatClient does not take. It notices the answer, and keeps the room. */
  #requestAsText(message) {
    const id = `console-${++this.#lastId}`;
    const answer = this.answerTo(id);
    this.sendText(JSON.stringify({ id, ...message }));
    return answer;
  }

  /** Resolve to {ok, frame} with the answer to the text that has `id`. */
  answerTo(id) {
    return new Promise((resolve) => this.#pending.set(id, resolve));
  }

  /** Do not wait for the answer to `id` any longer. */
  forget(id) {
    this.#pending.delete(id);
  }

  #traced(direction, text) {
    const message = direction === "in" ? JSON.parse(text) : undefined;
    this.#emit("frame", { direction, text, message });
    if (direction === "out") {
      this.#lastSent = text;
      return;
    }
    const resolve = this.#pending.get(message.id);
    if (resolve) {
      this.#pending.delete(message.id);
      resolve({ ok: message.type !== "error", frame: message });
    } else if (message.type === "error" && typeof message.id !== "number") {
      // The ids of ChatClient are numbers; it handles the errors with such ids.
      this.#emit("unmatched-error", message);
    }
  }

  #received({ type, room, data }) {
    if (type === "connected") this.#connected();
    if (type === "joined_room" || type === "left_room") this.#emit("rooms");
    if (type === "joined_room" && data.recovered) this.#note("resumed", "Missed events, if any, follow", { room });
    if (type === "resync") this.#note("resync", `${room ?? "notifications"}: ${data.message}`, { room, ...data });
  }

  #connected() {
    this.user = this.#client.user;
    this.connectedAt = Date.now();
    this.lastClose = null;
    this.#setPhase("on");
  }

  #stateChanged({ state, code, reason, delay, retryAt, attempts }) {
    if (state === "open") return; // #connected() follows.
    if (state === "connecting") {
      this.#setPhase("connecting");
      return;
    }
    if (!this.#isStopping) this.#closed(code, reason);
    else if (this.phase !== "waiting") this.lastClose = { ...explainClose(1000, ""), byUser: true, lastSent: "" };
    const isGivingUp = state === "waiting" && !this.autoReconnect;
    if (isGivingUp) this.#closeSilently();
    if (isGivingUp || state === "closed") {
      this.#setPhase("off");
      return;
    }
    this.retryAt = retryAt;
    this.#setPhase("waiting");
    const text = `Attempt ${number(attempts)} in ${number(Math.round(delay))} ms`;
    this.#note("waiting", text, { code, reason, delay, attempts });
  }

  #setPhase(phase) {
    this.phase = phase;
    this.#emit("state");
    this.#emit("rooms");
  }

  #closed(code, reason) {
    // 4403 answers the last request.
    this.lastClose = { ...explainClose(code, reason), byUser: false, lastSent: code === 4403 ? this.#lastSent : "" };
    for (const resolve of this.#pending.values()) resolve(failed("The connection closed before the answer came.", "closed"));
    this.#pending.clear();
  }

  /** Close the client without reporting the change of its state. */
  #closeSilently() {
    this.#isMuted = true;
    this.#client?.close();
    this.#isMuted = false;
  }

  #note(type, text, data) {
    this.#emit("note", { type, text, data });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

const failed = (error, code, fields) => ({ ok: false, frame: { type: "error", data: { error, code, fields } } });
