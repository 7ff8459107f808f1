/** The public client: it owns a connection, its own or a shared one, and turns calls into requests. */

import { retryDelay } from "./backoff.js";
import { Connection } from "./connection.js";
import { LONGEST_DELAY } from "./constants.js";
import { CLOSED, closedError, queueFull, RoomcastError } from "./errors.js";
import { EventHandlers } from "./event_handlers.js";
import { isNewer, localFrame, randomId } from "./frames.js";
import { checkPlatform, completeOptions, DEFAULTS } from "./options.js";
import { bindSelf, makeProxySafe } from "./proxies.js";
import { REPEATABLE } from "./request_queue.js";
import { Room } from "./room.js";
import { OWN } from "./rooms.js";
import { checkWorker, SharedConnection } from "./shared_connection.js";
import { userOf } from "./tokens.js";

/** A client of one user. `roomcast.d.ts` documents every public name. */
export class ChatClient {
  // The bundler renames the class. Compilers turn a static field into an assignment, and `name` cannot be assigned.
  static get name() {
    return "ChatClient";
  }

  /** A token, or a function that returns one or a promise of one. It may be replaced before connect(). */
  token;
  #options;
  #delegate;
  #connection = null;
  /** Requests made before there is a connection. */
  #early = [];
  #state = { state: "closed", attempts: 0 };
  #user = null;
  /** The promise that connect() returned; null while the client is closed. */
  #welcome = null;
  #pageListeners = null;
  #handlers = new EventHandlers();
  #rooms = new Set();
  /** Rooms that were joined with joinRoom(). They are not left when their last holder leaves. */
  #pinned = new Set();
  /** The rooms of room(), by name. */
  #held = new Map();
  /** The id of the last event passed to the page, by room. */
  #positions = new Map();
  #keyPrefix = randomId();
  #keyCount = 0;
  /** Changes when the client attaches to a worker or closes, so that earlier attempts are abandoned. */
  #generation = 0;
  #isWarned = false;

