/**
 * The requests of one connection, from the call to the outcome.
 *
 * A request is {type, room, since, body, done}: `body` is its JSON without the id, and `done(error, frame)` receives the
 * outcome once. The queue adds `sentAt` (first sent), `transmittedAt` (sent on this connection), `isInFlight`, `isExclusive`
 * and `resumedFrom`.
 *
 * Requests are sent in the order of the calls. After a lost connection, requests without an answer are sent again with the
 * same idempotency key, one at a time, so that no later request overtakes them.
 */

import { continuousTime } from "./clock.js";
import { RETRY_CODES } from "./errors.js";
import { Timers } from "./timers.js";

/** Commands that may be repeated without an idempotency key. */
export const REPEATABLE = new Set(["join_room", "leave_room", "ping", "refresh_token"]);
/** How long a request may be repeated, in milliseconds. The server keeps idempotency keys for 300 s. */
const KEY_LIFETIME = 270_000;
/** The server's rate limit allows a burst of five seconds. */
const BURST = 5_000;

const isRepeat = (request) => Boolean(request.sentAt) && !REPEATABLE.has(request.type);

/** Sends the requests in order, limits how many are in flight, and matches the answers. */
export class RequestQueue {
  #options;
  #rooms;
  #send;
  #timers = new Timers();
  #rate;
  #isOpen = false;
  #lastId = 0;
  /** Requests without an outcome, in the order of the calls. */
  #pending = new Set();
  /** Requests that were sent on the current connection, by the id of their frame. */
  #inFlight = new Map();

  /** `send(text)` writes a frame to the socket. `rooms` gives the position from which a room is joined. */
  constructor(options, rooms, send) {
    this.#options = options;
    this.#rooms = rooms;
    this.#send = send;
    this.#rate = new SendRate(options.rate);
  }

  add(request) {
    if (this.#pending.size >= this.#options.queue) {
      const message = `${this.#pending.size} requests wait already, as many as the option queue allows; try again later.`;
      request.done({ code: "queue_full", message });
      return;
    }
    this.#pending.add(request);
    this.flush();
  }

  /** Allow sending on a new connection. The caller calls flush() when the rooms are being joined again. */
  connectionOpened() {
    this.#isOpen = true;
    this.#rate.reset();
  }

  connectionLost() {
    this.#isOpen = false;
    this.#timers.clearAll();
    for (const request of this.#inFlight.values()) request.isInFlight = false;
    this.#inFlight.clear();
  }

  /** Send what may be sent now: up to `inFlight` requests at once, an exclusive one alone. */
  flush() {
    if (!this.#isOpen || this.#timers.has("retry")) return;
    let inFlight = 0;
    for (const request of this.#pending) {
      if (inFlight >= this.#options.inFlight) return;
      if (!request.isInFlight) {
        request.isExclusive ||= isRepeat(request);
        if (request.isExclusive && inFlight) return;
        // Until the rooms are joined again, it is unknown if the server still has the idempotency keys.
        if (isRepeat(request) && this.#rooms.isRejoining) return;
        if (isRepeat(request) && continuousTime() - request.sentAt > KEY_LIFETIME) {
          this.#giveUp(request, "was not answered for minutes");
          continue;
        }
        if (!this.#isWithinRate()) return;
        request.sentAt ||= continuousTime();
        this.transmit(request);
      }
      if (request.isExclusive) return;
      inFlight++;
    }
  }

  #isWithinRate() {
    const delay = this.#rate.delay;
    if (delay > 0) this.#timers.set("rate", delay, () => this.flush());
    return delay <= 0;
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

  /** Report an error answer to the caller, or send the request again first and alone if the error is temporary. */
  failed(request, message) {
    const { code, error, fields } = message.data;
    if (!RETRY_CODES.has(code) || !this.#pending.has(request)) {
      this.#pending.delete(request);
      request.done({ code, message: error, fields, room: message.room }, message);
      return;
    }
    if (code === "rate_limited") request.sentAt = 0; // The server did not execute it, so this is not a repetition.
    request.isExclusive = true;
    this.#timers.set("retry", code === "in_progress" ? 250 : 500 + 1000 * Math.random(), () => this.flush());
  }

  /** The time at which the oldest request in flight was sent; undefined if there is none. */
  get unansweredSince() {
    return this.#inFlight.values().next().value?.transmittedAt;
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
      if (isRepeat(request) && origin === room) this.#giveUp(request, "was not answered before the server lost its history");
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

  reset() {
    this.#usedUntil = 0;
  }

  count() {
    this.#usedUntil = Math.max(this.#usedUntil, performance.now()) + this.#cost;
  }

  /** Milliseconds until the next message may be sent. 0 or less means now. */
  get delay() {
    return this.#usedUntil - performance.now() - BURST;
  }
}
