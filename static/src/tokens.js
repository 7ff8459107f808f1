/** Tokens: reading their claims, and replacing them before they expire. */

import { SHORTEST_REFRESH } from "./constants.js";
import { Timers } from "./timers.js";

/** Return the claims of a JWT without verifying it. Return {} if `token` is not a JWT. */
function claimsOf(token) {
  try {
    const bytes = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0)))) ?? {};
  } catch {
    return {};
  }
}

/** Return the user id in `token` as a string, or "undefined" if it has none. */
export function userOf(token) {
  const { user_id: id, sub } = claimsOf(token);
  return String(id ?? sub);
}

/**
 * Replaces the token of an open connection before it expires, if the page passed a token function.
 *
 * `margin` is how long before its end a token is replaced, in milliseconds. `sendToken(token, done)` sends a token to the
 * server and calls `done(accepted)`.
 */
export class TokenRefresh {
  #margin;
  #delegate;
  #sendToken;
  #timers = new Timers();
  #token;
  /** The server's time minus performance.now(), in milliseconds. */
  #clockOffset;
  /** Changes with each connection, so that a token that arrives late is not sent on the next one. */
  #generation = 0;

  constructor(margin, delegate, sendToken) {
    this.#margin = margin;
    this.#delegate = delegate;
    this.#sendToken = sendToken;
  }

  /** Plan the refresh of `token`, which the server accepted at `timestamp`, the time in its answer. */
  start(token, timestamp) {
    this.#token = token;
    this.#clockOffset = (Date.parse(timestamp) || Date.now()) - performance.now();
    this.#schedule();
  }

  stop() {
    this.#generation++;
    this.#timers.clear("refresh");
  }

  #schedule() {
    const remaining = claimsOf(this.#token).exp * 1000 - this.#clockOffset - performance.now();
    if (!this.#delegate.canRenewToken || Number.isNaN(remaining)) return;
    const delay = Math.max(SHORTEST_REFRESH, remaining - Math.min(this.#margin, remaining / 2));
    this.#timers.set("refresh", delay, () => this.#refresh());
  }

  async #refresh() {
    const generation = this.#generation;
    let token;
    try {
      token = await this.#delegate.getToken({ refused: false, previous: this.#token });
    } catch {
      token = this.#token; // #schedule() asks again before the old token expires.
    }
    if (generation !== this.#generation) return;
    if (!token || token === this.#token) {
      this.#schedule();
      return;
    }
    this.#sendToken(token, (accepted, timestamp) => this.start(accepted ? token : this.#token, timestamp));
  }
}
