/**
 * The types of roomcast.js.
 *
 * `roomcast schema --format typescript` writes the types of your own server's commands and events, those of its plugins
 * too; they are added to `Commands` and `Events` here, and `client.on("task.created", (e) => e.data.title)` is typed.
 */

/** What every frame of the server has. */
export interface Frame<Type extends string = string, Data = any> {
  type: Type;
  data: Data;
  /** RFC 3339, UTC. */
  timestamp: string;
  /** The room that it is about. A user's own notifications have none. */
  room?: string;
  /** Of an event, its id in its room. Of a reply, the id that was given to `send`. */
  id?: string | number;
  /** Who caused an event. */
  sender?: string;
}

export type UserId = number | string;

/** "connecting": a token is asked for, or a connection made. "waiting": to connect again, at `retryAt`. */
export type State = "connecting" | "open" | "waiting" | "closed";

/** The data of a `state` event. */
export interface StateData {
  state: State;
  /** How many attempts failed since the connection was last good. */
  attempts: number;
  /** Where a connection ended: the close code, 1006 if it broke, 0 if it could not be tried. */
  code?: number;
  reason?: string;
  /** Of "waiting": how long, and until when as of Date.now(). */
  delay?: number;
  retryAt?: number;
}

export interface ErrorData {
  /** A sentence on what was wrong and what to do. */
  error: string;
  code: ErrorCode;
  /** What is wrong with which field of the data. */
  fields?: Record<string, unknown>;
}

/**
 * The server's stable words, and this client's own:
 *
 * - `closed`: the client was closed, or refused for good, before the answer came.
 * - `queue_full`: as many requests wait as the option `queue` allows.
 * - `too_big`: the message is longer than the server takes.
 * - `uncertain`: the connection died before the answer, and so long ago, or the server lost its memory since, that sending
 *   again could do it twice. It may have been carried out or not.
 */
export type ErrorCode =
  | "bad_json" | "bad_message" | "unknown_type" | "bad_room" | "unknown_room_type" | "invalid_data" | "forbidden"
  | "not_joined" | "too_many_rooms" | "bad_token" | "not_found" | "not_author" | "rate_limited" | "in_progress" | "key_reused"
  | "timeout" | "unavailable" | "internal"
  | "closed" | "queue_full" | "too_big" | "uncertain"
  | (string & {});

/** Where a room stands: with `recovered`, what was missed follows; `last_id` is the newest event's id. */
export interface Resumed {
  recovered: boolean;
  last_id: string;
}

/** What `on` hears, by type. Add your own server's events to it. */
export interface Events {
  /** Each time that the connection is made, also after a loss. */
  connected: Frame<"connected", { message: string; user_id: UserId; username: string } & Partial<Resumed>>;
  /** The connection is in another state. Made by the client itself. */
  state: Frame<"state", StateData>;
  /** A request was refused, also one whose promise rejects with the same. Without a handler it is written to the console. */
  error: Frame<"error", ErrorData>;
  /** Events were lost for good: load the state of `room` anew, or of the user's own notifications if there is no room. */
  resync: Frame<"resync", { message: string; last_id: string }>;
  /** A room was joined, also again after a loss; the events that were missed follow. */
  joined_room: Frame<"joined_room", { message: string } & Partial<Resumed>>;
  /** A room was left: on request, by an operator's doing, or as it could not be joined again. */
  left_room: Frame<"left_room", { message: string }>;
  token_refreshed: Frame<"token_refreshed", { expires: number | null }>;
  pong: Frame<"pong", { timestamp: string }>;
  user_joined: Frame<"user_joined", { username: string; user_id: UserId }>;
  user_left: Frame<"user_left", { username: string; user_id: UserId }>;
  /** Every frame of any type. */
  "*": Frame;
}

/** What `send` takes and resolves to, by type. Add your own server's commands to it. */
export interface Commands {
  join_room: { data?: { since?: string | null }; reply: Events["joined_room"] };
  leave_room: { data?: undefined; reply: Events["left_room"] };
  ping: { data?: undefined; reply: Events["pong"] };
  send_message: {
    data: { content: string; metadata?: Record<string, unknown> };
    reply: Frame<"sent", { event_id: string }>;
  };
}

/** What `send` takes. */
export interface Message<Type extends string = string, Data = Record<string, unknown>> {
  type: Type;
  room?: string;
  data?: Data;
  /** Comes back in the reply. The promise needs none. */
  id?: string | number;
  /** Repeated with the same key within 5 minutes, a command is not done again. By default each has one of its own. */
  key?: string;
}

export type Handler<Event = Frame> = (event: Event) => unknown;

/** What a token function is told: whether the server refused the `previous` one. */
export interface TokenRequest {
  refused: boolean;
  previous: string | undefined;
}

/**
 * A token, or a function that brings one. It is called at each connect and before the token ends, and may return a token
 * that still holds. Let it throw to be asked again later, and return nothing if there is none, as after a logout.
 */
