/** Detection of dead connections. */

import { continuousTime } from "./clock.js";
import { Timers } from "./timers.js";

/** How long a request may be unanswered, and after that a probe, in milliseconds. */
const PATIENCE = 5_000;

/**
 * Pings the server after `interval` milliseconds without a frame, and while a request has no answer for PATIENCE.
 *
 * Without a pong for another interval, or for PATIENCE in the second case, it reports the connection as dead. Other frames
 * do not show that the way to the server works, but over a slow connection the pong may be behind them: they extend the
 * wait by half. An interval of 0 turns the regular pings off.
 */
export class Heartbeat {
  #interval;
  #patience;
  #sendPing;
  #onDead;
  #unansweredSince;
  #timers = new Timers();
  #receivedAt = 0;
  /** The number of pings without a pong. */
  #pings = 0;
  /** How long the last ping may be unanswered. 0: no ping is. */
  #timeout = 0;

  /** `unansweredSince()` returns the time at which the oldest request without an answer was sent, if there is one. */
  constructor(interval, { sendPing, onDead, unansweredSince }) {
    this.#interval = interval;
    this.#patience = Math.min(PATIENCE, interval || PATIENCE);
    this.#sendPing = sendPing;
    this.#onDead = onDead;
    this.#unansweredSince = unansweredSince;
  }

  frameReceived() {
    this.#receivedAt = continuousTime();
  }

  frameSent() {
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
    this.#timeout = 0;
    this.#timers.clear("check");
    if (!this.#interval) return;
    const silence = continuousTime() - this.#receivedAt;
    if (silence >= this.#interval) this.#ping(this.#interval);
    else this.#timers.set("check", this.#interval - silence, () => this.start());
  }

  stop() {
    this.#timers.clearAll();
    this.#pings = this.#timeout = 0;
  }

  /** Check now if the connection is alive, with a shorter timeout than usual. */
  probe() {
    if (this.#timeout !== this.#patience) this.#ping(this.#patience);
  }

  #checkRequests() {
    const since = this.#unansweredSince();
    if (since === undefined) return;
    const remaining = since + this.#patience - continuousTime();
    if (remaining <= 0) this.probe();
    this.#timers.set("request", remaining > 0 ? remaining : this.#patience, () => this.#checkRequests());
  }

  #ping(timeout) {
    const sentAt = continuousTime();
    this.#timeout = timeout;
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
