/**
 * roomcast.js: the client of a roomcast server, for pages, workers and programs (Node 22, Deno, Bun).
 *
 *     import { ChatClient } from "http://localhost:8000/static/roomcast.js";
 *
 *     const client = new ChatClient(() => fetch("/my/token").then((answer) => answer.text()));
 *     client.on("message", (msg) => console.log(`${msg.data.username}: ${msg.data.content}`));
 *     client.connect();
 *     client.joinRoom("channel:1");
 *     await client.sendMessage("channel:1", "Hello everyone!");
 *
 * It stays connected, resumes its rooms where it left off, and sends once what was said while it was offline. Whatever
 * is asked of it before it is connected, or in between, waits in the order in which it was asked.
 *
 * How it is made: a Link is one connection with all that keeps it alive. A ChatClient has one of its own, or, with
 * `shared`, one in a SharedWorker, whose script is this very file, together with the user's other tabs.
 */

// Options and errors.

const PATH = "api/v1/ws/connect";

/** Every option with its default. Times are in milliseconds. `roomcast.d.ts` says what each is. */
export const DEFAULTS = Object.freeze({
  url: import.meta.url?.startsWith("http") ? new URL(`../${PATH}`, import.meta.url).href : `ws://localhost:8000/${PATH}`,
  reconnect: Object.freeze({ base: 500, max: 30_000, drain: 10_000 }),
  queue: 1000,
  inFlight: 16,
  rate: 80,
  maxSize: 65_536,
  heartbeat: 25_000,
  timeout: 10_000,
  refresh: 60_000,
  shared: false,
  worker: import.meta.url,
  WebSocket: globalThis.WebSocket,
  trace: null,
});

/** The least that a number among the options may be. */
const LEAST = { queue: 1, inFlight: 1, rate: 0, maxSize: 1, heartbeat: 0, timeout: 1, refresh: 0, base: 0, max: 0, drain: 0 };

/** What a request is refused with: the server's `code`, sentence and `fields`, or one of this file's own codes. */
export class RoomcastError extends Error {
  constructor({ code, message, fields, room }) {
    super(message);
    this.name = "RoomcastError";
    this.code = code;
    this.fields = fields;
    this.room = room;
  }
}

/** Complete the `given` options; throw a TypeError that names the one that is wrong. */
function complete(given) {
  const unknown = Object.keys(given).find((name) => !(name in DEFAULTS));
  if (unknown) throw new TypeError(`ChatClient has no option ${unknown}; there are: ${Object.keys(DEFAULTS).join(", ")}.`);
  const options = { ...DEFAULTS, ...given };
  if (options.reconnect) options.reconnect = { ...DEFAULTS.reconnect, ...options.reconnect };
  const numbers = { ...options, ...options.reconnect };
  for (const [name, least] of Object.entries(LEAST)) {
    const value = numbers[name];
    if (value !== undefined && !(value >= least)) throw new TypeError(`The option ${name} must be a number from ${least} on, not ${value}.`);
  }
  if (typeof options.WebSocket !== "function") {
    throw new TypeError("There is no WebSocket here: use Node 22 or later, or give a class like it as the option WebSocket.");
  }
  options.url = address(options.url);
  return options;
}

/** Return the WebSocket address that `url` means: also one with http, one relative to the page, or just a server's. */
function address(url) {
  const parsed = new URL(url, globalThis.location?.href);
  parsed.protocol = parsed.protocol.replace("http", "ws");
  if (!/^wss?:$/.test(parsed.protocol)) throw new TypeError(`The option url must begin with ws, wss, http or https: ${url}`);
  if (parsed.pathname === "/") parsed.pathname = `/${PATH}`;
  return parsed.href;
}

// Tokens and ids.

/** Return the claims of a JWT, unverified; {} for what is none. */
function claimsOf(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))) ?? {};
  } catch {
    return {};
  }
}

/** Name the user whom `token` is for; "undefined" if it does not say. */
function userOf(token) {
  const { user_id: id, sub } = claimsOf(token);
  return String(id ?? sub);
}

/** Find the id in the text of a request, which may be anything. */
function idIn(text) {
  try {
    return JSON.parse(text)?.id;
  } catch {
    return undefined;
  }
}

/** Split an event's id "<epoch>-<offset>". */
function split(id) {
  const dash = id.lastIndexOf("-");
  return [id.slice(0, dash), Number(id.slice(dash + 1))];
}

/** Whether the event `id` comes after the event `position` of the same room; in another epoch everything does. */
function isAfter(id, position) {
  if (position === undefined) return true;
  const [epoch, offset] = split(id);
  const [before, last] = split(position);
  return epoch !== before || offset > last;
}

const random = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(36)).join("");

/** A frame that comes from this side, and not from the server. */
const local = (type, room, data) => ({ type, ...(room && { room }), data, timestamp: new Date().toISOString() });

// The link: one connection, and all that keeps it alive.

