/** One WebSocket connection to the server, kept alive across reconnects. */

import { Backoff } from "./backoff.js";
import { CLOSE_TIMEOUT } from "./constants.js";
import { CLOSE_BAD_TOKEN, CLOSE_CONNECTION_LOST, CLOSE_NORMAL, closedError, FINAL_CLOSES } from "./errors.js";
import { callHandler } from "./event_handlers.js";
import { requestIdOf } from "./frames.js";
import { Heartbeat } from "./heartbeat.js";
import { RequestQueue } from "./request_queue.js";
import { OWN, Rooms } from "./rooms.js";
import { Timers } from "./timers.js";
import { TokenRefresh, userOf } from "./tokens.js";

/** Tokens that may be sent as a WebSocket subprotocol. */
const SUBPROTOCOL_TOKEN = /^[\w.~+-]+$/;

/**
 * Owns the socket and the parts that keep the connection alive, and passes frames between them.
 *
 * A ChatClient or a TabGroup uses it through connect(), close(), request() and so on, and is its `delegate`:
 * `getToken({refused, previous})` returns a token or a promise of one, `canRenewToken` is true if the next call may return
 * another token, `onMessage(frame)` receives every frame, and `onState(state)` every change of the state.
 */
export class Connection {
  /** "connecting", "open", "waiting" (for the next attempt) or "closed". */
  state = "closed";
  /** The `connected` frame of the current connection. */
  welcome = null;
  #options;
  #delegate;
  #socket = null;
  #timers = new Timers();
  /** Changes with each attempt and with close(), so that the results of earlier attempts are ignored. */
  #attempt = 0;
  #firstToken;
  #token;
  /** The close [code, reason] with which the server refused #token; null if the token was not refused. */
  #refusal = null;
  /** Ids in frames that the page sent as text. Their answers are not events, even if the ids look like event ids. */
  #textIds = new Set();
  #backoff;
  #heartbeat;
  #refresh;
  #rooms;
  #queue;

