/** The messages of a room as a page shows them. */

import { MESSAGES_CAPACITY } from "./constants.js";
import { isNewer } from "./frames.js";
import { Holder } from "./holder.js";

/** Applies edits and deletions, and adds the messages that this client is sending. */
export class Messages extends Holder {
  /** The events, oldest first. */
  events = [];
  #older = 0;
  /** The messages that are being sent or have failed, by idempotency key. */
  #sending = new Map();
  #onChange;

  /** `onChange({messages, hasMore})` is called with a new array, in which changed messages are new objects. */
  constructor(last, onChange) {
    super(last);
    this.#onChange = onChange;
  }

  reset() {
    super.reset();
    this.events = [];
    this.#changed();
  }

  emit(event) {
    if (!event.id) return;
    this.#sending.delete(event.key);
    this.events.push(event);
    if (this.events.length > MESSAGES_CAPACITY + this.#older) {
      this.events.shift();
      this.more = true;
    }
    this.#changed();
  }

  /** Add the page before the oldest event. */
  addOlder({ events, more }) {
    this.#older += events.length;
    this.events.unshift(...events);
    this.more = more;
    this.#changed();
  }

  /** Note what has become of the message with this `key`. Without `changes`, drop it. */
  update(key, changes) {
    if (changes) this.#sending.set(key, { ...this.#sending.get(key), ...changes });
    else this.#sending.delete(key);
    this.#changed();
  }

  #changed() {
    const sending = [...this.#sending.values()];
    // The event of a message that was sent may have no key, if the server is old.
    const unseen = sending.filter(({ id }) => !id || isNewer(id, this.position));
    this.#onChange({ messages: [...fold(this.events), ...unseen], hasMore: this.more });
  }
}

/** Return the messages among `events` after all edits and deletions. */
function fold(events) {
  const messages = new Map();
  for (const event of events) {
    const { type, data, timestamp } = event;
    const id = data.message_id;
    const message = messages.get(id);
    if (type === "message") messages.set(event.id, event);
    else if (type === "message.deleted") messages.delete(id);
    else if (type === "message.edited" && message) {
      const { content, metadata } = data;
      messages.set(id, { ...message, data: { ...message.data, content, metadata }, edited: timestamp });
    }
  }
  return messages.values();
}