/** Requests that may be repeated without a key. */
const CORE = new Set(["join_room", "leave_room", "ping", "refresh_token"]);
/** Errors after which a request is made again by itself. */
const AGAIN = new Set(["rate_limited", "in_progress", "unavailable"]);
/** Errors after which a room that was joined before is asked for again. */
const PASSING = new Set([...AGAIN, "timeout", "internal"]);
/** Closes after which coming back cannot help. 4401 and 4403 are among them, unless there is a new token. */
const FINAL = new Set([1002, 1003, 1007, 1009, 4401, 4403, 4410]);
/** The server remembers keys for 300 s; what is still unanswered then cannot be repeated without the risk of a double. */
const KEYS_LAST = 270_000;
/** A connection that held for so long was a good one: the next attempt is the first again. */
const STABLE = 5_000;
/** Tokens tell when they were issued in seconds: one made in the same second could not be told from those revoked. */
const SECOND = 1_000;
/** How long an answer may take when there is reason to doubt the connection. */
const PROBE = 5_000;
/** The server lets a client run five seconds ahead of its rate. */
const BURST = 5_000;
const LONGEST_TIMER = 2 ** 31 - 1;

/**
 * A request is {type, room, body, since, done}: `body` is its JSON without id, `done(error, frame)` hears the outcome.
 * The `host` is asked for tokens, `token({refused, previous})`, `renewable` if it can have new ones, and told of every
 * `message` and `state`.
 */
class Link {
  state = "closed";
  welcome = null;
  #options;
  #host;
  #socket = null;
  #timers = new Map();
  #turn = 0;
  #attempts = 0;
  #openedAt = 0;
  #heardAt = 0;
  #hopeAt = 0;
  #probing = false;
  #token;
  /** The close [code, reason] after which only a new token helps; null if the old one is still good. */
  #refused = null;
  #skew = 0;
  #spent = 0;
  #ids = 0;
  /** Requests without an outcome, in the order in which they were made; and those on the wire, by their id there. */
  #lane = new Set();
  #flying = new Map();
  /** The ids in texts that were sent as they were: their answers are no events, though their ids may look so. */
  #strays = new Set();
  /** The rooms joined: whether on this connection, and who waits to hear that they are. */
  #rooms = new Map();
  #rejoining = new Set();
  /** The id of the last event of each room; "" is the user's own. */
  #positions = new Map();

  /** `own` is the id of the last of the user's own notifications that were heard, if there was one. */
  constructor(options, host, own) {
    this.#options = options;
    this.#host = host;
    if (own) this.#positions.set("", own);
  }

  connect() {
    if (this.state !== "closed") return;
    this.#attempts = 0;
    this.#refused = null;
    this.#open();
  }

  close() {
    this.#turn++;
    this.#hangUp();
    if (this.state !== "closed") this.#finish(1000, "");
  }

  /** There is reason to hope: connect now, or see whether the connection still lives. */
  wake() {
    this.#hopeAt = Date.now();
    if (this.state === "waiting") this.#open();
    else this.doubt();
  }

  /** There is reason to fear: see whether the connection still lives. */
  doubt() {
    if (this.state === "open") this.#probe(Math.min(PROBE, this.#options.heartbeat || PROBE));
  }

