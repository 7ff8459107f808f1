/** Errors and close codes: the public error class, and how the client reacts to each code of the server. */

// Close codes that the client treats differently.
export const CLOSE_NORMAL = 1000;
export const CLOSE_CONNECTION_LOST = 1006;
export const CLOSE_TOO_BIG = 1009;
export const CLOSE_SERVICE_RESTART = 1012;
export const CLOSE_BAD_TOKEN = 4401;
export const CLOSE_TOO_MANY_MESSAGES = 4429;

/** The rejection of a request: `code`, message and `fields` of the server, or one of the client's own codes. */
export class RoomcastError extends Error {
  static get name() {
    return "RoomcastError"; // See ChatClient.
  }

  constructor({ code, message, fields, room }) {
    super(message);
    this.name = "RoomcastError";
    this.code = code;
    this.fields = fields;
    this.room = room;
  }
}

/** Return the error of a request that a closed client cannot carry out. */
export const closedError = ({ code = CLOSE_NORMAL, reason }) => ({
  code: "closed",
  message: `The connection is closed (${code} ${reason || "on request"}); call connect() to connect again.`,
});

/** The state of a client that was closed by its page. */
export const CLOSED = { state: "closed", attempts: 0, code: CLOSE_NORMAL, reason: "" };

/** Return the error of a request that exceeds the option queue. */
export const queueFull = (queue) => ({
  code: "queue_full",
  message: `${queue} requests wait already, as many as the option queue allows.`,
});

/** Error codes after which the client sends the same request again. */
export const RETRY_CODES = new Set(["rate_limited", "in_progress", "unavailable"]);

/** Error codes after which the client tries to rejoin a room again. */
export const RETRY_REJOIN_CODES = new Set([...RETRY_CODES, "timeout", "internal"]);

/**
 * Close codes after which the client does not reconnect, except after CLOSE_BAD_TOKEN with a new token.
 *
 * 1009 and 4403 are not among them: they concern one request, which is rejected.
 */
export const FINAL_CLOSES = new Set([1002, 1003, 1007, CLOSE_BAD_TOKEN, 4410]);
