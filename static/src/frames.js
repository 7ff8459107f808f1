/** Helpers for frames, event ids ("<epoch>-<offset>") and random ids. */

/** Build a frame that the client emits itself, in the format of the server's frames. */
export const localFrame = (type, room, data) => ({ type, ...(room && { room }), data, timestamp: new Date().toISOString() });

/** Return the id in the text of a request. Return undefined if there is none or the text is not JSON. */
export function requestIdOf(text) {
  try {
    return JSON.parse(text)?.id;
  } catch {
    return undefined;
  }
}

/** Return the epoch of an event id: it changes when the server loses the history of the room. */
export const epochOf = (eventId) => eventId.slice(0, eventId.lastIndexOf("-"));

const offsetOf = (eventId) => Number(eventId.slice(eventId.lastIndexOf("-") + 1));

/** Return true if the event `id` is newer than `position` in the same room. Every event of another epoch is newer. */
export function isNewer(id, position) {
  return position === undefined || epochOf(id) !== epochOf(position) || offsetOf(id) > offsetOf(position);
}

/** Return a random id of 96 bits. */
export const randomId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(36)).join("");
