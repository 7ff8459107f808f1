// The joined rooms as their frames describe them: members, users who type, unread messages, and the events received.

import { page } from "./dom.js";

const EVENTS = new Set(page.events.map(({ type }) => type));
/** A user is no longer shown as typing after this time without another `typing`, in milliseconds. */
const TYPING_TIMEOUT = 6_000;
/** Members beyond this number are counted, and not listed. */
export const MAX_MEMBERS = 200;

class RoomState {
  /** The listed members by id, or null if they are not known. */
  members = null;
  memberCount = 0;
  /** True if the list of members was requested after the join. */
  isListRequested = false;
  /** The users who type, by id: [name, timer]. */
  typers = new Map();
  /** The number of unread messages, or undefined if the server has not told it. */
  unread;
  /** Events up to this offset were counted in `unread` at the join. */
  countedOffset = 0;
  /** The ids of the oldest and the newest event that was received. */
  oldest;
  newest;
  /** False if no events before the oldest one are stored. */
  hasOlder = true;
}

/** Emits "change" with the name of a room whose state has changed. */
export class RoomStates extends EventTarget {
  #states = new Map();
  #user;

  /** Return the state of a joined room, or undefined. */
  get(room) {
    return this.#states.get(room);
  }

  /** Forget all rooms, because the connection has ended. */
  clear() {
    for (const room of this.#states.keys()) this.#forget(room);
  }

  /** Take over what a frame from the server says. */
  received(message) {
    const { type, room, data, id } = message;
    if (type === "connected") this.#user = data.user_id;
    if (typeof room !== "string") return;
    if (type === "joined_room") this.#joined(room, data);
    else if (type === "left_room") this.#forget(room);
    const state = this.#states.get(room);
    if (!state) return;
    if (type === "members") this.#listed(state, data);
    else if (type === "history") this.#read(state, data);
    else if (type === "user_joined") this.#arrived(state, data);
    else if (type === "user_left") this.#left(state, data.user_id);
    else if (type === "user_updated") this.#updated(state, data);
    else if (type === "typing") this.#typed(room, state, data);
    else if (type === "marked_read") state.unread = data.unread;
    else if (typeof id === "string" && EVENTS.has(type)) this.#happened(state, message);
    this.#changed(room);
  }

  #joined(room, data) {
    const state = this.#states.get(room) ?? new RoomState();
    this.#states.set(room, state);
    state.members = null; // An earlier list is out of date after a lost connection.
    state.isListRequested = false;
    if (data.members) this.#listed(state, data);
    if (data.unread !== undefined) state.unread = data.unread;
    if (data.last_id) state.newest = data.last_id;
    state.countedOffset = data.last_id ? offsetOf(data.last_id) : 0;
  }

  #listed(state, { members, member_count: count }) {
    state.members ??= new Map();
    for (const member of members) state.members.set(member.user_id, member);
    state.memberCount = count;
  }

  #read(state, { events, more }) {
    if (events.length) state.oldest = events[0].id;
    state.hasOlder = more;
  }

  #arrived(state, { user_id, username }) {
    if (!state.members || state.members.has(user_id)) return;
    state.memberCount++;
    if (state.members.size < MAX_MEMBERS) state.members.set(user_id, { user_id, username });
  }

  #left(state, id) {
    this.#stopTyping(state, id);
    if (!state.members) return;
    state.members.delete(id);
    state.memberCount--;
  }

  #updated(state, { user_id, username, status, data }) {
    const member = state.members?.get(user_id);
    if (member) Object.assign(member, { username, status, data });
  }

  #typed(room, state, { user_id, username, typing }) {
    this.#stopTyping(state, user_id);
    if (!typing) return;
    const end = () => {
      state.typers.delete(user_id);
      this.#changed(room);
    };
    state.typers.set(user_id, [username, setTimeout(end, TYPING_TIMEOUT)]);
  }

  #stopTyping(state, id) {
    clearTimeout(state.typers.get(id)?.[1]);
    state.typers.delete(id);
  }

  #happened(state, { type, id, data }) {
    state.oldest ??= id;
    const isCounted = offsetOf(id) <= state.countedOffset;
    if (!isCounted) state.newest = id;
    if (type !== "message" || isCounted) return;
    this.#stopTyping(state, data.user_id);
    if (state.unread !== undefined) state.unread = data.user_id === this.#user ? 0 : state.unread + 1;
  }

  #forget(room) {
    const state = this.#states.get(room);
    if (!state) return;
    for (const id of state.typers.keys()) this.#stopTyping(state, id);
    this.#states.delete(room);
    this.#changed(room);
  }

  #changed(room) {
    this.dispatchEvent(new CustomEvent("change", { detail: room }));
  }
}

const offsetOf = (id) => Number(id.slice(id.lastIndexOf("-") + 1));
