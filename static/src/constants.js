/**
 * The times and limits of the client, in milliseconds unless stated otherwise.
 *
 * They are in one module because esbuild replaces imported numbers by their values, but not those of the same module.
 */

// Reconnecting

/** A connection that was open this long counts as stable: the back-off starts again at its base. */
export const STABLE_AFTER = 5_000;
/** A connection that is lost this soon after the device woke up broke while it slept: reconnect at once. */
export const WAKE_WINDOW = 5_000;
/**
 * Shortest delay after a revocation. Tokens carry their issue time in whole seconds, so a token issued within the same
 * second as the revocation would be refused as well.
 */
export const REVOCATION_DELAY = 1_000;
/** How long the server may take to answer a close. */
export const CLOSE_TIMEOUT = 1_000;

// Heartbeat

/** How long a short request may be unanswered, and after that a probe. */
export const PATIENCE = 5_000;
/** Longer requests have the time of their upload in addition, at this speed in characters per millisecond. */
export const SLOW_UPLOAD = 10;
/** Date.now() may fall behind performance.now() by this much through rounding and slewing, without being set back. */
export const CLOCK_TOLERANCE = 1_000;
/** The limit of setTimeout. */
export const LONGEST_DELAY = 2 ** 31 - 1;

// Requests

/** How long a request may be repeated. The server keeps idempotency keys for 300 s. */
export const KEY_LIFETIME = 270_000;
/** The server's rate limit allows a burst of five seconds. The rest is for messages that the network delays. */
export const BURST = 4_000;
/** The same for bytes, of which the server allows a burst of one second. */
export const BYTE_BURST = 800;
/** The server counts a message and its event, which is longer by the fields that the server adds, in bytes. */
export const EVENT_OVERHEAD = 512;
/** The part of the burst that is left to requests while the client tries to join rooms again. */
export const RETRY_RESERVE = 2_000;
/** The bounds of the delays before a request is sent again that the server refused for now. */
export const REPEAT_BASE = 1_000;
export const REPEAT_MAX = 20_000;
/** How long to wait before asking again which request an error without an id belongs to. */
export const ASK_AGAIN = 1_000;

// Tokens and tabs

/** The shortest delay before a token is replaced. */
export const SHORTEST_REFRESH = 1_000;
/** How long a tab may take to start the worker, or to answer a token request. */
export const TAB_TIMEOUT = 5_000;

// Room objects

/** How many events are kept, in addition to the older ones that the page loads. */
export const MESSAGES_CAPACITY = 1000;
/** How many events a room with `messages` loads by default. */
export const MESSAGES_LOADED = 50;
/** How many events may wait for the loop of an async iteration. */
export const LOOP_BUFFER = 1000;
/** How long a report that the user is typing may wait for the connection. */
export const TYPING_TIMEOUT = 3_000;
/** How often the others are told that this user is still typing. */
export const TYPING_REFRESH = 3_000;
/** The pause after which this user does not type any more. */
export const TYPING_PAUSE = 5_000;
/** A user whose typing was not repeated for this long does not type any more. */
export const TYPING_EXPIRY = 6_000;
