/** Helpers for frames, event ids ("<epoch>-<offset>") and random ids. */

/** Build a frame that the client emits itself, in the format of the server's frames. */
export const localFrame = (type, room, data) => ({ type, room, data, timestamp: new Date().toISOString() });

/** Return the id in the text of a request. Return undefined if there is none or the text is not JSON. */
export function requestIdOf(text) {
  try {
    return JSON.parse(text)?.id;
  } catch {
    return undefined;
  }
}

/** Return the epoch of an event id: it changes when the server is restarted or loses the history of the room. */
export const epochOf = (eventId) => eventId.slice(0, eventId.lastIndexOf("-"));

/** Return the offset of an event id. It is 0 if the room had no event yet. */
export const offsetOf = (eventId) => Number(eventId.slice(eventId.lastIndexOf("-") + 1));

/**
 * Return true if the event `id` is newer than `position` in the same room.
 *
 * On Redis, epochs are numbers that grow, and offsets count on over all epochs unless the room has lost its history. The
 * embedded broker's epochs are texts without an order: every event of another epoch is newer.
 */
export function isNewer(id, position) {
  if (position === undefined || offsetOf(id) > offsetOf(position)) return true;
  return epochOf(id) !== epochOf(position) && !(Number(epochOf(id)) < Number(epochOf(position)));
}

/** Return a random id of 96 bits. */
export const randomId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(36)).join("");
