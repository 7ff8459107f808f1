/** The delays before attempts are repeated: to reconnect, and to send a request again. */

import { REPEAT_BASE, REPEAT_MAX, REVOCATION_DELAY, STABLE_AFTER, WAKE_WINDOW } from "./constants.js";
import { CLOSE_BAD_TOKEN, CLOSE_CONNECTION_LOST, CLOSE_TOO_MANY_MESSAGES } from "./errors.js";

/**
 * Return the delay after `attempts` failed attempts: random, with a bound that grows from `base` to `max`.
 *
 * The first delay may be 0, so that clients that lost their connections together come back apart. The later ones are at
 * least half of the bound, which grows by half. So a client waits at most about as long as the outage lasted.
 */
export function retryDelay({ base, max }, attempts) {
  const bound = Math.min(max, base * 1.5 ** attempts);
  return bound * (attempts ? 0.5 + 0.5 * Math.random() : Math.random());
}

/** Return the delay before a request is sent again. `refusals` is the number of refusals before the last one. */
export const repeatDelay = (refusals) => retryDelay({ base: REPEAT_BASE, max: REPEAT_MAX }, refusals);

/** Decides how long to wait before each attempt to reconnect. */
export class Backoff {
  /** Failed attempts since the last stable connection. */
  attempts = 0;
  #options;
  /** Times of performance.now(). undefined: there is no open connection. */
  #openedAt;
  #wokeAt = -Infinity;
  #forbiddenRooms = new Set();

  /** `options` is the option `reconnect`: {base, max} in milliseconds. */
  constructor(options) {
    this.#options = options;
  }

  reset() {
    this.attempts = 0;
    this.#forbiddenRooms.clear();
  }

  /**
   * Note that the server refused to join `room`, after which it closes the connection, unless FORBIDDEN_JOIN=keep.
   *
   * The other rooms need not wait for that. But a page that asks for the same room again and again is slowed down.
   */
  forbidden(room) {
    if (!this.#forbiddenRooms.has(room)) this.attempts = 0;
    this.#forbiddenRooms.add(room);
  }

  opened() {
    this.#openedAt = performance.now();
  }

  /** The page became visible, or the network came back. */
  woke() {
    this.#wokeAt = performance.now();
  }

  /** Note that a connection or an attempt ended. Return true if the server had accepted the connection. */
  ended() {
    const wasOpen = this.#openedAt !== undefined;
    if (wasOpen && performance.now() - this.#openedAt > STABLE_AFTER) this.attempts = 0;
    this.#openedAt = undefined;
    return wasOpen;
  }

  /**
   * Count an attempt and return the delay before it in milliseconds.
   *
   * `refused` is true if the next attempt uses a new token. `wasOpen` is the result of ended().
   */
  nextDelay(code, { refused, wasOpen }) {
    const delay = this.#delayAfter(code, refused);
    this.attempts++;
    return wasOpen && code === CLOSE_BAD_TOKEN ? Math.max(delay, REVOCATION_DELAY) : delay;
  }

  #delayAfter(code, refused) {
    if (this.attempts === 0 && refused) return 0;
    if (code === CLOSE_CONNECTION_LOST && performance.now() - this.#wokeAt < WAKE_WINDOW) {
      this.#wokeAt = -Infinity;
      return 0;
    }
    // After CLOSE_SERVICE_RESTART there is no reason to wait longer: the server spreads these closes over DRAIN_SECONDS.
    const delay = retryDelay(this.#options, this.attempts);
    return code === CLOSE_TOO_MANY_MESSAGES ? 5 * delay + 5 * this.#options.base : delay;
  }
}
