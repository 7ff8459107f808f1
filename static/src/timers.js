/** Timers by name. */

import { LONGEST_DELAY } from "./constants.js";

/** A set of timers, each with a name. Setting a name again replaces its timer. */
export class Timers {
  #timers = new Map();

  /** Call `callback` after `delay` milliseconds, at most LONGEST_DELAY, which is the limit of setTimeout. */
  set(name, delay, callback) {
    this.clear(name);
    const timer = setTimeout(() => {
      this.#timers.delete(name);
      callback();
    }, Math.min(delay, LONGEST_DELAY));
    this.#timers.set(name, timer);
  }

  has(name) {
    return this.#timers.has(name);
  }

  clear(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  clearAll() {
    for (const name of this.#timers.keys()) this.clear(name);
  }
}
