/** Errors and close codes: the public error class, and how the client reacts to each code of the server. */

/** The rejection of a request: `code`, message and `fields` of the server, or one of the client's own codes. */
export class RoomcastError extends Error {
  static name = "RoomcastError"; // The bundler renames the class.

  constructor({ code, message, fields, room }) {
    super(message);
    this.name = "RoomcastError";
    this.code = code;
    this.fields = fields;
    this.room = room;
  }
}

/** Error codes after which the client sends the same request again. */
export const RETRY_CODES = new Set(["rate_limited", "in_progress", "unavailable"]);

/** Error codes after which the client tries to rejoin a room again. */
export const RETRY_REJOIN_CODES = new Set([...RETRY_CODES, "timeout", "internal"]);

// Close codes that the client treats differently.
export const CLOSE_NORMAL = 1000;
export const CLOSE_CONNECTION_LOST = 1006;
export const CLOSE_SERVICE_RESTART = 1012;
export const CLOSE_BAD_TOKEN = 4401;
export const CLOSE_FORBIDDEN = 4403;
export const CLOSE_TOO_MANY_MESSAGES = 4429;

/** Close codes after which a new token may be accepted. */
export const TOKEN_CLOSES = new Set([CLOSE_BAD_TOKEN, CLOSE_FORBIDDEN]);

/** Close codes after which the client does not reconnect, except after TOKEN_CLOSES with a new token. */
export const FINAL_CLOSES = new Set([1002, 1003, 1007, 1009, ...TOKEN_CLOSES, 4410]);
