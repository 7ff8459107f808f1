/** A room that parts of a page hold: its membership and its data, which all holders share. */

import { LOOP_BUFFER, MESSAGES_LOADED, TYPING_TIMEOUT } from "./constants.js";
import { RoomcastError } from "./errors.js";
import { isNewer, localFrame, randomId } from "./frames.js";
import { Holder } from "./holder.js";
import { Members } from "./members.js";
import { Messages } from "./messages.js";
import { bindSelf, makeProxySafe } from "./proxies.js";
import { Typing } from "./typing.js";

/**
 * Joins a room for its first holder, and leaves it when the last holder has left.
 *
 * Pages get an object from hold() that inherits from this one. `roomcast.d.ts` documents every public name. The parts of a
 * room have some of the methods `receive(frame)`, `load(room)`, which is called when the room was joined or events were lost,
 * `reset()`, which is called when events were lost, and `call(type, frame)` for the handlers of the page.
 */
export class Room {
  name;
  state = "left";
  error;
  members = [];
  typers = [];
  unread;
  messages = [];
  hasMore = false;
  #client;
  #join;
  #onUnused;
  #holders = new Set();
  /** The parts with the data of the room. They receive events before the holders. */
  #sources = new Set();
  #typing;
  #members;
  #messages;
  /** What this client has set with setPresence(). */
  #presence;
  /** The id of the newest event. */
  #newest;
  /** The id of the newest event when the room was joined: `unread` counts the messages up to it. */
  #joinedAt;
  /** The newest event that this user has marked as read since the room was joined. */
  #mark;

  /** `join()` joins the room and returns a promise of the reply. `onUnused(isJoined)` is called when nothing holds it any more. */
  constructor(client, name, join, onUnused) {
    bindSelf(this);
    this.name = name;
    this.#client = client;
    this.#join = join;
    this.#onUnused = onUnused;
    const send = (typing) =>
      this.state === "joined" && this.command("typing", { typing }, { signal: AbortSignal.timeout(TYPING_TIMEOUT) });
    this.#typing = new Typing(send, (typers) => this.#set({ typers }));
    this.#sources.add(this.#typing);
  }

  get memberCount() {
    return this.members.length;
  }

  // Holders

  /** Return an object for one part of the page. Load what it needs and the others did not. */
  hold({ presence, messages, last = 0 }) {
    const holder = new Holder(last);
    const leave = () => {
      if (!this.#holders.delete(holder)) return;
      setTimeout(() => this.#endIfUnused()); // Another holder may come at once.
      handle.state = "left";
      holder.call("statechanged", localFrame("statechanged", this.name, { state: "left" }));
      holder.clear();
    };
    const handle = Object.assign(Object.create(this), {
      on: (type, handler) => holder.add(type, handler),
      off: (type, handler) => holder.remove(type, handler),
      leave,
      [Symbol.asyncIterator]: () => iterate(handle),
    });
    this.#holders.add(holder);
    if (presence) this.#members ??= this.#addSource(new Members((members) => this.#set({ members })));
    if (messages) this.#addMessages(last || MESSAGES_LOADED);
    if (this.state === "joined") holder.load(this);
    if (/left|failed/.test(this.state)) this.#start();
    return handle;
  }

  #addMessages(last) {
    const messages = (this.#messages ??= this.#addSource(new Messages(last, (changes) => this.#set(changes))));
    if (messages.last >= last) return;
    if (!messages.buffer) this.history({ limit: last - messages.last });
    messages.last = last;
  }

  #addSource(source) {
    this.#sources.add(source);
    if (this.state === "joined") source.load(this);
    return source;
  }

  #endIfUnused() {
    // A closed client cannot leave the room, and would join it again with the next connection.
    if (this.#holders.size || this.#client.state === "closed") return;
    this.#typing.reset();
    this.#onUnused(!/left|failed/.test(this.state));
    this.#onUnused = () => {};
  }

  /** Call a method of the parts that have it. */
  #each(method, ...args) {
    for (const part of [...this.#sources, ...this.#holders]) part[method]?.(...args);
  }

  /** Set properties, and tell the page. The first property gives the event its name. */
  #set(changes) {
    Object.assign(this, changes);
    const type = `${Object.keys(changes)[0]}changed`;
    this.#each("call", type, localFrame(type, this.name, changes));
  }

  // Membership

  async #start() {
    this.#set({ state: "joining", error: undefined });
    try {
      const { data } = await this.#join();
      this.#joined(data);
    } catch (error) {
      this.#set({ state: "failed", error });
    }
  }

