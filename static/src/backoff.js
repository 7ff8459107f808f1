/** The delays before attempts are repeated: to reconnect, and to send a request again. */

import { CLOSE_BAD_TOKEN, CLOSE_CONNECTION_LOST, CLOSE_TOO_MANY_MESSAGES } from "./errors.js";

/** A connection that was open this long counts as stable: the back-off starts again at its base. */
const STABLE_AFTER = 5_000;
/** A connection that is lost this soon after the device woke up broke while it slept: reconnect at once. */
const WAKE_WINDOW = 5_000;
/**
 * Shortest delay after a revocation. Tokens carry their issue time in whole seconds, so a token issued within the same
 * second as the revocation would be refused as well.
 */
const REVOCATION_DELAY = 1_000;

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

/** The bounds of the delays before a request is sent again that the server refused for now. */
const REPEAT_DELAYS = { base: 1_000, max: 20_000 };

/** Return the delay before a request is sent again. `refusals` is the number of refusals before the last one. */
export const repeatDelay = (refusals) => retryDelay(REPEAT_DELAYS, refusals);

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
  joinForbidden(room) {
    if (!this.#forbiddenRooms.has(room)) this.attempts = 0;
    this.#forbiddenRooms.add(room);
  }

  connectionOpened() {
    this.#openedAt = performance.now();
  }

  /** The page became visible, or the network came back. */
  deviceWoke() {
    this.#wokeAt = performance.now();
  }

  /** Note that a connection or an attempt ended. Return true if the server had accepted the connection. */
  connectionEnded() {
    const wasOpen = this.#openedAt !== undefined;
    if (wasOpen && performance.now() - this.#openedAt > STABLE_AFTER) this.attempts = 0;
    this.#openedAt = undefined;
    return wasOpen;
  }

  /**
   * Count an attempt and return the delay before it in milliseconds.
   *
   * `tokenRefused` is true if the next attempt uses a new token. `wasOpen` is the result of connectionEnded().
   */
  nextDelay(code, { tokenRefused, wasOpen }) {
    const delay = this.#delayAfter(code, tokenRefused);
    this.attempts++;
    return wasOpen && code === CLOSE_BAD_TOKEN ? Math.max(delay, REVOCATION_DELAY) : delay;
  }

  #delayAfter(code, tokenRefused) {
    if (this.attempts === 0 && tokenRefused) return 0;
    if (code === CLOSE_CONNECTION_LOST && performance.now() - this.#wokeAt < WAKE_WINDOW) {
      this.#wokeAt = -Infinity;
      return 0;
    }
    // After CLOSE_SERVICE_RESTART there is no reason to wait longer: the server spreads these closes over DRAIN_SECONDS.
    const delay = retryDelay(this.#options, this.attempts);
    return code === CLOSE_TOO_MANY_MESSAGES ? 5 * delay + 5 * this.#options.base : delay;
  }
}
