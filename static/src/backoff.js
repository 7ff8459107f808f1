/** Reconnect delays. */

import { CLOSE_BAD_TOKEN, CLOSE_CONNECTION_LOST, CLOSE_SERVICE_RESTART, CLOSE_TOO_MANY_MESSAGES } from "./errors.js";

/** A connection that was open this long counts as stable: the back-off starts again at its base. */
const STABLE_AFTER = 5_000;
/** A connection that is lost this soon after the device woke up broke while it slept: reconnect at once. */
const WAKE_WINDOW = 5_000;
/**
 * Shortest delay after a revocation. Tokens carry their issue time in whole seconds, so a token issued within the same
 * second as the revocation would be refused as well.
 */
const REVOCATION_DELAY = 1_000;

/** Exponential back-off with full jitter, so that clients that lost their connections together come back apart. */
export class Backoff {
  /** Failed attempts since the last stable connection. */
  attempts = 0;
  #options;
  /** Times of performance.now(). undefined: there is no open connection. */
  #openedAt;
  #wokeAt = -Infinity;

  /** `options` is the option `reconnect`: {base, max, drain} in milliseconds. */
  constructor(options) {
    this.#options = options;
  }

  reset() {
    this.attempts = 0;
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
    const { base, max, drain } = this.#options;
    if (this.attempts === 0 && tokenRefused) return 0;
    if (code === CLOSE_CONNECTION_LOST && performance.now() - this.#wokeAt < WAKE_WINDOW) {
      this.#wokeAt = -Infinity;
      return 0;
    }
    if (this.attempts === 0 && code === CLOSE_SERVICE_RESTART) return Math.random() * drain;
    const bound = Math.min(max, base * 2 ** this.attempts);
    return code === CLOSE_TOO_MANY_MESSAGES ? 5 * bound * (1 + Math.random()) : Math.random() * bound;
  }
}
