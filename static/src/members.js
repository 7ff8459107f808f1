/** The members of a room. */

/** Loads the members after each join, page by page, and then follows the events of the room. */
export class Members {
  #onChange;
  /** The members by id; undefined until they are loaded for the first time. */
  #byId;
  /** The events since the load began; undefined if there is none. */
  #changes;

  /** `onChange(members)` is called with a new array. */
  constructor(onChange) {
    this.#onChange = onChange;
  }

  /** Replace the members by those of the server. */
  async load(room) {
    const changes = [];
    const loaded = new Map();
    let after;
    this.#changes = changes;
    try {
      do {
        const { data } = await room.command("members", { after });
        for (const member of data.members) loaded.set(member.user_id, member);
        after = data.next;
      } while (after && changes === this.#changes);
      if (changes !== this.#changes) return; // The room was joined again.
      this.#byId = loaded;
      // The server may have read a page before an event that arrived earlier than the page.
      for (const event of changes) this.#apply(event);
      this.#publish();
    } catch {
      // It is an `error` event as well. The next join loads the members again.
    }
    if (changes === this.#changes) this.#changes = undefined;
  }

  /** Note that events may be missing: the list stays as it is until the members are loaded again. */
  reset() {
    this.#byId = undefined;
  }

  receive(event) {
    this.#changes?.push(event);
    if (this.#byId && this.#apply(event)) this.#publish();
  }

  /** Return true if `event` changes the members. */
  #apply({ type, data, timestamp }) {
    const { user_id: id } = data;
    const member = this.#byId.get(id);
    if (type === "user_left") return this.#byId.delete(id);
    if (type === "user_joined" ? member : type !== "user_updated" || !member) return false;
    return this.#byId.set(id, { since: timestamp, ...member, ...data });
  }

  #publish() {
    this.#onChange([...this.#byId.values()]);
  }
}