  request(request) {
    const room = this.#rooms.get(request.room);
    if (request.type === "join_room" && room && request.since === undefined && !this.#leaves(request.room)) {
      if (room.live) request.done(null, this.#joinedAlready(request.room));
      else room.waiting.push(request.done);
      return;
    }
    if (this.#lane.size >= this.#options.queue) {
      const message = `${this.#lane.size} requests wait already, as many as the option queue allows; try again later.`;
      request.done({ code: "queue_full", message });
      return;
    }
    this.#lane.add(request);
    this.#pump();
  }

  /** Send `text` as it is; whether there was a connection to send it on. */
  write(text) {
    if (!this.welcome) return false;
    const id = idIn(text);
    if (id !== undefined) this.#strays.add(id);
    this.#write(text);
    return true;
  }

  // Connecting.

  async #open() {
    const turn = ++this.#turn;
    this.#clear("retry");
    this.#change("connecting");
    let token;
    try {
      token = await this.#host.token({ refused: this.#refused !== null, previous: this.#token });
    } catch (error) {
      if (turn === this.#turn) this.#lost(0, `No token: ${error?.message ?? error}`, this.#refused);
      return;
    }
    if (turn !== this.#turn) return;
    if (!token || typeof token !== "string") this.#finish(4401, "No token was given");
    else if (this.#refused && token === this.#token) this.#finish(...this.#refused);
    else if (this.#token && userOf(token) !== userOf(this.#token)) {
      this.#finish(4401, "The token is another user's; make a new ChatClient for another user");
    } else this.#dial(token);
  }

  #dial(token) {
    const { WebSocket, timeout } = this.#options;
    const url = new URL(this.#options.url);
    url.searchParams.set("since", this.#positions.get("") ?? "");
    // As a subprotocol the token is written to no log on the way; one that cannot stand there goes into the URL.
    const plain = /^[\w.~+-]+$/.test(token);
    if (!plain) url.searchParams.set("token", token);
    let socket;
    try {
      socket = plain ? new WebSocket(url.href, ["bearer", token]) : new WebSocket(url.href);
    } catch (error) {
      this.#finish(0, error.message); // ws: from a page with https:, or forbidden by its content security policy
      return;
    }
    this.#token = token;
    this.#refused = null;
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#socket === socket && this.#heard(data);
    socket.onclose = ({ code, reason }) => this.#socket === socket && this.#lost(code, reason);
    this.#after("dial", timeout, () => this.#lost(1006, `No welcome within ${timeout} ms`));
  }

  #welcomed(message) {
    this.#clear("dial");
    this.#openedAt = Date.now();
    this.#skew = Date.parse(message.timestamp) - Date.now() || 0;
    this.#spent = 0;
    this.welcome = message;
    const resync = this.#arrive("", this.#positions.get(""), message.data);
    for (const room of this.#rooms.keys()) this.#rejoin(room);
    this.#beat();
    this.#planRefresh();
    this.#change("open");
    this.#host.message(message);
    if (resync) this.#host.message(resync);
    this.#pump();
  }

  // Losing the connection, and coming back.

  #lost(code, reason, refused = code === 4401 || code === 4403 ? [code, reason] : null) {
    this.#hangUp();
    if (this.#openedAt && Date.now() - this.#openedAt > STABLE) this.#attempts = 0;
    const revoked = this.#openedAt && code === 4401;
    this.#openedAt = 0;
    if (!this.#options.reconnect || (FINAL.has(code) && !(refused && this.#host.renewable))) {
      this.#finish(code, reason);
      return;
    }
    this.#refused = refused;
    const delay = Math.max(this.#delay(code), revoked ? SECOND : 0);
    this.#attempts++;
    this.#after("retry", delay, () => this.#open());
    this.#change("waiting", { code, reason, delay, retryAt: Date.now() + delay });
  }

  /** How long to wait: any time up to a bound that doubles, so that a crowd that was cut off together returns apart. */
  #delay(code) {
    const { base, max, drain } = this.#options.reconnect;
    if (this.#attempts === 0 && this.#refused) return 0;
    if (code === 1006 && Date.now() - this.#hopeAt < PROBE) {
      this.#hopeAt = 0; // the machine woke, and only now learns that its connection broke while it slept
      return 0;
    }
    if (this.#attempts === 0 && code === 1012) return Math.random() * drain;
    const bound = Math.min(max, base * 2 ** this.#attempts);
    return code === 4429 ? 5 * bound * (1 + Math.random()) : Math.random() * bound;
  }

  #hangUp() {
    const socket = this.#socket;
    this.#socket = null;
    this.welcome = null;
    for (const name of ["dial", "beat", "refresh", "hold", "pace"]) this.#clear(name);
    for (const request of this.#flying.values()) request.flying = false;
    this.#flying.clear();
    this.#strays.clear();
    for (const room of this.#rejoining) this.#clear(room);
    this.#rejoining.clear();
    for (const room of this.#rooms.values()) room.live = false;
    socket?.close(1000);
  }

  /** End for good, or until connect() is called again. Nothing waits any longer. */
  #finish(code, reason) {
    for (const name of this.#timers.keys()) this.#clear(name);
    const dones = [...this.#lane].map((request) => request.done);
    this.#lane.clear();
    for (const room of this.#rooms.values()) dones.push(...room.waiting.splice(0));
    this.#change("closed", { code, reason });
    const why = `The connection is closed for good (${code} ${reason || "on request"}); call connect() to begin anew.`;
    for (const done of dones) done({ code: "closed", message: why });
  }

  #change(state, more = {}) {
    this.state = state;
    this.#host.state({ state, attempts: this.#attempts, ...more });
  }

  // Hearing.

  #heard(text) {
    this.#heardAt = Date.now();
    this.#options.trace?.("in", text);
    const message = JSON.parse(text);
    const { type, room, id, data } = message;
    const request = this.#flying.get(id);
    if (request) {
      this.#flying.delete(id);
      request.flying = false;
      this.#answered(request, message);
      this.#pump();
      return;
    }
    if (type === "connected") {
      this.#welcomed(message);
      return;
    }
    if (this.#strays.delete(id) || type === "joined_room") {
      delete message.id;
      this.#follow(message);
    } else if (type === "left_room") this.#forget(room);
    else if (type === "resync") this.#positions.set(room ?? "", data.last_id);
    else if (typeof id === "string" && (!room || this.#rooms.has(room))) this.#positions.set(room ?? "", id);
    this.#host.message(message);
  }

  /** Take note of the answer to what was sent as text: the room is one's own from now on, or no longer. */
  #follow({ type, room, data }) {
    if (type === "left_room") this.#forget(room);
    if (type !== "joined_room" || this.#rooms.has(room)) return;
    this.#rooms.set(room, { live: true, waiting: [] });
    if (data.last_id !== undefined && !data.recovered) this.#positions.set(room, data.last_id);
  }

  #answered(request, message) {
    delete message.id;
    if (message.type === "error") {
      this.#refuse(request, message);
      return;
    }
    let resync;
    if (request.type === "join_room") resync = this.#joined(request, message);
    else if (request.type === "leave_room") this.#forget(request.room);
    this.#lane.delete(request);
    request.done(null, message);
    if (resync) this.#host.message(resync);
  }

  #refuse(request, message) {
    const { code, error, fields } = message.data;
    if (!AGAIN.has(code) || !this.#lane.has(request)) {
      this.#lane.delete(request);
      request.done({ code, message: error, fields, room: message.room }, message);
      return;
    }
    // It goes first again, and alone, so that nothing overtakes it.
    if (code === "rate_limited") request.sentAt = 0;
    request.alone = true;
    this.#after("hold", code === "in_progress" ? 250 : 500 + 1000 * Math.random(), () => this.#pump());
  }

  // Asking.

  /** Send what may be sent: as many at once as `inFlight`, but alone what may have been done before. */
  #pump() {
    if (!this.welcome || this.#timers.has("hold")) return;
    let flying = 0;
    for (const request of this.#lane) {
      if (flying >= this.#options.inFlight) return;
      if (!request.flying) {
        const repeated = request.sentAt && !CORE.has(request.type);
        request.alone ||= repeated;
        if (request.alone && flying) return;
        if (repeated && this.#rejoining.size) return; // whether the server still knows its key is not known yet
        if (repeated && Date.now() - request.sentAt > KEYS_LAST) {
          this.#giveUp(request, "was not answered for minutes");
          continue;
        }
        if (!this.#mayPace()) return;
        request.sentAt ||= Date.now();
        this.#transmit(request);
      }
      if (request.alone) return;
      flying++;
    }
  }

  /** Whether one more may go now, within the server's limit of messages a second. */
  #mayPace() {
    const ahead = this.#spent - Date.now() - BURST;
    if (!this.#options.rate || ahead <= 0) return true;
    this.#after("pace", ahead, () => this.#pump());
    return false;
  }

  #transmit(request) {
    const { type, room } = request;
    const id = ++this.#ids;
    if (type === "join_room") request.from = request.since ?? this.#positions.get(room);
    const join = { id, type, room, data: { since: request.from ?? null } };
    request.flying = true;
    this.#flying.set(id, request);
    this.#write(type === "join_room" ? JSON.stringify(join) : `{"id":${id},${request.body.slice(1)}`);
  }

  #write(text) {
    this.#spent = Math.max(this.#spent, Date.now()) + 1000 / (this.#options.rate || Infinity);
    this.#options.trace?.("out", text);
    this.#socket.send(text);
  }

  /** Say of a request that it may have been carried out or not: only its sender can tell what that means. */
  #giveUp(request, why) {
    this.#lane.delete(request);
    const message = `${request.type} ${why}: it may have been carried out, and sending it again could do it twice.`;
    request.done({ code: "uncertain", message, room: request.room });
  }

  // Rooms.

  #leaves(room) {
    return [...this.#lane].some((request) => request.type === "leave_room" && request.room === room);
  }

  #joinedAlready(room) {
    const data = { message: `Joined room ${room}`, recovered: true, last_id: this.#positions.get(room) };
    return local("joined_room", room, data);
  }

  #joined({ room, from }, message) {
    const waiting = this.#rooms.get(room)?.waiting ?? [];
    this.#rooms.set(room, { live: true, waiting: [] });
    const resync = this.#arrive(room, from, message.data);
    for (const done of waiting) done(null, { ...message });
    return resync;
  }

  /** Note where a room stands whose events were asked for `from` an id on; return the resync if there is a hole. */
  #arrive(room, from, { recovered, last_id: last }) {
    if (last === undefined) return undefined;
    this.#positions.set(room, recovered ? from : last);
    if (recovered || from === undefined || from === null) return undefined;
    if (split(from)[0] !== split(last)[0]) this.#doubtKeys(room);
    return local("resync", room, { message: "Some events were lost; load the state anew.", last_id: last });
  }

  /** The room's history is another one: who lost it, a server without Redis, has forgotten the keys as well. */
  #doubtKeys(room) {
    for (const request of this.#lane) {
      const home = this.#rooms.has(request.room) ? request.room : "";
      if (request.sentAt && !CORE.has(request.type) && home === room) {
        this.#giveUp(request, "was not answered before the server lost its memory");
      }
    }
  }

  #rejoin(room) {
    this.#rejoining.add(room);
    const done = (error, message) => {
      if (error && PASSING.has(error.code)) {
        this.#after(room, 500 + 1000 * Math.random(), () => this.#rooms.has(room) && this.#rejoin(room));
        return;
      }
      this.#rejoining.delete(room);
      if (!error) {
        this.#host.message(message);
        return;
      }
      this.#host.message(message);
      this.#host.message(local("left_room", room, { message: `Could not join room ${room} again: ${error.message}` }));
      this.#forget(room, error, message);
    };
    this.#transmit({ type: "join_room", room, done });
  }

  #forget(room, error = { code: "not_joined", message: `${room} was left before it could be joined again.`, room }, frame) {
    const waiting = this.#rooms.get(room)?.waiting ?? [];
    this.#rooms.delete(room);
    this.#positions.delete(room);
    for (const done of waiting) done(error, frame && { ...frame });
  }

  // Heartbeat: silence for an interval is answered with a ping, and for another one with a new connection.

  #beat() {
    this.#probing = false;
    const silence = Date.now() - this.#heardAt;
    const { heartbeat } = this.#options;
    if (!heartbeat) return;
    if (silence >= heartbeat) this.#probe(heartbeat);
    else this.#after("beat", heartbeat - silence, () => this.#beat());
  }

  #probe(patience) {
    const { heartbeat } = this.#options;
    if (this.#probing && patience >= heartbeat) return;
    this.#probing = true;
    const asked = Date.now();
    this.#transmit({ type: "ping", body: '{"type":"ping"}', done() {} });
    this.#after("beat", patience, () => {
      if (this.#heardAt >= asked) this.#beat();
      else if (Date.now() - asked < 2 * patience + 100) this.#lost(1006, "No heartbeat");
      else {
        this.#probing = false;
        this.#probe(patience); // this timer came late: the machine slept, and what was said may wait to be read
      }
    });
  }

  // Tokens that end.

  #planRefresh() {
    const left = claimsOf(this.#token).exp * 1000 - this.#skew - Date.now();
    if (!this.#host.renewable || Number.isNaN(left)) return;
    const delay = Math.max(1000, left - Math.min(this.#options.refresh, left / 2));
    this.#after("refresh", delay, () => this.#refresh());
  }

  async #refresh() {
    const turn = this.#turn;
    let token;
    try {
      token = await this.#host.token({ refused: false, previous: this.#token });
    } catch {
      token = this.#token; // it is asked for again before the old one ends
    }
    if (turn !== this.#turn || !this.welcome) return;
    if (!token || token === this.#token) {
      this.#planRefresh();
      return;
    }
    const done = (error, message) => {
      if (!error) this.#token = token;
      this.#host.message(message);
      this.#planRefresh();
    };
    this.#transmit({ type: "refresh_token", body: JSON.stringify({ type: "refresh_token", data: { token } }), done });
  }

  // Timers, by name.

  #after(name, delay, act) {
    this.#clear(name);
    const timer = setTimeout(() => {
      this.#timers.delete(name);
      act();
    }, Math.min(delay, LONGEST_TIMER));
    this.#timers.set(name, timer);
  }

  #clear(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

// One connection for all tabs: the worker's side.

/** The worker's name. It changes with what is said over the ports, lest a new page speak to the worker of an old one. */
const WORKER = "roomcast 1";
/** How long a tab may take to start the worker, and to bring a token, before another way is tried. */
const TAB_PATIENCE = 5_000;

/** A user's tabs, and the link that they share. Each tab hears of the rooms that it joined itself. */
class Household {
  #tabs = new Set();
  #link;
  #state;
  #first;
  #empty;

  constructor({ options, token, own }, empty) {
    const household = this;
    this.#first = token;
    this.#empty = empty;
    const host = {
      get renewable() {
        return [...household.#tabs].some((tab) => tab.renewable);
      },
      token: (about) => this.#token(about),
      message: (message) => this.#spread(message),
      state: (state) => this.#changed(state),
    };
    this.#link = new Link({ ...options, WebSocket }, host, own);
  }

  add(tab, lock) {
    this.#link.connect();
    this.#tabs.add(tab);
    tab.port.postMessage({ do: "attached", state: this.#state, welcome: this.#link.welcome, lock });
  }

  take(tab, order) {
    if (order.do === "request") this.#request(tab, order);
    else if (order.do === "token") tab.tokens.get(order.n)?.(order);
    else if (order.do === "connect" || order.do === "wake") {
      this.#tabs.delete(tab); // it is before the user's eyes, and so the first to be asked for a token
      this.#tabs.add(tab);
      this.#link[order.do]();
    } else if (order.do === "doubt") this.#link.doubt();
    else if (order.do === "bye") this.remove(tab);
  }

  remove(tab) {
    if (!this.#tabs.delete(tab)) return;
    tab.port.close();
    for (const answer of tab.tokens.values()) answer({ error: "the tab was closed" });
    if (!this.#tabs.size) {
      this.#empty();
      this.#link.close();
      return;
    }
    for (const room of tab.wanted) {
      if (!this.#isWanted(room)) this.#link.request({ type: "leave_room", room, body: leaving(room), done() {} });
    }
  }

  #isWanted(room) {
    return [...this.#tabs].some((tab) => tab.wanted.has(room));
  }

  #request(tab, { n, request }) {
    const { type, room } = request;
    const done = (error, frame) => {
      if (type === "join_room" && !error) tab.rooms.add(room);
      if (type === "join_room" && error && !tab.rooms.has(room)) tab.wanted.delete(room);
      tab.port.postMessage({ do: "outcome", n, error, frame });
    };
    if (type === "join_room") tab.wanted.add(room);
    if (type === "leave_room") {
      tab.wanted.delete(room);
      tab.rooms.delete(room);
      if (this.#isWanted(room)) {
        done(null, local("left_room", room, { message: `Left room ${room}` }));
        return;
      }
    }
    this.#link.request({ ...request, done });
  }

  #spread(message) {
    const { type, room } = message;
    for (const tab of this.#tabs) {
      if (room && !tab.rooms.has(room)) continue;
      tab.port.postMessage({ do: "message", message });
      if (type === "left_room") [tab.rooms, tab.wanted].forEach((rooms) => rooms.delete(room));
    }
  }

  #changed(state) {
    this.#state = state;
    for (const tab of this.#tabs) tab.port.postMessage({ do: "state", state });
  }

  /** Ask the tabs for a token, the one seen last first; one that does not answer, as it sleeps, is passed over. */
  async #token(about) {
    const first = this.#first;
    this.#first = undefined;
    if (first) return first;
    let problem = "no tab answered";
    for (const tab of [...this.#tabs].reverse()) {
      const { token, error } = await this.#askTab(tab, about);
      if (error === undefined) return token;
      problem = error;
    }
    throw new Error(problem);
  }

  #askTab(tab, about) {
    const n = random();
    return new Promise((resolve) => {
      const timer = setTimeout(() => answer({ error: "the tab did not answer" }), TAB_PATIENCE);
      const answer = (outcome) => {
        clearTimeout(timer);
        if (outcome.busy) return; // it is awake, and may take its time
        tab.tokens.delete(n);
        resolve(outcome);
      };
      tab.tokens.set(n, answer);
      tab.port.postMessage({ do: "token", n, about });
    });
  }
}

/**
 * Hold a lock for as long as this tab or worker lives, by which others learn that it has gone, however it ended. Where
 * there are none (http:, but for localhost), `name` is undefined: a tab's goodbye has to do.
 */
function hold() {
  const name = `${WORKER} ${random()}`;
  return new Promise((resolve) => {
    const held = () => new Promise((release) => resolve({ name, release }));
    const request = globalThis.navigator?.locks?.request(name, held) ?? Promise.reject();
    request.catch(() => resolve({ name: undefined, release() {} }));
  });
}

/** Call `act` when nobody holds the lock `name` any longer; returns how to wait no more. */
function whenFree(name, act) {
  const waiting = new AbortController();
  if (name) globalThis.navigator?.locks?.request(name, { signal: waiting.signal }, act).catch(() => {});
  return () => waiting.abort();
}

const leaving = (room) => JSON.stringify({ type: "leave_room", room });

function serveTabs(scope) {
  const households = new Map();
  const lock = hold();
  scope.onconnect = ({ ports: [port] }) => {
    let household;
    const tab = { port, rooms: new Set(), wanted: new Set(), tokens: new Map(), renewable: false };
    port.onmessage = async ({ data: order }) => {
      if (order.do !== "attach") {
        household?.take(tab, order);
        return;
      }
      const { key } = order;
      const { name } = await lock;
      tab.renewable = order.renewable;
      household = households.get(key);
      if (!household) {
        household = new Household(order, () => households.delete(key));
        households.set(key, household);
      }
      household.add(tab, name);
      whenFree(order.lock, () => household.remove(tab));
    };
  };
}

// One connection for all tabs: the tab's side, which is used like a Link.

class SharedLink {
  #port;
  #host;
  #count = 0;
  #requests = new Map();
  #release;
  #unwatch = () => {};

  /** Resolve to a link through the worker; reject where there can be none. */
  static async attach(options, host, order) {
    const { WebSocket, trace, ...plain } = options;
    const { name, release } = await hold();
    let worker;
    try {
      worker = new SharedWorker(options.worker, { type: "module", name: WORKER });
    } catch (error) {
      release();
      throw error;
    }
    const link = new SharedLink(worker.port, host, release);
    await new Promise((resolve, reject) => {
      const fail = () => {
        link.#letGo();
        reject(new Error(`${options.worker} does not run as a SharedWorker here`));
      };
      const timer = setTimeout(fail, TAB_PATIENCE);
      worker.onerror = fail;
      worker.port.onmessage = ({ data: { state, welcome, lock } }) => {
        clearTimeout(timer);
        worker.onerror = null;
        worker.port.onmessage = ({ data }) => link.#take(data);
        link.#unwatch = whenFree(lock, () => link.#died());
        resolve();
        host.state(state);
        if (welcome) host.message(welcome);
      };
      const { renewable } = host;
      worker.port.postMessage({ do: "attach", options: { ...plain, worker: "" }, renewable, lock: name, ...order });
    });
    return link;
  }

  constructor(port, host, release) {
    this.#port = port;
    this.#host = host;
    this.#release = release;
  }

  connect() {
    this.#port.postMessage({ do: "connect" });
  }

  wake() {
    this.#port.postMessage({ do: "wake" });
  }

  doubt() {
    this.#port.postMessage({ do: "doubt" });
  }

  request(request) {
    const n = ++this.#count;
    this.#requests.set(n, request);
    const { done, ...rest } = request;
    this.#port.postMessage({ do: "request", n, request: rest });
  }

  close() {
    this.#letGo();
    this.#host.state({ state: "closed", attempts: 0, code: 1000, reason: "" });
    const message = "The client was closed before the answer came.";
    for (const { done } of this.#requests.values()) done({ code: "closed", message });
    this.#requests.clear();
  }

  /** The worker crashed: what it was asked has to be asked again, of another. */
  #died() {
    this.#letGo();
    this.#host.orphaned([...this.#requests.values()]);
  }

  #letGo() {
    this.#port.postMessage({ do: "bye" });
    this.#port.onmessage = null;
    this.#port.close();
    this.#unwatch();
    this.#release();
  }

  #take(order) {
    if (order.do === "message") this.#host.message(order.message);
    else if (order.do === "state") this.#host.state(order.state);
    else if (order.do === "token") this.#token(order);
    else if (order.do === "outcome") {
      const request = this.#requests.get(order.n);
      this.#requests.delete(order.n);
      request?.done(order.error, order.frame);
    }
  }

  async #token({ n, about }) {
    this.#port.postMessage({ do: "token", n, busy: true });
    let answer;
    try {
      answer = { token: await this.#host.token(about) };
    } catch (error) {
      answer = { error: String(error?.message ?? error) };
    }
    this.#port.postMessage({ do: "token", n, ...answer });
  }
}

// The client.

/** The client. Every public name is explained in `roomcast.d.ts`. */
export class ChatClient {
  /** The token, or a function that returns one, or a promise of one. A new one may be set before connect(). */
  token;
  #options;
  #host;
  #link = null;
  #early = [];
  #state = { state: "closed", attempts: 0 };
  #user = null;
  #welcome = null;
  #listening = null;
  #handlers = new Map();
  #rooms = new Set();
  #positions = new Map();
  #prefix = random();
  #count = 0;
  #turn = 0;

  constructor(token, options = {}) {
    const client = this;
    this.token = token;
    this.#options = complete(options);
    this.#host = {
      get renewable() {
        return typeof client.token === "function";
      },
      token: async (about) => (typeof client.token === "function" ? client.token(about) : client.token),
      message: (message) => client.#deliver(message),
      state: (state) => client.#changed(state),
      orphaned: (requests) => client.#orphaned(requests),
    };
  }

  /** "connecting", "open", "waiting" (to connect again) or "closed". */
  get state() {
    return this.#state.state;
  }

  /** Who the server says this is, {user_id, username}; null before the first welcome. */
  get user() {
    return this.#user;
  }

  /** The names of the rooms that this client is in. */
  get rooms() {
    return [...this.#rooms];
  }

  /** Connect, and stay connected; resolves to the first welcome, and rejects if it is refused for good. */
  connect() {
    if (!this.#welcome) {
      this.#welcome = deferred();
      this.#listen();
      if (this.#link) this.#link.connect();
      else if (this.#options.shared && globalThis.SharedWorker) this.#attach(++this.#turn);
      else this.#use(new Link(this.#options, this.#host));
    }
    return this.#welcome.promise;
  }

  /** Disconnect, and stay so. What still waits is rejected with the code `closed`. */
  close() {
    this.#turn++;
    const link = this.#link;
    if (this.#options.shared) this.#link = null;
    if (link) link.close();
    else if (this.#welcome) this.#changed({ state: "closed", attempts: 0, code: 1000, reason: "" });
    for (const { done } of this.#early.splice(0)) done({ code: "closed", message: "The client was closed before it was connected." });
  }

  /** Call `handler` with every frame of `type`, or of all types with "*"; returns how to stop that. */
  on(type, handler) {
    if (typeof handler !== "function") throw new TypeError(`on(${JSON.stringify(type)}, …) needs a function to call.`);
    if (!this.#handlers.has(type)) this.#handlers.set(type, new Set());
    this.#handlers.get(type).add(handler);
    return () => this.off(type, handler);
  }

  /** Call `handler` with frames of `type` no more. */
  off(type, handler) {
    this.#handlers.get(type)?.delete(handler);
  }

  /** Join `room`, from the event after `since` on if that is given; resolves to the `joined_room`. */
  joinRoom(room, { since } = {}) {
    const fresh = !this.#rooms.has(room);
    if (fresh && since) this.#positions.set(room, since);
    return this.#ask({ type: "join_room", room, since: fresh ? since : undefined }, { type: "join_room", room });
  }

  /** Leave `room`; resolves to the `left_room`. */
  leaveRoom(room) {
    return this.send({ type: "leave_room", room });
  }

  /** Say `content` in `room`; resolves to the `sent`, whose `data.event_id` is the message's id. */
  sendMessage(room, content, metadata) {
    return this.send({ type: "send_message", room, data: metadata === undefined ? { content } : { content, metadata } });
  }

  /** Send any command, {type, room, data}; resolves to its reply, and rejects with a RoomcastError. */
  send(message) {
    const { type, room, data, id, key } = message;
    if (type === "join_room") return this.joinRoom(room, data);
    const keyed = CORE.has(type) ? {} : { key: key ?? `${this.#prefix}${++this.#count}` };
    return this.#ask({ type, room }, { ...message, id: undefined, ...keyed }, id);
  }

  /** Send `text` as it stands, valid or not, at once and without a promise; returns whether there is a connection. */
  sendText(text) {
    return this.#link?.write?.(text) ?? false;
  }

  #ask(request, message, id) {
    const promise = new Promise((resolve, reject) => {
      request.done = (error, frame) => {
        if (frame && id !== undefined) frame.id = id;
        if (error) this.#refused(request, error, frame);
        else this.#replied(request, frame);
        if (error) reject(new RoomcastError(error));
        else resolve(frame);
      };
      request.askedAt = Date.now();
      this.#submit(request, message);
    });
    promise.catch(() => {}); // who does not wait for the outcome hears of it as an `error` event
    return promise;
  }

  #submit(request, message) {
    try {
      request.body = JSON.stringify(message);
    } catch (error) {
      request.done({ code: "invalid_data", message: `${request.type} cannot be sent as JSON: ${error.message}.` });
      return;
    }
    const { maxSize, queue } = this.#options;
    const size = request.body.length * 3 < maxSize ? 0 : new TextEncoder().encode(request.body).length + 24;
    if (size > maxSize) {
      const message = `${request.type} has ${size} bytes; the server takes ${maxSize}. Send less, or set the option maxSize.`;
      request.done({ code: "too_big", message, room: request.room });
    } else if (this.#link) this.#link.request(request);
    else if (this.#early.length < queue) this.#early.push(request);
    else request.done({ code: "queue_full", message: `${queue} requests wait already. Has connect() been called?` });
  }

  #replied({ type, room, since }, frame) {
    if (type === "join_room") {
      this.#rooms.add(room);
      const { recovered, last_id: last } = frame.data;
      if (last !== undefined && !this.#positions.has(room)) this.#positions.set(room, recovered && since ? since : last);
    } else if (type === "leave_room") this.#forget(room);
    this.#emit(frame);
  }

  #refused({ type, room }, { code, message }, frame) {
    if (type === "join_room" && !this.#rooms.has(room)) this.#forget(room);
    if (code === "closed") return;
    this.#emit(frame ?? local("error", room, { error: message, code }));
    if (!this.#handlers.get("error")?.size) console.warn(`roomcast: ${message} (${code})`);
  }

  // The link, one's own or shared.

  #use(link) {
    this.#link = link;
    link.connect();
    for (const request of this.#early.splice(0)) link.request(request);
  }

  /** Share a connection with the user's other tabs; where that cannot be, have one's own. */
  async #attach(turn) {
    const { shared } = this.#options;
    const token = await this.#firstToken(turn);
    if (turn !== this.#turn) return;
    const key = `${this.#options.url} ${typeof shared === "string" ? shared : userOf(token)}`;
    const order = { key, token, own: this.#positions.get("") };
    const link = await SharedLink.attach(this.#options, this.#host, order).catch(() => null);
    if (turn !== this.#turn) {
      link?.close();
      return;
    }
    for (const room of link ? this.#rooms : []) {
      const request = { type: "join_room", room, since: this.#positions.get(room), body: "{}" };
      link.request({ ...request, done: (error, frame) => (error ? this.#refused(request, error, frame) : this.#replied(request, frame)) });
    }
    this.#use(link ?? new Link(this.#options, this.#host));
  }

  /** The worker is gone with what it had yet to do; which of it was done is known by its keys. */
  #orphaned(requests) {
    this.#link = null;
    for (const request of requests) request.sentAt = request.askedAt;
    this.#early.unshift(...requests);
    this.#attach(++this.#turn);
  }

  /** Ask for the first token, by which one knows whose connection to share, until there is one. */
  async #firstToken(turn) {
    const { base, max } = this.#options.reconnect || DEFAULTS.reconnect;
    for (let attempts = 0; turn === this.#turn; attempts++) {
      this.#changed({ state: "connecting", attempts });
      try {
        return await this.#host.token({ refused: false, previous: undefined });
      } catch (error) {
        const delay = Math.random() * Math.min(max, base * 2 ** attempts);
        const reason = `No token: ${error?.message ?? error}`;
        if (turn === this.#turn) this.#changed({ state: "waiting", attempts, code: 0, reason, delay, retryAt: Date.now() + delay });
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
    return undefined;
  }

  // What the link says.

  #changed(state) {
    this.#state = state;
    const closed = state.state === "closed";
    if (closed) {
      this.#listening?.abort();
      const why = `The connection is closed: ${state.code} ${state.reason}`;
      this.#welcome?.reject(new RoomcastError({ code: "closed", message: why }));
      this.#welcome = null;
    }
    this.#emit(local("state", undefined, state));
  }

  #deliver(message) {
    const { type, room = "", id, data } = message;
    if (typeof id === "string") {
      if (!isAfter(id, this.#positions.get(room))) return;
      this.#positions.set(room, id);
    } else if (type === "resync") this.#positions.set(room, data.last_id);
    else if (type === "left_room") this.#forget(room);
    else if (type === "joined_room") this.#rooms.add(room);
    else if (type === "connected") {
      this.#user = { user_id: data.user_id, username: data.username };
      this.#welcome?.resolve(message);
    }
    this.#emit(message);
  }

  #forget(room) {
    this.#rooms.delete(room);
    this.#positions.delete(room);
  }

  #emit(message) {
    for (const type of [message.type, "*"]) {
      for (const handler of [...(this.#handlers.get(type) ?? [])]) {
        try {
          handler(message);
        } catch (error) {
          // A handler's fault is its own; the next one, and the connection, go on.
          if (globalThis.document) reportError(error);
          else console.error(error);
        }
      }
    }
  }

  // What the page says: it is online, it is seen again, it goes.

  #listen() {
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    const listen = (target, type, act) => target?.addEventListener?.(type, act, { signal });
    const wake = () => this.#link?.wake();
    const { document } = globalThis;
    listen(globalThis, "online", wake);
    listen(globalThis, "offline", () => this.#link?.doubt());
    listen(globalThis, "pageshow", wake);
    listen(document, "resume", wake);
    listen(document, "visibilitychange", () => document.visibilityState === "visible" && wake());
    if (this.#options.shared) listen(globalThis, "pagehide", ({ persisted }) => persisted || this.close());
  }
}

function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  made.promise.catch(() => {});
  return made;
}

if (globalThis.SharedWorkerGlobalScope && globalThis.name === WORKER) serveTabs(globalThis);