  #joined({ unread = 0, last_id: last }) {
    this.#newest = this.#joinedAt = last;
    this.#mark = undefined;
    this.#set({ state: "joined" });
    this.#set({ unread });
    if (this.#presence) this.command("set_presence", this.#presence);
    this.#each("load", this);
  }

  /** Note a mark of this user. Marks from other nodes may arrive in any order, and an older one changes nothing. */
  #marked({ event_id: id, unread }) {
    if (this.#mark && isNewer(this.#mark, id)) return;
    this.#mark = id;
    this.#set({ unread });
  }

  /** Note that the connection is open, or not. */
  connected(isOpen) {
    if (!isOpen) {
      this.#typing.reset();
      if (this.state === "joined") this.#set({ state: "rejoining" });
    } else if (this.error?.code === "closed") this.#start();
    this.#endIfUnused();
  }

  // Events

  receive(frame) {
    const { type, id, data } = frame;
    const isLost = type === "resync";
    const isMember = this.state !== "joining"; // Otherwise, left_room and joined_room answer earlier requests.
    const isLeft = isMember && type === "left_room";
    if (isLost) this.#mark = undefined; // Marks before the loss are not comparable.
    if (isLeft || isLost) this.#each("reset");
    if (isLeft) {
      this.#set({ state: "left" });
      this.#set({ members: [] });
    } else if (isMember && type === "joined_room") this.#joined(data);
    else if (type === "marked_read") this.#marked(data);
    else if (type === "message" && isNewer(id, this.#joinedAt) && this.unread !== undefined) {
      if (data.user_id === this.#client.user.user_id) this.#marked({ event_id: id, unread: 0 });
      else this.#set({ unread: this.unread + 1 });
    }
    if (id) this.#newest = id;
    this.#each("receive", frame);
    if (isLost) this.#each("load", this);
  }

  // Requests

  command(type, data, { key, ...options } = {}) {
    return this.#client.send({ type, room: this.name, data, key }, options);
  }

  send(content, metadata, { key = randomId(), ...options } = {}) {
    this.#typing.set(false);
    const sent = this.command("send_message", { content, metadata }, { key, ...options });
    const update = (changes) => this.#messages?.update(key, changes);
    const frame = localFrame("message", this.name, { content, metadata: metadata ?? {}, ...this.#client.user });
    update({ ...frame, key, pending: true, failed: undefined });
    sent.then(
      (reply) => update({ id: reply.data.event_id }),
      (failed) => update({ pending: false, failed }),
    );
    return sent;
  }

  discard(key) {
    this.#messages?.update(key);
  }

  setPresence(presence) {
    return this.#request("set_presence", presence, (reply) => {
      this.#presence = presence;
      return reply;
    });
  }

  typing(isTyping = true) {
    this.#typing.set(isTyping);
  }

  history({ before = this.#messages?.events[0]?.id, limit, ...options } = {}) {
    const onReply = ({ data }) => {
      if (before && before === this.#messages?.events[0]?.id) this.#messages.addOlder(data);
      return data;
    };
    return this.#request("history", { before, limit }, onReply, options);
  }

  markRead(eventId) {
    if (!eventId && this.unread === 0) return Promise.resolve();
    return this.#request("mark_read", { event_id: eventId ?? this.#newest }, (reply) => {
      this.#marked(reply.data);
      return reply;
    });
  }

  /** Send a command, and return a promise of the result of `onReply`. It may be ignored, like those of all requests. */
  #request(type, data, onReply, options) {
    const result = this.command(type, data, options).then(onReply);
    result.catch(() => {});
    return result;
  }
}

makeProxySafe(Room);

/** Yield the events of a room until it is left. */
async function* iterate(room) {
  const queue = [{ type: "statechanged", data: room }];
  let wake;
  const receive = (event) => {
    if (queue.length <= LOOP_BUFFER) queue.push(event);
    wake?.();
  };
  const removals = [room.on("*", receive), room.on("statechanged", receive)];
  try {
    while (queue.length <= LOOP_BUFFER) {
      const event = queue.shift();
      if (!event) await new Promise((resolve) => (wake = resolve));
      else if (event.type !== "statechanged") yield event;
      else if (event.data.error) throw event.data.error;
      else if (event.data.state === "left") return;
    }
    throw new RoomcastError({ code: "queue_full", message: `The loop over ${room.name} is slow.` });
  } finally {
    for (const remove of removals) remove();
  }
}