  /**
   * `ownPosition` is the id of the last of the user's own notifications that was received, if any, and `token` the token for
   * the first attempt, if the caller has one.
   */
  constructor(options, delegate, { ownPosition, token } = {}) {
    this.#options = options;
    this.#delegate = delegate;
    this.#firstToken = token;
    this.#backoff = new Backoff(options.reconnect);
    this.#heartbeat = new Heartbeat(options.heartbeat, {
      // The server answers a ping without an id even while a command runs.
      ping: () => this.#queue.sendText('{"type":"ping"}'),
      oldest: () => this.#queue.oldest,
      onDead: () => this.#lost(CLOSE_CONNECTION_LOST, "No heartbeat"),
    });
    this.#refresh = new TokenRefresh(options.refresh, delegate, (token, done) => this.#sendToken(token, done));
    this.#rooms = new Rooms({
      rejoin: (request) => this.#queue.rejoin(request),
      emit: (frame) => delegate.onMessage(frame),
      onLost: (room) => this.#queue.lostHistory(room),
    });
    this.#queue = new RequestQueue(options, this.#rooms, (text) => this.#send(text));
    if (ownPosition) this.#rooms.setPosition(OWN, ownPosition);
  }

  connect() {
    if (this.state !== "closed") return;
    this.#backoff.reset();
    this.#refusal = null;
    this.#open();
  }

  close() {
    this.#attempt++;
    this.#disconnect();
    if (this.state !== "closed") this.#finish(CLOSE_NORMAL, "");
  }

  /** The device woke up or is online again: reconnect now, or check if the connection survived. */
  wake() {
    this.#backoff.woke();
    if (this.state === "waiting") this.#open();
    else this.probe();
  }

  /** Check now if the connection is still alive. */
  probe() {
    if (this.state === "open") this.#heartbeat.probe();
  }

  request(request) {
    this.#queue.add(request);
  }

  /** Stop waiting for the answer to `request`. It is not sent any more, but its answer is processed if it was sent. */
  cancel(request) {
    this.#queue.cancel(request);
  }

  /** Send `text` unchanged. Return false if there is no connection. */
  sendText(text) {
    if (!this.welcome) return false;
    const id = requestIdOf(text);
    if (id !== undefined) this.#textIds.add(id);
    this.#queue.sendText(text);
    return true;
  }

  // Connect

  async #open() {
    const attempt = ++this.#attempt;
    this.#timers.clear("reconnect");
    this.#setState("connecting");
    let token = this.#firstToken;
    this.#firstToken = undefined;
    try {
      token ??= await this.#delegate.getToken({ refused: this.#refusal !== null, previous: this.#token });
    } catch (error) {
      if (attempt === this.#attempt) this.#lost(0, `No token: ${error?.message ?? error}`, this.#refusal);
      return;
    }
    if (attempt !== this.#attempt) return;
    if (!token || typeof token !== "string") this.#finish(CLOSE_BAD_TOKEN, "No token was given");
    else if (this.#refusal && token === this.#token) this.#finish(...this.#refusal);
    else if (this.#token && userOf(token) !== userOf(this.#token)) {
      this.#finish(CLOSE_BAD_TOKEN, "The token is another user's: make a new ChatClient");
    } else this.#openSocket(token);
  }

  #openSocket(token) {
    const { timeout } = this.#options;
    let socket;
    try {
      socket = this.#newSocket(token);
    } catch (error) {
      // The page has https: and the URL ws:, or the content security policy forbids the URL.
      this.#finish(0, error.message);
      return;
    }
    this.#token = token;
    this.#refusal = null;
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#socket === socket && this.#received(data);
    let problem = "";
    const ended = (code, reason) => this.#socket === socket && this.#lost(code || CLOSE_CONNECTION_LOST, reason || problem);
    socket.onclose = ({ code, reason }) => ended(code, reason); // Deno: 0 if the connection was lost.
    // Node 22 emits no close event if an attempt fails. Elsewhere it follows at once, and may have a code of the server.
    socket.onerror = ({ message = "" }) => {
      problem = message;
      setTimeout(ended);
    };
    this.#timers.set("connect", timeout, () => this.#lost(CLOSE_CONNECTION_LOST, `No welcome within ${timeout} ms`));
  }

  /** Create the socket. The token goes into a subprotocol if possible, because URLs are logged by proxies. */
  #newSocket(token) {
    const { WebSocket } = this.#options;
    const url = new URL(this.#options.url);
    url.searchParams.set("since", this.#rooms.positionOf(OWN) ?? "");
    if (SUBPROTOCOL_TOKEN.test(token)) return new WebSocket(url.href, ["bearer", token]);
    url.searchParams.set("token", token);
    return new WebSocket(url.href);
  }

  #welcomed(message) {
    this.#timers.clear("connect");
    this.#backoff.opened();
    this.welcome = message;
    const resync = this.#rooms.resumed(OWN, this.#rooms.positionOf(OWN), message.data);
    this.#rooms.rejoin();
    this.#queue.opened(message.data.limits);
    this.#heartbeat.start();
    this.#refresh.start(this.#token, message.timestamp);
    this.#setState("open");
    if (this.welcome === message) this.#delegate.onMessage(message); // Otherwise a handler has closed the connection.
    if (resync) this.#delegate.onMessage(resync);
    this.#queue.flush();
  }

  // Disconnect and reconnect

  #lost(code, reason, refusal = code === CLOSE_BAD_TOKEN ? [code, reason] : null) {
    const attempt = this.#attempt;
    this.#disconnect(code);
    if (attempt !== this.#attempt) return; // A handler for the error of a request has closed the connection.
    const wasOpen = this.#backoff.ended();
    const canRetry = !FINAL_CLOSES.has(code) || (refusal && this.#delegate.canRenewToken);
    if (!this.#options.reconnect || !canRetry) {
      this.#finish(code, reason);
      return;
    }
    this.#refusal = refusal;
    const delay = this.#backoff.nextDelay(code, { refused: refusal !== null, wasOpen });
    this.#timers.set("reconnect", delay, () => this.#open());
    this.#setState("waiting", { code, reason, delay, retryAt: Date.now() + delay });
  }

  #disconnect(code) {
    const socket = this.#socket;
    this.#socket = null;
    this.welcome = null;
    this.#timers.clear("connect");
    this.#heartbeat.stop();
    this.#refresh.stop();
    this.#queue.lost(code);
    this.#rooms.lost();
    this.#textIds.clear();
    if (socket) closeSocket(socket);
  }

  /** Stop until connect() is called again. Every pending request is rejected. */
  #finish(code, reason) {
    this.#timers.clearAll();
    const callbacks = this.#queue.takeAll();
    this.#setState("closed", { code, reason });
    for (const done of callbacks) done(closedError({ code, reason }));
  }

  #setState(state, details = {}) {
    this.state = state;
    this.#delegate.onState({ state, attempts: this.#backoff.attempts, ...details });
  }

  // Frames

  #trace(direction, text) {
    const { trace } = this.#options;
    if (trace) callHandler(trace, direction, text);
  }

  #send(text) {
    this.#trace("out", text);
    this.#socket.send(text);
    this.#heartbeat.sent();
  }

  #received(text) {
    this.#heartbeat.received();
    this.#trace("in", text);
    const message = JSON.parse(text);
    const request = this.#queue.take(message.id);
    if (request) {
      this.#heartbeat.answered();
      this.#answered(request, message);
      this.#queue.flush();
    } else if (message.type === "connected") this.#welcomed(message);
    else if (message.type !== "pong" || message.id !== undefined || !this.#heartbeat.pongReceived()) {
      if (message.type === "error" && message.id === undefined) this.#queue.failedWithoutId(message);
      if (this.#textIds.delete(message.id) || message.type === "joined_room") {
        delete message.id;
        this.#rooms.answered(message);
      } else this.#rooms.received(message);
      this.#delegate.onMessage(message);
      if (message.type === "left_room") this.#queue.flush(); // Requests for the room need not wait for it any more.
    }
  }

  #answered(request, message) {
    delete message.id;
    const { type, room, from } = request;
    if (message.type === "error") {
      if (type === "join_room" && message.data.code === "forbidden") this.#backoff.forbidden(room);
      this.#queue.failed(request, message);
      return;
    }
    const resync = type === "join_room" ? this.#rooms.joined(room, from, message) : undefined;
    if (type === "leave_room") this.#rooms.forget(room);
    this.#queue.succeeded(request, message);
    if (resync) this.#delegate.onMessage(resync);
  }

  #sendToken(token, done) {
    const body = JSON.stringify({ type: "refresh_token", data: { token } });
    const answered = (error, message) => {
      if (!error) this.#token = token;
      this.#delegate.onMessage(message);
      done(!error, message.timestamp);
    };
    this.#queue.transmit({ type: "refresh_token", body, done: answered });
  }
}

/** Close `socket`. In a program, one whose connection is dead would keep the process running for half a minute. */
function closeSocket(socket) {
  socket.close(CLOSE_NORMAL);
  if (!socket.terminate || socket.readyState === socket.CLOSED) return;
  const timer = setTimeout(() => socket.terminate(), CLOSE_TIMEOUT);
  socket.onclose = () => clearTimeout(timer);
}
