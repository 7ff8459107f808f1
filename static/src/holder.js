/** A holder of a room: a part of the page, or the list of the messages. */

import { EventHandlers } from "./event_handlers.js";
import { isNewer } from "./frames.js";

/** Receives the newest events of the room once they are loaded, and then the live ones: in order, without a gap. */
export class Holder extends EventHandlers {
  /** How many events to load. 0: the holder receives live events only. */
  last;
  /** True if the room has older events than those that were loaded. */
  more = false;
  /** The live events that wait for the load; null if there is none. */
  buffer = null;
  /** The id of the last event received. */
  position;

  constructor(last) {
    super();
    this.last = last;
    if (last) this.buffer = [];
  }

  /** Wait for load(), because earlier events are missing. */
  reset() {
    if (this.last) this.buffer = [];
  }

  receive(frame) {
    const { id } = frame;
    if (id) {
      this.buffer?.push(frame);
      if (this.buffer || !isNewer(id, this.position)) return;
      this.position = id;
    }
    this.emit(frame);
  }

  /** Receive the newest events, unless they are there. */
  async load(room) {
    if (!this.buffer) return;
    const buffer = (this.buffer = []);
    let events = [];
    try {
      do {
        // A page has fewer events if they are long.
        const { data } = await requestPage(room, this.last - events.length, events[0]?.id);
        events = [...data.events, ...events];
        this.more = data.more && data.events.length > 0;
      } while (this.more && events.length < this.last);
    } catch ({ code }) {
      // The next join loads them. After other errors, which are `error` events as well, the live events follow.
      if (code === "closed") return;
    }
    if (buffer !== this.buffer) return; // Superseded by another load.
    this.buffer = null;
    for (const event of [...events, ...buffer]) this.receive(event);
  }
}

/** The pages that were requested in the current task, by room. */
const requested = new WeakMap();

/** Request a page of the history. Parts of a room that begin to load together share the request for the same page. */
function requestPage(room, limit, before) {
  const pages = requested.get(room) ?? {};
  requested.set(room, pages);
  queueMicrotask(() => requested.delete(room)); // Events that arrive from now on may be missing from the page.
  return (pages[[limit, before]] ??= room.command("history", { limit, before }));
}
