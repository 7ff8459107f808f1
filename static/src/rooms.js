/** The rooms of one connection: which ones are joined, and the last event received in each. */

import { repeatDelay } from "./backoff.js";
import { RETRY_REJOIN_CODES } from "./errors.js";
import { epochOf, localFrame, offsetOf } from "./frames.js";
import { Timers } from "./timers.js";

/** The key of the user's own notifications, which belong to no room. */
export const OWN = "";

/**
 * Joins the rooms again after each reconnect, starting after the last event received.
 *
 * `rejoin(request)` sends a request before all others. `emit(frame)` passes a frame to the page. `onLost(room)` is
 * called when the server has lost the history of a room since the last connection.
 */
export class Rooms {
  #sendRejoin;
  #emit;
  #onHistoryLost;
  #retryTimers = new Timers();
  /** Joined rooms: true if the room is joined on the current connection, false if it is to be joined again. */
  #rooms = new Map();
  /** The id of the last event by room. */
  #positions = new Map();

  constructor({ rejoin, emit, onLost }) {
    this.#sendRejoin = rejoin;
    this.#emit = emit;
    this.#onHistoryLost = onLost;
  }

  has(room) {
    return this.#rooms.has(room);
  }

  /** Return true while `room` is not yet joined again on the current connection. */
  isRejoining(room) {
    return this.#rooms.get(room) === false;
  }

  positionOf(room) {
    return this.#positions.get(room);
  }

  setPosition(room, eventId) {
    this.#positions.set(room, eventId);
  }

  /** Return a `joined_room` frame if `room` is joined on the current connection. */
  joinedFrame(room) {
    if (!this.#rooms.get(room)) return undefined;
    const data = { message: `Joined room ${room}`, recovered: true, last_id: this.#positions.get(room) };
    return localFrame("joined_room", room, data);
  }

  /** Note that `room` was joined with the events after `since`. Return a `resync` frame if events were lost. */
  joined(room, since, message) {
    this.#rooms.set(room, true);
    return this.resumed(room, since, message.data);
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
  answered({ type, room, data }) {
    if (type === "left_room") this.forget(room);
    if (type !== "joined_room" || this.#rooms.has(room)) return;
    this.#rooms.set(room, true);
    if (data.last_id !== undefined && !data.recovered) this.#positions.set(room, data.last_id);
  }

  /** Note what a frame that answers no request changes. */
  received({ type, room, id, data }) {
    if (type === "left_room") this.forget(room);
    else if (type === "resync") this.#positions.set(room ?? OWN, data.last_id);
    else if (typeof id === "string" && (!room || this.#rooms.has(room))) this.#positions.set(room ?? OWN, id);
  }

  /** Join every room again on a new connection. */
  rejoin() {
    for (const room of this.#rooms.keys()) this.#rejoin(room);
  }

  #rejoin(room, refusals = 0) {
    const done = (error, message) => {
      if (error && RETRY_REJOIN_CODES.has(error.code)) {
        this.#retryTimers.set(room, repeatDelay(refusals), () => this.#rejoin(room, refusals + 1));
        return;
      }
      if (error) this.forget(room);
      this.#emit(message);
      if (error) this.#emit(localFrame("left_room", room, { message: `Could not join ${room} again: ${error.message}` }));
    };
    this.#sendRejoin({ type: "join_room", room, body: "", isRetry: refusals > 0, done });
  }

  /** Do not join `room` again after a pause: the page leaves it. Return false if there is no such pause. */
  cancelRejoin(room) {
    if (!this.#retryTimers.has(room)) return false;
    this.forget(room);
    return true;
  }

  lost() {
    this.#retryTimers.clearAll();
    for (const room of this.#rooms.keys()) this.#rooms.set(room, false);
  }

  forget(room) {
    this.#rooms.delete(room);
    this.#positions.delete(room);
    this.#retryTimers.clear(room);
  }
}
