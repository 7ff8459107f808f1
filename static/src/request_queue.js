/**
 * The requests of one connection, from the call to the outcome.
 *
 * A request is {type, room, since, body, done}: `body` is its JSON without the id, and `done(error, frame)` receives the
 * outcome once. The queue adds `sentAt` (first sent), `transmittedAt` (sent on this connection), `isInFlight`, `isRepeat` (sent
 * on an earlier connection), `isExclusive`, `resumedFrom` and `failures` (of a join).
 *
 * Requests are sent in the order of the calls, within the limits of the server. Those for a room that cannot be joined yet
 * wait for it. After a lost connection, requests without an answer are sent again with the same idempotency key, one at a
 * time, so that no later request overtakes them.
 */

import { joinDelay } from "./backoff.js";
import { continuousTime } from "./clock.js";
import { CLOSE_TOO_BIG, RETRY_CODES } from "./errors.js";
import { leftTooEarly } from "./rooms.js";
import { Timers } from "./timers.js";

/** Commands that may be repeated without an idempotency key. */
export const REPEATABLE = new Set(["join_room", "leave_room", "ping", "refresh_token"]);
/** How long a request may be repeated, in milliseconds. The server keeps idempotency keys for 300 s. */
const KEY_LIFETIME = 270_000;
/** The server's rate limit allows a burst of five seconds. The rest is for messages that the network delays. */
const BURST = 4_000;
/** The limits of servers that do not send theirs. */
const OLD_LIMITS = { message_rate: 80, max_message_size: 65_536 };
/** How long to wait before asking again which request an error without an id belongs to, in milliseconds. */
const ASK_AGAIN = 1_000;

const encoder = new TextEncoder();

/** Return true if the server may not have the idempotency key of `request` any more. */
const isKeyExpired = ({ type, sentAt }) => !REPEATABLE.has(type) && continuousTime() - sentAt > KEY_LIFETIME;

/** Sends the requests in order, limits how many are in flight, and matches the answers. */
export class RequestQueue {
  #options;
  #rooms;
  #send;
  #timers = new Timers();
  #rate;
  #maxSize;
  #isOpen = false;
  #lastId = 0;
  /** Requests without an outcome, in the order of the calls. */
  #pending = new Set();
  /** Requests to join rooms again that were not sent yet. They precede the pending requests. */
  #rejoins = new Set();
  /** Rooms whose first join failed temporarily, until it is sent again. */
  #delayedRooms = new Set();
  /** Requests that were sent on the current connection, by the id of their frame. */
  #inFlight = new Map();

  /** `send(text)` writes a frame to the socket. `rooms` gives the position from which a room is joined. */
  constructor(options, rooms, send) {
    this.#options = options;
    this.#rooms = rooms;
    this.#send = send;
    this.#maxSize = options.maxSize;
  }

