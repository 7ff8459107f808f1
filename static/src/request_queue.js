/**
 * The requests of one connection, from the call to the outcome.
 *
 * A request is {type, room, since, body, done}: `body` is its JSON without the id, and `done(error, frame)` receives the
 * outcome once. The queue adds `sentAt` (first sent), `transmitted` (sent on this connection), `isInFlight`, `isRepeat` (sent
 * on an earlier connection), `refusals` (temporary ones), `isExclusive` and `from`.
 *
 * Requests are sent in the order of the calls, within the limits of the server. Those for a room that is being joined again
 * wait for it. A request that is sent again, because its connection was lost or the server refused it temporarily, is
 * exclusive: no other request for its room is in flight with it, so that later ones do not overtake it again.
 */

import { repeatDelay } from "./backoff.js";
import { continuousTime } from "./clock.js";
import { ASK_AGAIN, BURST, BYTE_BURST, EVENT_OVERHEAD, KEY_LIFETIME, RETRY_RESERVE } from "./constants.js";
import { CLOSE_TOO_BIG, queueFull, RETRY_CODES } from "./errors.js";
import { Timers } from "./timers.js";

/** Commands that may be repeated without an idempotency key. */
export const REPEATABLE = new Set([
  ...["join_room", "leave_room", "ping", "refresh_token"],
  ...["members", "history", "set_presence", "typing", "mark_read"],
]);
/** The limits of servers that do not send theirs. */

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
  #byteRate;
  #maxSize;
  #isOpen = false;
  #lastId = 0;
  /** Requests without an outcome, in the order of the calls. */
  #pending = new Set();
  /** Requests to join rooms again that were not sent yet. They precede the pending requests. */
  #rejoins = new Set();
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
      request.done(queueFull(this.#options.queue));
      return;
    }
    if (this.#answerJoin(request)) return;
    if (request.type === "leave_room") this.#endJoins(request.room);
    if (request.sentAt !== undefined) this.#noteLoss(request); // It was sent through a worker that crashed.
    this.#pending.add(request);
    if (!this.#isTooBig(request)) this.flush();
  }

  /** Answer a request to join a room that is joined already. Return false if it is to be sent. */
  #answerJoin(request) {
    const { type, room, since, done } = request;
    const frame = type === "join_room" && since === undefined && this.#rooms.joinedFrame(room);
    if (!frame || this.#isPending("leave_room", room)) return false;
    this.#pending.delete(request);
    done(null, frame);
    return true;
  }

  #isPending(type, room) {
    return [...this.#pending].some((request) => request.type === type && request.room === room);
  }

  /**
   * The page leaves `room`: if its join is to be sent again after a pause, reject it and those that wait with it.
   *
   * If earlier requests wait for the room, it is joined nevertheless.
   */
  #endJoins(room) {
    const joins = [];
    for (const request of this.#pending) {
      if (request.room !== room) continue;
      if (request.type === "leave_room") break;
      if (request.type !== "join_room") return;
      if (!request.isInFlight) joins.push(request);
    }
    if (!this.#rooms.cancelRejoin(room) && !joins.some((join) => this.#timers.has(join))) return;
    for (const join of joins) {
      this.#timers.clear(join);
      this.#pending.delete(join);
      join.done({ code: "not_joined", message: `${room} was left before it could be joined.`, room });
    }
  }

  /** Send a request to join a room again. */
  rejoin(request) {
    this.#rejoins.add(request);
    this.flush();
  }

  /** Stop waiting for the answer to `request`, and do not send it any more. */
  cancel(request) {
    this.#timers.clear(request);
    if (this.#pending.delete(request) && !request.isInFlight) request.done({ code: "closed" });
    this.#timers.set("flush", 0, () => this.flush()); // Later, because the same signal may cancel further requests.
  }

  /** Allow sending on a new connection within `limits`, those in its welcome. The caller calls flush() afterwards. */
  opened({ message_rate: rate, byte_rate: byteRate, max_message_size: size } = { message_rate: 80, max_message_size: 65_536 }) {
    this.#isOpen = true;
    this.#rate = new SendRate(this.#options.rate && Math.min(this.#options.rate, rate || Infinity), BURST);
    this.#byteRate = new SendRate(this.#options.rate && byteRate, BYTE_BURST);
    this.#maxSize = Math.min(this.#options.maxSize, size);
  }

  /** Prepare to send the requests in flight again. `code` is the code with which the connection was closed. */
  lost(code) {
    this.#isOpen = false;
    this.#timers.clearAll();
    const lost = [...this.#inFlight.values()];
    this.#inFlight.clear();
    this.#rejoins.clear();
    for (const request of lost) this.#noteLoss(request);
    if (code === CLOSE_TOO_BIG) this.#refuseLargest(lost.filter((request) => this.#pending.has(request)));
  }

  /** Note that the connection was lost on which `request` was sent: it may have been executed. */
  #noteLoss(request) {
    request.isInFlight = false;
    request.isRepeat = !REPEATABLE.has(request.type);
  }

  /** Send what may be sent now. */
  flush() {
    continuousTime(); // It cannot see that the system time is set back and the device then sleeps, unless called in between.
    if (!this.#isOpen) return;
    for (const request of this.#rejoins) {
      if (!this.#isWithinRate(request.isRetry ? RETRY_RESERVE : 0)) {
        if (request.isRetry) break;
        return;
      }
      this.#rejoins.delete(request);
      this.transmit(request);
    }
    if (this.#timers.has("pause")) return;
    /** Rooms in which an earlier request is exclusive. */
    const blocked = new Set();
    for (const request of this.#pending) {
      // Outcomes are passed to the page, which may have closed the connection or made requests.
      if (!this.#isOpen || this.#inFlight.size >= this.#options.inFlight) return;
      const { room } = request;
      if (request.isInFlight) {
        if (request.isExclusive) blocked.add(room);
        continue;
      }
      // Until the room is joined again, it is also unknown if the server still has the idempotency keys.
      if (blocked.has(room) || this.#rooms.isRejoining(room) || this.#answerJoin(request)) continue;
      if (request.isRepeat && isKeyExpired(request)) {
        this.#giveUp(request, "was not answered for minutes");
        continue;
      }
      if (this.#isTooBig(request)) continue;
      request.isExclusive ||= request.isRepeat;
      if (request.isExclusive) {
        blocked.add(room);
        if (this.#timers.has(request) || this.#isInFlight(room)) continue;
      }
      if (!this.#isWithinRate()) return;
      request.sentAt ??= continuousTime();
      this.transmit(request);
    }
  }

  /** Return true if a request for `room` is in flight. */
  #isInFlight(room) {
    return [...this.#inFlight.values()].some((request) => request.room === room);
  }

  /** Return true if a message may be sent now that leaves `reserve` milliseconds of the burst. Otherwise, flush() later. */
  #isWithinRate(reserve = 0) {
    const delay = Math.max(this.#rate.delay + reserve, this.#byteRate.delay);
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
    request.transmitted = continuousTime();
    this.#inFlight.set(id, request);
    if (type === "join_room") {
      request.from = request.since ?? this.#rooms.positionOf(room);
      this.sendText(JSON.stringify({ id, type, room, data: { since: request.from ?? null } }));
    } else this.sendText(`{"id":${id},${request.body.slice(1)}`);
  }

  sendText(text) {
    this.#rate.count(1);
    this.#byteRate.count(2 * encoder.encode(text).length + EVENT_OVERHEAD);
    this.#send(text);
  }

  /** Remove and return the request in flight that `id` answers. Return undefined if there is none. */
  take(id) {
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

  /** Report an error answer to the caller, or send the request again if the error is temporary. */
  failed(request, message) {
    const { code, error, fields } = message.data;
    // The request was sent right after a join that failed for now.
    const isTooEarly = code === "not_joined" && this.#isPending("join_room", request.room);
    const isTemporary = RETRY_CODES.has(code) || isTooEarly;
    if (!isTemporary || !this.#pending.has(request) || isKeyExpired(request)) {
      this.#pending.delete(request);
      request.done({ code, message: error, fields, room: message.room }, message);
    } else this.#repeatLater(request, code, isTooEarly);
    if (this.#isPending("leave_room", request.room)) this.#endJoins(request.room);
  }

  #repeatLater(request, code, isTooEarly) {
    const isLimited = code === "rate_limited";
    if ((isLimited || isTooEarly) && !request.isRepeat) request.sentAt = undefined; // The server did not execute it.
    request.isExclusive = true;
    if (isTooEarly) return;
    const { refusals = 0 } = request;
    request.refusals = refusals + 1;
    // The rate limit concerns all requests, the other errors only those for this room.
    this.#timers.set(isLimited ? "pause" : request, repeatDelay(refusals), () => this.flush());
  }

  /** The oldest request in flight; undefined if there is none. */
  get oldest() {
    return this.#inFlight.values().next().value;
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
      else for (const id of ids) if (this.#inFlight.has(id)) this.failed(this.take(id), message);
    };
    this.transmit({ type: "ping", body: '{"type":"ping"}', done });
  }

  /**
   * Give up the requests in `room` that were sent before the server lost the history of the room.
   *
   * A server without Redis that restarts loses the idempotency keys along with the history.
   */
  lostHistory(room) {
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

/** Keeps the messages of a connection, or their bytes, below a rate limit of the server. */
class SendRate {
  /** Milliseconds per message or byte. */
  #cost;
  #burst;
  /** The performance.now() at which the messages sent so far are within the rate, without the burst. */
  #usedUntil = 0;

  /** `rate` is the number per second, and `burst` is in milliseconds. A rate of 0 means unlimited. */
  constructor(rate, burst) {
    this.#cost = 1000 / (rate || Infinity);
    this.#burst = burst;
  }

  count(amount) {
    this.#usedUntil = Math.max(this.#usedUntil, performance.now()) + amount * this.#cost;
  }

  /** Milliseconds until the next message may be sent. 0 or less means now. */
  get delay() {
    return this.#usedUntil - performance.now() - this.#burst;
  }
}
