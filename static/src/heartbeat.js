/** Detection of dead connections. */

import { continuousTime } from "./clock.js";
import { PATIENCE, SLOW_UPLOAD } from "./constants.js";
import { Timers } from "./timers.js";

/**
 * Pings the server after `interval` milliseconds without a frame, and while a request has no answer for its patience.
 *
 * Without a pong for another interval, or for the patience in the second case, it reports the connection as dead. The answer
 * to a request counts as a pong, because over a slow connection the ping is behind the requests. Other frames do not show
 * that the way to the server works, but the pong may be behind them: they extend the wait by half. An interval of 0 turns
 * the regular pings off.
 */
export class Heartbeat {
  #interval;
  #sendPing;
  #onDead;
  #oldestRequest;
  #timers = new Timers();
  #receivedAt = 0;
  #answeredAt = 0;
  /** The number of pings without a pong. */
  #pings = 0;
  /** True while a ping may be unanswered only for the patience. */
  #isProbing = false;

  /** `oldest()` returns the oldest request without an answer, if there is one. */
  constructor(interval, { ping, onDead, oldest }) {
    this.#interval = interval;
    this.#sendPing = ping;
    this.#onDead = onDead;
    this.#oldestRequest = oldest;
  }

  received() {
    this.#receivedAt = continuousTime();
  }

  /** Note that the last frame is the answer to a request. */
  answered() {
    this.#answeredAt = this.#receivedAt;
    if (this.#pings) this.start();
  }

  sent() {
    if (!this.#timers.has("request")) this.#timers.set("request", this.#patience, () => this.#checkRequests());
  }

  /** Note a pong. Return false if it does not answer a ping of this object. */
  pongReceived() {
    if (!this.#pings) return false;
    this.#pings--;
    this.start();
    return true;
  }

  start() {
    this.#isProbing = false;
    this.#timers.clear("check");
    if (!this.#interval) return;
    const silence = continuousTime() - this.#receivedAt;
    if (silence >= this.#interval) this.#ping(this.#interval);
    else this.#timers.set("check", this.#interval - silence, () => this.start());
  }

  stop() {
    this.#timers.clearAll();
    this.#pings = 0;
    this.#isProbing = false;
  }

  /** Check now if the connection is alive, with a shorter timeout than usual. */
  probe() {
    if (this.#isProbing) return;
    this.#isProbing = true;
    this.#ping(this.#patience);
  }

  /** How long the oldest request may be unanswered, or a ping that is sent now, in milliseconds. */
  get #patience() {
    const size = this.#oldestRequest()?.body.length ?? 0;
    return Math.min(PATIENCE, this.#interval || PATIENCE) + size / SLOW_UPLOAD;
  }

  #checkRequests() {
    const oldest = this.#oldestRequest();
    if (!oldest) return;
    const remaining = Math.max(oldest.transmitted, this.#answeredAt) + this.#patience - continuousTime();
    if (remaining <= 0) this.probe();
    this.#timers.set("request", remaining > 0 ? remaining : this.#patience, () => this.#checkRequests());
  }

  #ping(timeout) {
    const sentAt = continuousTime();
    this.#pings++;
    this.#sendPing();
    this.#timers.set("check", timeout, () => {
      // The timer fired late because the device slept. The answer may still be unread, so ping again.
      if (continuousTime() - sentAt >= 2 * timeout + 100) this.#ping(timeout);
      else if (this.#receivedAt < sentAt) this.#onDead();
      else this.#timers.set("check", timeout / 2, this.#onDead);
    });
  }
}
