/** The rooms of one connection: which ones are joined, and the last event received in each. */

import { joinDelay } from "./backoff.js";
import { RETRY_REJOIN_CODES } from "./errors.js";
import { epochOf, localFrame, offsetOf } from "./frames.js";
import { Timers } from "./timers.js";

/** The key of the user's own notifications, which belong to no room. */
export const OWN = "";

/**
 * Joins the rooms again after each reconnect, starting after the last event received.
 *
 * `rejoin(request)` sends a request before all others. `emit(frame)` passes a frame to the page. `onHistoryLost(room)` is
 * called when the server has lost the history of a room since the last connection, `onDropped()` when a room is not joined
 * again because the server refused that permanently.
 */
export class Rooms {
  #sendRejoin;
  #emit;
  #onHistoryLost;
  #onDropped;
  #retryTimers = new Timers();
  /**
   * Joined rooms by name. `isLive` is true if the room is joined on the current connection. `waiting` holds the callbacks
   * of join requests that wait until the room is joined again.
   */
  #rooms = new Map();
  #rejoining = new Set();
  /** The id of the last event by room. */
  #positions = new Map();

  constructor({ rejoin, emit, onHistoryLost, onDropped }) {
    this.#sendRejoin = rejoin;
    this.#emit = emit;
    this.#onHistoryLost = onHistoryLost;
    this.#onDropped = onDropped;
  }

  /** Return true while `room` is not yet joined again on the current connection. */
  isRejoining(room) {
    return this.#rejoining.has(room);
  }

  has(room) {
    return this.#rooms.has(room);
  }

  positionOf(room) {
    return this.#positions.get(room);
  }

  setPosition(room, eventId) {
    this.#positions.set(room, eventId);
  }

  /** Answer a join request for a room that is joined already. Return false if the room is not joined. */
  answerJoin(room, done) {
    const entry = this.#rooms.get(room);
    if (!entry) return false;
    if (entry.isLive) {
      const data = { message: `Joined room ${room}`, recovered: true, last_id: this.#positions.get(room) };
      done(null, localFrame("joined_room", room, data));
    } else entry.waiting.push(done);
    return true;
  }

  /** Note that `room` was joined with the events after `since`. Return a `resync` frame if events were lost. */
  joined(room, since, message) {
    const waiting = this.#rooms.get(room)?.waiting ?? [];
    this.#rooms.set(room, { isLive: true, waiting: [] });
    const resync = this.resumed(room, since, message.data);
    for (const done of waiting) done(null, { ...message });
    return resync;
  }

  /** Note the result of a resume after the event `since`. Return a `resync` frame if events were lost. */
  resumed(room, since, { recovered, last_id: last }) {
    if (last === undefined) return undefined;
    // In a room without events no event follows, and the new id stays valid for longer.
    this.#positions.set(room, recovered && offsetOf(last) ? since : last);
    if (recovered || since === undefined || since === null) return undefined;
    if (epochOf(since) !== epochOf(last)) this.#onHistoryLost(room);
    return localFrame("resync", room, { message: "Some events were lost; load the state again.", last_id: last });
  }

  /** Note the answer to a frame that the page sent as text. */
  textAnswered({ type, room, data }) {
    if (type === "left_room") this.forget(room);
    if (type !== "joined_room" || this.#rooms.has(room)) return;
    this.#rooms.set(room, { isLive: true, waiting: [] });
    if (data.last_id !== undefined && !data.recovered) this.#positions.set(room, data.last_id);
  }

  /** Note what a frame that answers no request changes. */
  frameReceived({ type, room, id, data }) {
    if (type === "left_room") this.forget(room);
    else if (type === "resync") this.#positions.set(room ?? OWN, data.last_id);
    else if (typeof id === "string" && (!room || this.#rooms.has(room))) this.#positions.set(room ?? OWN, id);
  }

  /** Join every room again on a new connection. */
  rejoinAll() {
    for (const room of this.#rooms.keys()) this.#rejoin(room);
  }

  #rejoin(room, failures = 0) {
    this.#rejoining.add(room);
    const done = (error, message) => {
      if (error && RETRY_REJOIN_CODES.has(error.code)) {
        const again = () => this.#rooms.has(room) && this.#rejoin(room, failures + 1);
        this.#retryTimers.set(room, joinDelay(failures), again);
        return;
      }
      this.#rejoining.delete(room);
      this.#emit(message);
      if (!error) return;
      this.#emit(localFrame("left_room", room, { message: `Could not join room ${room} again: ${error.message}` }));
      this.forget(room, error, message);
      this.#onDropped();
    };
    this.#sendRejoin({ type: "join_room", room, done });
  }

  /** Do not join `room` again after a pause: the page leaves it. */
  cancelRejoin(room) {
    if (!this.#retryTimers.has(room)) return;
    this.#retryTimers.clear(room);
    this.#rejoining.delete(room);
  }

  connectionLost() {
    this.#retryTimers.clearAll();
    this.#rejoining.clear();
    for (const entry of this.#rooms.values()) entry.isLive = false;
  }

  /** Remove `room`. Join requests that wait for it are rejected with `error`, a copy of `frame` with each. */
  forget(room, error = leftTooEarly(room), frame = undefined) {
    const waiting = this.#rooms.get(room)?.waiting ?? [];
    this.#rooms.delete(room);
    this.#positions.delete(room);
    for (const done of waiting) done(error, frame && { ...frame });
  }

  /** Remove and return the callbacks of all join requests that wait. */
  takeWaiting() {
    return [...this.#rooms.values()].flatMap((entry) => entry.waiting.splice(0));
  }
}

export const leftTooEarly = (room) => ({ code: "not_joined", message: `${room} was left before it could be joined.`, room });