export type Token = string | ((about: TokenRequest) => string | null | undefined | Promise<string | null | undefined>);

/** Times are in milliseconds. */
export interface Options {
  /** The server: ws, wss, http or https, with a path or without. By default where roomcast.js came from. */
  url?: string | URL;
  /** Come back after a loss; false never does. */
  reconnect?: false | {
    /** The bound of the first wait, which doubles with each attempt; the wait is any time up to the bound. 500. */
    base?: number;
    /** The highest bound. 30 000. */
    max?: number;
    /** Over how long clients come back to a server that restarts (1012): its DRAIN_SECONDS. 10 000. */
    drain?: number;
  };
  /** How many requests may be without an answer, those that wait for a connection included. 1000. */
  queue?: number;
  /**
   * How many requests may be on the wire at once. 16. With 1, the order holds even if the server refuses one for the
   * moment (`rate_limited`, `unavailable`) while the next ones are under way.
   */
  inFlight?: number;
  /** Messages a second, after a burst of five times as many: keep it below the server's WS_MESSAGE_RATE. 80; 0 is no limit. */
  rate?: number;
  /** The longest message in bytes: the server's WS_MAX_MESSAGE_SIZE. 65 536. */
  maxSize?: number;
  /** Silence after which to ping; after another one like it, the connection is given up. 25 000; 0 does not ping. */
  heartbeat?: number;
  /** How long connecting may take. 10 000. */
  timeout?: number;
  /** How long before its end a token is replaced, if a function brings the tokens. 60 000. */
  refresh?: number;
  /**
   * Have one connection for all tabs of a user, in a SharedWorker. false. Which user it is says the token; where it is no
   * JWT, give a name for the user instead of true. Where that cannot be (no SharedWorker; roomcast.js is of another origin
   * than the page and `worker` is not given), the tab has a connection of its own.
   */
  shared?: boolean | string;
  /** Where the worker finds roomcast.js, at the page's own origin. By default where it came from; bundled, it must be given. */
  worker?: string | URL;
  /** A class like the standard's WebSocket, where there is none. */
  WebSocket?: typeof WebSocket;
  /** Called with every frame as text, sent ("out") and received ("in"). Not with `shared`. */
  trace?: ((direction: "in" | "out", text: string) => void) | null;
}

/** Every option with its default. */
export const DEFAULTS: Readonly<Required<Options>>;

/** What a promise of the client rejects with. */
export class RoomcastError extends Error {
  constructor(error: { code: ErrorCode; message: string; fields?: Record<string, unknown>; room?: string });
  readonly name: "RoomcastError";
  readonly code: ErrorCode;
  readonly fields?: Record<string, unknown>;
  readonly room?: string;
}

/**
 * A client of one user; for another user make another one.
 *
 * Whatever is asked of it waits until it is connected, and goes out in the order in which it was asked, once. Promises
 * that nobody waits for do no harm: what is refused comes as an `error` event, too.
 */
export class ChatClient {
  constructor(token: Token, options?: Options);

  /** A new one may be set before `connect()`. */
  token: Token;
  readonly state: State;
  /** Who the server says this is; null before the first welcome. */
  readonly user: { user_id: UserId; username: string } | null;
  /** The rooms that this client is in. */
  readonly rooms: string[];

  /** Connect, and stay connected. Resolves to the first `connected`; rejects if the connection is refused for good. */
  connect(): Promise<Events["connected"]>;

  /** Disconnect. Rooms are kept: `connect()` comes back to them. What still waits is rejected with `closed`. */
  close(): void;

  /** Call `handler` with every frame of `type`. Returns how to stop that. */
  on<Type extends keyof Events>(type: Type, handler: Handler<Events[Type]>): () => void;
  on(type: string, handler: Handler): () => void;

  /** Call `handler` no more. */
  off<Type extends keyof Events>(type: Type, handler: Handler<Events[Type]>): void;
  off(type: string, handler: Handler): void;

  /**
   * Join a room. With `since`, the id of the last event that you know, those after it follow; if the history no longer
   * reaches back, a `resync` does. It counts only where the client is not in the room already.
   */
  joinRoom(room: string, options?: { since?: string | null }): Promise<Events["joined_room"]>;

  leaveRoom(room: string): Promise<Events["left_room"]>;

  /** Say something in a room that was joined. The reply has the message's id in `data.event_id`. */
  sendMessage(room: string, content: string, metadata?: Record<string, unknown>): Promise<Commands["send_message"]["reply"]>;

  /** Send any command. Resolves to its reply. */
  send<Type extends keyof Commands>(message: Message<Type, Commands[Type]["data"]>): Promise<Commands[Type]["reply"]>;
  send<Type extends string>(message: Message<Type> & (Type extends keyof Commands ? never : unknown)): Promise<Frame>;

  /**
   * For tools: send `text` as it stands, valid or not, at once. Whatever comes back is heard by `on` and by the option
   * `trace`. Returns whether there is a connection; with `shared`, false.
   */
  sendText(text: string): boolean;
}
