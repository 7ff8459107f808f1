/** Detection of dead connections. */

import { continuousTime } from "./clock.js";
import { Timers } from "./timers.js";

/** How long a probe waits for an answer, in milliseconds. */
const PROBE_TIMEOUT = 5_000;

/**
 * Pings the server after `interval` milliseconds without a frame. After another interval it reports the connection as dead.
 *
 * An interval of 0 turns the regular pings off; probe() still works.
 */
export class Heartbeat {
  #interval;
  #sendPing;
  #onDead;
  #timers = new Timers();
  #receivedAt = 0;
  #isProbing = false;

  constructor(interval, { sendPing, onDead }) {
    this.#interval = interval;
    this.#sendPing = sendPing;
    this.#onDead = onDead;
  }

  /** Any frame of the server shows that the connection is alive. */
  frameReceived() {
    this.#receivedAt = continuousTime();
  }

  start() {
    this.#isProbing = false;
    if (!this.#interval) return;
    const silence = continuousTime() - this.#receivedAt;
    if (silence >= this.#interval) this.#ping(this.#interval);
    else this.#timers.set("check", this.#interval - silence, () => this.start());
  }

  stop() {
    this.#timers.clear("check");
  }

  /** Check now if the connection is alive, with a shorter timeout than usual. */
  probe() {
    this.#ping(Math.min(PROBE_TIMEOUT, this.#interval || PROBE_TIMEOUT));
  }

  #ping(timeout) {
    if (this.#isProbing && timeout >= this.#interval) return;
    this.#isProbing = true;
    const sentAt = continuousTime();
    this.#sendPing();
    this.#timers.set("check", timeout, () => {
      if (this.#receivedAt >= sentAt) this.start();
      else if (continuousTime() - sentAt < 2 * timeout + 100) this.#onDead();
      else {
        // The timer fired late because the device slept. The answer may still be unread, so ping again.
        this.#isProbing = false;
        this.#ping(timeout);
      }
    });
  }
}
