/** Who is typing in a room: this user, and the others. */

import { TYPING_EXPIRY, TYPING_PAUSE, TYPING_REFRESH } from "./constants.js";
import { Timers } from "./timers.js";

/** Throttles the reports about this user, and keeps the list of the others. */
export class Typing {
  #send;
  #onChange;
  #sentAt;
  /** The others that are typing, by id. */
  #typers = new Map();
  /** The ends of the others' typing by id, and the end of this user's typing. */
  #timers = new Timers();

  /** `send(isTyping)` reports that this user types or stopped. `onChange(typers)` is called with a new array. */
  constructor(send, onChange) {
    this.#send = send;
    this.#onChange = onChange;
  }

  /** Note that this user types, or stopped. */
  set(isTyping) {
    if (isTyping) this.#timers.set(this, TYPING_PAUSE, () => this.set(false));
    if (isTyping ? performance.now() - this.#sentAt < TYPING_REFRESH : !this.#sentAt) return;
    this.#sentAt = isTyping && performance.now();
    this.#send(isTyping);
  }

  /** Clear the list and the timers, because the room was left or the connection lost. */
  reset() {
    this.#sentAt = undefined;
    this.#timers.clearAll();
    if (!this.#typers.size) return;
    this.#typers.clear();
    this.#onChange([]);
  }

  receive({ type, data }) {
    const { user_id: id, username } = data;
    const isTyping = type === "typing" && data.typing;
    if (!isTyping && !/^(typing|message|user_left)$/.test(type)) return;
    if (isTyping) this.#timers.set(id, TYPING_EXPIRY, () => this.receive({ type: "user_left", data }));
    if (isTyping === this.#typers.has(id)) return;
    if (isTyping) this.#typers.set(id, { user_id: id, username });
    else this.#typers.delete(id);
    this.#onChange([...this.#typers.values()]);
  }
}