  constructor(token, options = {}) {
    const client = this;
    bindSelf(this);
    this.token = token;
    this.#options = completeOptions(options);
    this.#delegate = {
      get canRenewToken() {
        return typeof client.token === "function";
      },
      getToken: async (about) => (typeof client.token === "function" ? client.token(about) : client.token),
      onMessage: (message) => client.#received(message),
      onState: (state) => client.#stateChanged(state),
      onWorkerLost: (requests) => client.#workerLost(requests),
    };
  }

  get state() {
    return this.#state.state;
  }

  get user() {
    return this.#user;
  }

  get rooms() {
    return [...this.#rooms];
  }

  get isShared() {
    return this.#connection instanceof SharedConnection;
  }

  connect() {
    if (!this.#welcome) {
      checkPlatform(this.#options);
      this.#welcome = deferred();
      this.#listenToPage();
      if (this.#connection) this.#connection.connect();
      else if (this.#options.shared) this.#attach(++this.#generation);
      else this.#use(new Connection(this.#options, this.#delegate));
    }
    return this.#welcome.promise;
  }

  close() {
    this.#generation++;
    const connection = this.#connection;
    if (this.#options.shared) this.#connection = null;
    if (connection) connection.close();
    else if (this.#welcome) this.#stateChanged(CLOSED);
    else this.#state = CLOSED; // It was not connected; requests are rejected from now on.
    for (const { done } of this.#early.splice(0)) done(closedError(this.#state));
  }

  on(type, handler) {
    return this.#handlers.add(type, handler);
  }

  off(type, handler) {
    this.#handlers.remove(type, handler);
  }

  room(name, options = {}) {
    if (!this.#held.has(name)) {
      const join = () => this.#join(name, null, {});
      const onUnused = (isJoined) => {
        this.#held.delete(name);
        if (isJoined && !this.#pinned.has(name)) this.leaveRoom(name);
      };
      this.#held.set(name, new Room(this, name, join, onUnused));
    }
    return this.#held.get(name).hold(options);
  }

  joinRoom(room, { since, ...options } = {}) {
    const isNew = !this.#rooms.has(room);
    if (isNew && since) this.#positions.set(room, since);
    this.#pinned.add(room);
    return this.#join(room, isNew ? since : undefined, options);
  }

  leaveRoom(room, options) {
    return this.send({ type: "leave_room", room }, options);
  }

  sendMessage(room, content, metadata, options) {
    return this.send({ type: "send_message", room, data: { content, metadata } }, options);
  }

  send(message, options) {
    const { type, room, data, id, key } = message;
    if (type === "join_room") return this.joinRoom(room, { ...data, ...options, id });
    if (type === "leave_room") this.#pinned.delete(room);
    const keyed = REPEATABLE.has(type) ? {} : { key: key ?? `${this.#keyPrefix}${++this.#keyCount}` };
    return this.#request({ type, room }, { ...message, id: undefined, ...keyed }, { ...options, id });
  }

  sendText(text) {
    return this.#connection?.sendText?.(text) ?? false;
  }

  // Requests

  /** Join `room`. With null instead of undefined the server is asked also if the room is joined already. */
  #join(room, since, options) {
    const request = { type: "join_room", room, since };
    return this.#request(request, request, options);
  }

  /** Send `message`; resolves to the reply, with `id` in it if that is given. */
  #request(request, message, { timeout, signal, id }) {
    const promise = new Promise((resolve, reject) => {
      const stopWaiting = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
      };
      const cancel = (reason) => {
        stopWaiting();
        reject(reason);
        this.#dropPosition(request);
        this.#early = this.#early.filter((one) => one !== request);
        this.#connection?.cancel(request);
      };
      const abort = () => cancel(signal.reason);
      const timedOut = () => {
        const message = `${request.type} was not answered within ${timeout} ms. It may be carried out if it was sent.`;
        const error = { code: "timeout", message, room: request.room };
        this.#failed(request, error);
        cancel(new RoomcastError(error));
      };
      const timer = timeout <= LONGEST_DELAY ? setTimeout(timedOut, timeout) : undefined;
      // Also called with a late answer to a cancelled request. That does not change the promise, but the rooms.
      request.done = (error, frame) => {
        stopWaiting();
        if (frame && id !== undefined) frame.id = id;
        if (error) {
          this.#failed(request, error, frame);
          reject(new RoomcastError(error));
        } else {
          this.#succeeded(request, frame);
          resolve(frame);
        }
      };
      signal?.addEventListener("abort", abort);
      if (signal?.aborted) abort();
      else this.#submit(request, message);
    });
    promise.catch(() => {}); // A caller that ignores the promise gets the `error` event, not an unhandled rejection.
    return promise;
  }

  #submit(request, message) {
    const { queue } = this.#options;
    if (this.#state.state === "closed" && this.#state.code !== undefined) {
      request.done(closedError(this.#state));
      return;
    }
    try {
      // JSON.stringify() escapes half a surrogate pair, which no server accepts, and leaves whole pairs as they are.
      request.body = JSON.stringify(message).replace(/\\(ud[89a-f]..|.)/g, (escape) => (escape[5] ? "\ufffd" : escape));
    } catch (error) {
      request.done({ code: "invalid_data", message: `${request.type} cannot be sent as JSON: ${error.message}.` });
      return;
    }
    if (this.#connection) this.#connection.request(request);
    else if (this.#early.length < queue) this.#early.push(request);
    else request.done(queueFull(queue));
  }

  #succeeded({ type, room, since }, frame) {
    if (type === "join_room") {
      this.#rooms.add(room);
      const { recovered, last_id: last } = frame.data;
      if (last !== undefined && !this.#positions.has(room)) this.#positions.set(room, recovered && since ? since : last);
    } else if (type === "leave_room") this.#forget(room);
    if (frame.type === "joined_room" || frame.type === "left_room") this.#emit(frame);
    else this.#handlers.emit(frame);
  }

  #failed({ type, room }, { code, message }, frame) {
    this.#dropPosition({ type, room });
    if (code === "closed") return;
    this.#emit(frame ?? localFrame("error", room, { error: message, code }));
    if (!this.#handlers.has("error")) console.warn(`roomcast: ${message} (${code})`);
  }

  /** Forget the position of a room that `request` did not join, which is the `since` of that request. */
  #dropPosition({ type, room }) {
    if (type === "join_room" && !this.#rooms.has(room)) this.#forget(room);
  }

  // The connection

  #use(connection) {
    this.#connection = connection;
    connection.connect();
    for (const room of this.#rooms) this.#join(room, this.#positions.get(room), {}); // Joined through another connection.
    for (const request of this.#early.splice(0)) connection.request(request);
  }

  /** Share a connection with the user's other tabs. If that is not possible here, open a connection of this tab's own. */
  async #attach(generation) {
    const { shared, url } = this.#options;
    const first = { ownPosition: this.#positions.get(OWN) };
    let connection;
    try {
      checkWorker(this.#options.worker);
      first.token = await this.#firstToken(generation);
      if (generation !== this.#generation) return;
      const key = `${url} ${typeof shared === "string" ? shared : userOf(first.token)}`;
      connection = await SharedConnection.attach(this.#options, this.#delegate, { key, ...first });
    } catch (error) {
      if (generation === this.#generation && !this.#isWarned) {
        console.warn(`roomcast: This tab cannot share its connection: ${error.message}`);
        this.#isWarned = true;
      }
    }
    if (generation !== this.#generation) {
      connection?.close();
      return;
    }
    connection ??= new Connection(this.#options, this.#delegate, first);
    this.#use(connection);
  }

  /** Send the requests of a crashed worker again. Their idempotency keys tell the server which ones were executed. */
  #workerLost(requests) {
    this.#connection = null;
    this.#early.unshift(...requests);
    this.#attach(++this.#generation);
  }

  /** Ask for a token until there is one. It shows which user's connection to share. */
  async #firstToken(generation) {
    for (let attempts = 0; generation === this.#generation; attempts++) {
      this.#stateChanged({ state: "connecting", attempts });
      try {
        return await this.#delegate.getToken({ refused: false, previous: undefined });
      } catch (error) {
        const delay = retryDelay(this.#options.reconnect || DEFAULTS.reconnect, attempts);
        const reason = `No token: ${error?.message ?? error}`;
        if (generation === this.#generation) {
          this.#stateChanged({ state: "waiting", attempts, code: 0, reason, delay, retryAt: Date.now() + delay });
        }
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
    return undefined;
  }

  #stateChanged(state) {
    this.#state = state;
    if (state.state === "closed") {
      this.#pageListeners?.abort();
      this.#welcome?.reject(new RoomcastError(closedError(state)));
      this.#welcome = null;
    }
    for (const held of this.#held.values()) held.connected(state.state === "open");
    this.#handlers.emit(localFrame("state", undefined, state));
  }

  /** Pass a frame to the handlers of its room and of the client. */
  #emit(frame) {
    this.#held.get(frame.room)?.receive(frame);
    this.#handlers.emit(frame);
  }

  /** Note what a frame changes, and pass it to the page. Drop events that the page has received already. */
  #received(message) {
    const { type, room = OWN, id, data } = message;
    if (typeof id === "string") {
      if (!isNewer(id, this.#positions.get(room))) return;
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
    this.#pinned.delete(room);
    this.#positions.delete(room);
  }

  /** Reconnect or check the connection when the page or the network comes back. */
  #listenToPage() {
    this.#pageListeners = new AbortController();
    const { signal } = this.#pageListeners;
    const listen = (target, type, callback) => target?.addEventListener?.(type, callback, { signal });
    const wake = () => this.#connection?.wake();
    const { document } = globalThis;
    listen(globalThis, "online", wake);
    listen(globalThis, "offline", () => this.#connection?.probe());
    listen(globalThis, "pageshow", wake);
    listen(document, "resume", wake);
    listen(document, "visibilitychange", () => document.visibilityState === "visible" && wake());
    if (this.#options.shared) listen(globalThis, "pagehide", ({ persisted }) => persisted || this.close());
  }
}

makeProxySafe(ChatClient);

/** Return {promise, resolve, reject}. A rejection that nothing handles is not reported. */
function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  parts.promise.catch(() => {});
  return parts;
}