  add(request) {
    if (this.#pending.size >= this.#options.queue) {
      const message = `${this.#pending.size} requests wait already, as many as the option queue allows; try again later.`;
      request.done({ code: "queue_full", message });
      return;
    }
    if (request.sentAt !== undefined) this.#noteLoss(request); // It was sent through a worker that crashed.
    this.#pending.add(request);
    if (!this.#isTooBig(request)) this.flush();
  }

  /** Send a request to join a room again. */
  rejoin(request) {
    this.#rejoins.add(request);
    this.flush();
  }

  /** Stop waiting for the answer to `request`, and do not send it any more. */
  cancel(request) {
    if (this.#pending.delete(request) && !request.isInFlight) request.done({ code: "closed" });
    this.#timers.set("flush", 0, () => this.flush()); // Later, because the same signal may cancel further requests.
  }

  /** Allow sending on a new connection within `limits`, those in its welcome. The caller calls flush() afterwards. */
  connectionOpened({ message_rate: rate, max_message_size: size } = OLD_LIMITS) {
    this.#isOpen = true;
    this.#rate = new SendRate(this.#options.rate && Math.min(this.#options.rate, rate || Infinity));
    this.#maxSize = Math.min(this.#options.maxSize, size);
  }

  /** Prepare to send the requests in flight again. `code` is the code with which the connection was closed. */
  connectionLost(code) {
    this.#isOpen = false;
    this.#timers.clearAll();
    const lost = [...this.#inFlight.values()];
    this.#inFlight.clear();
    this.#rejoins.clear();
    this.#delayedRooms.clear();
    for (const request of lost) this.#noteLoss(request);
    if (code === CLOSE_TOO_BIG) this.#refuseLargest(lost.filter((request) => this.#pending.has(request)));
  }

  /** Note that the connection was lost on which `request` was sent: it may have been executed. */
  #noteLoss(request) {
    request.isInFlight = false;
    request.isRepeat = !REPEATABLE.has(request.type);
  }

  /** Send what may be sent now: up to `inFlight` requests at once, an exclusive one alone. */
  flush() {
    if (!this.#isOpen) return;
    const now = continuousTime();
    for (const request of this.#rejoins) {
      if (!this.#isWithinRate()) return;
      this.#rejoins.delete(request);
      this.transmit(request);
    }
    if (this.#timers.has("retry")) return;
    let inFlight = 0;
    for (const request of this.#pending) {
      if (inFlight >= this.#options.inFlight) return;
      if (!request.isInFlight) {
        // Until the room is joined again, it is also unknown if the server still has the idempotency keys.
        if (this.#rooms.isRejoining(request.room) || this.#delayedRooms.has(request.room)) continue;
        request.isExclusive ||= request.isRepeat;
        if (request.isExclusive && inFlight) return;
        if (request.isRepeat && isKeyExpired(request)) {
          this.#giveUp(request, "was not answered for minutes");
          continue;
        }
        if (this.#isTooBig(request)) continue;
        if (!this.#isWithinRate()) return;
        request.sentAt ??= now;
        this.transmit(request);
      }
      if (request.isExclusive) return;
      inFlight++;
    }
  }

  #isWithinRate() {
    const delay = this.#rate.delay;
    if (delay > 0) this.#timers.set("flush", delay, () => this.flush());
    return delay <= 0;
  }

  /** Reject `request` and return true if its frame has more than `limit` bytes. */
  #isTooBig(request, limit = this.#maxSize) {
    const { type, room, body } = request;
    const added = `"id":${this.#lastId + 1},`.length;
    if (3 * body.length + added <= limit) return false;
    const size = encoder.encode(body).length + added;
    if (size <= limit) return false;
    this.#pending.delete(request);
    const message = `${type} has ${size} bytes, and the limit is ${limit || "lower"}. Send less.`;
    request.done({ code: "too_big", message, room });
    return true;
  }

  /** Reject the largest of `requests`: the connection was closed because one of them was too big. */
  #refuseLargest(requests) {
    const [largest] = requests.sort((a, b) => b.body.length - a.body.length);
    if (largest) this.#isTooBig(largest, 0);
  }

  /** Send `request` at once, past the queue. */
  transmit(request) {
    const { type, room } = request;
    const id = ++this.#lastId;
    request.isInFlight = true;
    request.transmittedAt = continuousTime();
    this.#inFlight.set(id, request);
    if (type === "join_room") {
      request.resumedFrom = request.since ?? this.#rooms.positionOf(room);
      this.sendText(JSON.stringify({ id, type, room, data: { since: request.resumedFrom ?? null } }));
    } else this.sendText(`{"id":${id},${request.body.slice(1)}`);
  }

  sendText(text) {
    this.#rate.count();
    this.#send(text);
  }

  /** Remove and return the request in flight that `id` answers. Return undefined if there is none. */
  takeInFlight(id) {
    const request = this.#inFlight.get(id);
    if (request) {
      this.#inFlight.delete(id);
      request.isInFlight = false;
    }
    return request;
  }

  succeeded(request, message) {
    this.#pending.delete(request);
    request.done(null, message);
  }

  /**
   * Report an error answer to the caller, or send the request again if the error is temporary: first and alone, because no
   * later request may overtake it. A join is sent again later, because the access check of one room says nothing about
   * other rooms.
   */
  failed(request, message) {
    const { code, error, fields } = message.data;
    if (code === "not_joined" && this.#delayedRooms.has(request.room) && this.#pending.has(request)) {
      if (!request.isRepeat) request.sentAt = undefined; // It was sent right after a join that failed, and not executed.
      return;
    }
    if (!RETRY_CODES.has(code) || !this.#pending.has(request) || isKeyExpired(request)) {
      this.#pending.delete(request);
      request.done({ code, message: error, fields, room: message.room }, message);
      return;
    }
    if (code === "unavailable" && request.type === "join_room") {
      this.#delayJoin(request);
      return;
    }
    if (code === "rate_limited" && !request.isRepeat) request.sentAt = undefined; // The server did not execute it.
    request.isExclusive = true;
    this.#timers.set("retry", code === "in_progress" ? 250 : 500 + 1000 * Math.random(), () => this.flush());
  }

  #delayJoin(request) {
    const { room, failures = 0 } = request;
    request.failures = failures + 1;
    this.#delayedRooms.add(room);
    this.#timers.set(`join ${room}`, joinDelay(failures), () => {
      this.#delayedRooms.delete(room);
      this.flush();
    });
  }

  /** Reject the joins of `room` that will be sent again after a pause: the page leaves the room. */
  cancelJoin(room) {
    if (!this.#delayedRooms.delete(room)) return;
    this.#timers.clear(`join ${room}`);
    for (const request of this.#pending) {
      if (request.type !== "join_room" || request.room !== room || request.isInFlight) continue;
      this.#pending.delete(request);
      request.done(leftTooEarly(room));
    }
  }

  /** The time at which the oldest request in flight was sent; undefined if there is none. */
  get unansweredSince() {
    return this.#inFlight.values().next().value?.transmittedAt;
  }

  /**
   * Report an error answer without an id to the request that it answers: the server could not read the id of that request.
   *
   * The server answers a ping after everything that was sent before it. A request that is then without an answer was refused.
   */
  failedWithoutId(message) {
    const ids = [...this.#inFlight.keys()];
    if (!ids.length) return;
    const done = (error) => {
      if (error) this.#timers.set("ask", ASK_AGAIN, () => this.failedWithoutId(message));
      else for (const id of ids) if (this.#inFlight.has(id)) this.failed(this.takeInFlight(id), message);
    };
    this.transmit({ type: "ping", body: '{"type":"ping"}', done });
  }

  /** Return true if a pending request leaves `room`. */
  isLeaving(room) {
    return [...this.#pending].some((request) => request.type === "leave_room" && request.room === room);
  }

  /**
   * Give up the requests in `room` that were sent before the server lost the history of the room.
   *
   * A server without Redis that restarts loses the idempotency keys along with the history.
   */
  historyLost(room) {
    for (const request of this.#pending) {
      const origin = this.#rooms.has(request.room) ? request.room : "";
      if (request.isRepeat && origin === room) this.#giveUp(request, "was not answered before the server lost its history");
    }
  }

  /** Reject a request that may or may not have been executed. */
  #giveUp(request, why) {
    this.#pending.delete(request);
    const message = `${request.type} ${why}: it may have been carried out, and sending it again could do it twice.`;
    request.done({ code: "uncertain", message, room: request.room });
  }

  /** Remove all requests and return their callbacks. */
  takeAll() {
    const callbacks = [...this.#pending].map((request) => request.done);
    this.#pending.clear();
    return callbacks;
  }
}

/** Keeps the messages of a connection below the server's rate limit. */
class SendRate {
  /** Milliseconds per message. */
  #cost;
  /** The performance.now() at which the messages sent so far are within the rate, without the burst. */
  #usedUntil = 0;

  /** `rate` is the number of messages per second. 0 means unlimited. */
  constructor(rate) {
    this.#cost = 1000 / (rate || Infinity);
  }

  count() {
    this.#usedUntil = Math.max(this.#usedUntil, performance.now()) + this.#cost;
  }

  /** Milliseconds until the next message may be sent. 0 or less means now. */
  get delay() {
    return this.#usedUntil - performance.now() - BURST;
  }
}
