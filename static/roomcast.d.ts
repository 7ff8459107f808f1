/**
 * Types of roomcast.js, the client of a roomcast server.
 *
 * The types here cover the built-in commands and events. To add those of your server's plugins, generate a declaration
 * file with `roomcast schema --format typescript`. It extends `Commands` and `Events`, so that for example
 * `client.on("task.created", (event) => event.data.title)` is checked.
 */

/** A frame as the server sends it. */
export interface Frame<Type extends string = string, Data = any> {
  type: Type;
  data: Data;
  /** When the server created the frame: RFC 3339, in UTC. */
  timestamp: string;
  /** The room of the event or the command. Missing in the user's own notifications. */
  room?: string;
  /** In an event: its id, unique in its room; events that are not stored, such as `user_joined`, have none. In a reply: the id that was passed to `send`. */
  id?: string | number;
  /** Who caused the event, for example a username. */
  sender?: string;
  /** In an event: the `key` of the request that caused it, if it had one. */
  key?: string;
}

/** An event that is stored in the history of its room. `room` is missing in the user's own notifications. */
export interface StoredEvent<Type extends string = string, Data = any> extends Frame<Type, Data> {
  id: string;
  /** The idempotency key of the request that caused the event, if it had one. */
  key?: string;
}

/** An event that only the present members of its room receive. It is not stored, and has no id. */
export interface LiveEvent<Type extends string = string, Data = any> extends Frame<Type, Data> {
  id?: undefined;
}

export type UserId = number | string;

/** A user as they appear in events. */
export interface User {
  user_id: UserId;
  username: string;
}

/**
 * State of the connection:
 *
 * - `connecting`: the client requests a token or opens the connection.
 * - `open`: the server has accepted the connection.
 * - `waiting`: the connection was lost; the client reconnects at `StateData.retryAt`.
 * - `closed`: the client does not reconnect until `connect()` is called.
 */
export type State = "connecting" | "open" | "waiting" | "closed";

/** The data of a `state` event. */
export interface StateData {
  state: State;
  /** Failed attempts since the last stable connection. */
  attempts: number;
  /** The close code of the connection that ended. 1006: the connection was lost. 0: it could not be attempted. */
  code?: number;
  /** The reason of the close, as text. */
  reason?: string;
  /** If `waiting`: the delay before the next attempt, in milliseconds. */
  delay?: number;
  /** If `waiting`: the time of the next attempt, comparable to `Date.now()`. */
  retryAt?: number;
}

/** The data of an `error` event. */
export interface ErrorData {
  /** What is wrong and what to do about it, as an English sentence. */
  error: string;
  /** A stable code for programs. */
  code: ErrorCode;
  /** If `invalid_data`: the problems of each invalid field, by the name of the field. */
  fields?: Record<string, unknown>;
}

/**
 * The error codes of the server, and four codes of the client:
 *
 * - `closed`: the client is closed, or was closed before the answer arrived.
 * - `queue_full`: the maximum number of requests (option `queue`) is waiting already.
 * - `too_big`: the message is larger than the server accepts, or than the option `maxSize`.
 * - `uncertain`: the request was sent, the connection was lost before the answer arrived, and repeating the request could
 *   execute it twice. It may or may not have been executed.
 *
 * The client also uses `timeout`, if a request is not answered within the option `timeout` of the call.
 */
export type ErrorCode =
  | "bad_json" | "bad_message" | "unknown_type" | "bad_room" | "unknown_room_type" | "invalid_data" | "forbidden"
  | "not_joined" | "too_many_rooms" | "bad_token" | "not_found" | "not_author" | "rate_limited" | "in_progress" | "key_reused"
  | "timeout" | "unavailable" | "internal"
  | "closed" | "queue_full" | "too_big" | "uncertain"
  | (string & {});

/** The result of a resume. */
export interface Resumed {
  /** True if the missed events follow. False if they are no longer in the history, or none were requested. */
  recovered: boolean;
  /** The id of the newest event in the room. */
  last_id: string;
}

/** The limits of the server, from its settings. */
export interface Limits {
  /** WS_MAX_MESSAGE_SIZE: the maximum size of a message in bytes of UTF-8. */
  max_message_size: number;
  /** WS_MESSAGE_RATE: messages per second, with bursts of five times as many. 0 means no limit. */
  message_rate: number;
  /**
   * WS_BYTE_RATE: bytes per second, for all connections of the user to this server, with bursts of one second. A message and
   * the event that it becomes both count. 0 means no limit.
   */
  byte_rate: number;
  /** WS_HEARTBEAT_INTERVAL: the silence after which the server pings the client, in seconds. */
  heartbeat: number;
  /** MAX_ROOMS_PER_CONNECTION: the number of rooms that the connection may be in. */
  max_rooms: number;
  /** DRAIN_SECONDS: the time over which a server that stops closes its connections, in seconds. */
  drain: number;
}

/** The data of the command `join_room`. Room objects load the newest events; see `ChatClient.room`. */
export interface JoinData {
  /** The id of the last event that you have, to receive all later ones. `null`: you have none. */
  since?: string | null;
}

/** The data of a `joined_room` event. */
export interface JoinedRoomData extends Partial<Resumed> {
  message: string;
  /** True if events before those that follow are stored. Present only if the newest events follow, because of `last`. */
  more?: boolean;
  /** The number of unread messages, up to `last_id` if that is present. Missing in rooms without messages. */
  unread?: number;
}

/** The data of the command `history`. `before` and `since` exclude each other; without both, the newest events are read. */
export interface HistoryQuery {
  /** The id of the first event that you have, to read the newest events before it. */
  before?: string;
  /** The id of the last event that you have, to read the oldest events after it. */
  since?: string;
  /** The number of events, 1 to 200. Default: 50. */
  limit?: number;
}

/** The data of a reply to the command `history`. */
export interface HistoryData {
  /** The events as they were delivered, oldest first. */
  events: AnyRoomEvent[];
  /** True if events before these are stored, or with `since` events after these. */
  more: boolean;
  /** The id of the newest event in the room. */
  last_id: string;
  /** False if the history does not reach back to `since`. Present only with `since`. */
  recovered?: boolean;
}

interface InRoom {
  room: string;
}

/** The data of a `message`. */
export interface MessageData extends User {
  content: string;
  metadata: Record<string, unknown>;
}

/** What a member of a room shows about itself. */
export interface Presence {
  /** Up to 32 characters, such as "away". */
  status?: string | null;
  /** Up to 1 KB as JSON. */
  data?: Record<string, unknown> | null;
}

/** A member of a room. `since` is the time of their arrival, in the format of `Frame.timestamp`. */
export interface Member extends User, Presence {
  since: string;
}

/** A page of the members of a room. */
export interface MemberPage {
  /** In the order of their arrival. */
  members: Member[];
  /** The number of all members. */
  member_count: number;
  /** The value of `after` for the next page. Missing in the last page. */
  next?: string;
}

/** The data of a `connected` event. */
export interface ConnectedData extends Partial<Resumed> {
  message: string;
  user_id: UserId;
  username: string;
  /** Missing if the server is older than version 0.2. */
  limits?: Limits;
  /** Missing if the server is older than version 0.2. */
  server?: { version: string };
}

/** The frames that handlers receive, by type. Extend this interface with the events of your server. */
export interface Events {
  /** The connection is open. Emitted after each reconnect as well. */
  connected: Frame<"connected", ConnectedData>;
  /** The state of the connection has changed. The client creates this event itself. */
  state: Frame<"state", StateData>;
  /** A request failed. Its promise rejects with the same error. Without a handler the client logs a warning. */
  error: Frame<"error", ErrorData>;
  /**
   * Events were missed and cannot be recovered: load the current state from your backend. It concerns `room`, or the user's
   * own notifications if `room` is missing.
   */
  resync: Frame<"resync", { message: string; last_id: string }>;
  /** A room was joined, or joined again after a reconnect. Missed events follow. */
  joined_room: Frame<"joined_room", JoinedRoomData>;
  /** The reply to the command `history`. */
  history: Frame<"history", HistoryData>;
  /** A room was left: by request, because an operator removed the user, or because rejoining it was refused. */
  left_room: Frame<"left_room", { message: string }>;
  /** The server has accepted a new token on the open connection. `expires` is a Unix time in seconds. */
  token_refreshed: Frame<"token_refreshed", { expires: number | null }>;
  /** The reply to the command `ping`. */
  pong: Frame<"pong", { timestamp: string }>;
  /** A user came into a room: their first connection joined it. Live only: not repeated after a reconnect. */
  user_joined: LiveEvent<"user_joined", User> & InRoom;
  /** A user left a room: their last connection left it, or was lost and did not return in time. Live only. */
  user_left: LiveEvent<"user_left", User> & InRoom;
  /** The status of a member of a room has changed. Live only. */
  user_updated: LiveEvent<"user_updated", User & Presence> & InRoom;
  /** A chat message. */
  message: StoredEvent<"message", MessageData>;
  /** A message has a new content. */
  "message.edited": StoredEvent<"message.edited", MessageData & { message_id: string }>;
  /** A message was deleted. */
  "message.deleted": StoredEvent<"message.deleted", User & { message_id: string }>;
  /**
   * Another user types a message in the room, or stopped. Live only. A `message` of the user ends it too, and if it is not
   * repeated for 6 seconds, it is over. `Room.typers` follows these rules.
   */
  typing: LiveEvent<"typing", User & { typing: boolean }> & InRoom;
  /** The user has read a room up to an event, as this or another connection of the user told the server. */
  marked_read: Frame<"marked_read", { event_id: string; unread: number }> & InRoom;
  /** Every frame of every type. */
  "*": Frame;
}

/** The commands that `send` accepts, with their replies, by type. Extend this interface with the commands of your server. */
export interface Commands {
  join_room: { data?: JoinData; reply: Events["joined_room"] };
  history: { data?: HistoryQuery; reply: Events["history"] };
  leave_room: { data?: undefined; reply: Events["left_room"] };
  ping: { data?: undefined; reply: Events["pong"] };
  send_message: {
    data: { content: string; metadata?: Record<string, unknown> };
    reply: Frame<"sent", { event_id: string }>;
  };
  edit_message: {
    data: { message_id: string; content: string; metadata?: Record<string, unknown> };
    reply: Frame<"sent", { event_id: string }>;
  };
  delete_message: { data: { message_id: string }; reply: Frame<"sent", { event_id: string }> };
  /** Tell the others that this user types (the default), every 3 seconds, or that the user stopped. See `Room.typing`. */
  typing: { data?: { typing?: boolean }; reply: Frame<"reply", Record<string, never>> };
  members: { data?: { limit?: number; after?: string }; reply: Frame<"members", MemberPage> };
  set_presence: { data: Presence; reply: Frame<"presence_set"> };
  mark_read: { data: { event_id: string }; reply: Events["marked_read"] };
}

/** The type of a declared command. */
export type CommandType = keyof Commands;

/** A command for `send`, with its data. */
export type Message<Type extends CommandType = CommandType> = MessageOptions & { type: Type } & Omit<Commands[Type], "reply">;

/** What a command has besides its type and data. */
export interface MessageOptions {
  room?: string;
  /** Copied to the reply. Optional: the promise of `send` already belongs to this message. */
  id?: string | number;
  /**
   * The idempotency key: the server executes commands with the same key only once within 5 minutes. By default each call
   * gets a new key, which protects retries after a lost connection.
   */
  key?: string;
}

/** Options of a request. */
export interface RequestOptions {
  /**
   * Reject with the code `timeout` if there is no answer within this time, in milliseconds. Default: wait without a limit,
   * also while there is no connection.
   */
  timeout?: number;
  /**
   * Reject with `signal.reason` when this signal is aborted.
   *
   * A request that was aborted or has timed out is not sent any more. If it was sent already, it may still be carried out.
   */
  signal?: AbortSignal;
}

export type Handler<Event = Frame> = (event: Event) => unknown;

/** The argument of a token function. */
export interface TokenRequest {
  /** True if the server refused the previous token. Return a new one; returning the same token closes the client. */
  refused: boolean;
  /** The token of the previous connection, if any. */
  previous: string | undefined;
}

/**
 * A JWT, or a function that returns one or a promise of one.
 *
 * The function is called for each connection and before the current token expires. It may return the same token as long as
 * that is valid. If it throws, the client tries again later. If it returns nothing (for example after a logout), the client
 * closes.
 */
export type Token = string | ((about: TokenRequest) => string | null | undefined | Promise<string | null | undefined>);

/** Options of `ChatClient`. All times are in milliseconds. */
export interface Options {
  /**
   * The address of the server: ws, wss, http or https, with or without a path.
   *
   * Default: the server that roomcast.js was loaded from. Required if roomcast.js is copied, bundled or loaded from a file.
   */
  url?: string | URL;
  /** The delays between reconnects. `false`: do not reconnect. */
  reconnect?: false | {
    /** Upper bound of the first delay, which is random. Default: 500. */
    base?: number;
    /** The bound grows by half with each attempt, up to this. Later delays are at least half of the bound. Default: 30 000. */
    max?: number;
  };
  /** Maximum number of requests without an answer, including those that wait for a connection. Default: 1000. */
  queue?: number;
  /**
   * Maximum number of requests sent before an answer arrives. Default: 16.
   *
   * If the server refuses a request temporarily (`rate_limited`, `unavailable`), the client sends it again. Requests that
   * were sent after it may then be executed first. With 1 the order of the requests for a room is always kept.
   */
  inFlight?: number;
  /**
   * Maximum messages per second, with bursts of four times as many. Default: the server's WS_MESSAGE_RATE, which also
   * limits larger values. 0: do not limit the rate at all; the server refuses what is too much.
   */
  rate?: number;
  /** Maximum size of a message in bytes. Default: the server's WS_MAX_MESSAGE_SIZE, which also limits larger values. */
  maxSize?: number;
  /**
   * Silence after which the client pings the server. After the same time without an answer it reconnects. 0 turns these
   * pings off. Default: 25 000.
   *
   * In any case, the client pings if a request has no answer for 5 seconds, and reconnects if the ping has none either:
   * within 15 seconds of the request. For a long request, both waits are longer by the time that it takes at 10 KB/s.
   */
  heartbeat?: number;
  /** Maximum time to open a connection. Default: 10 000. */
  timeout?: number;
  /** How long before its expiry a token is replaced, if `token` is a function. Default: 60 000. */
  refresh?: number;
  /**
   * Share one connection between all tabs of a user, in a SharedWorker. Default: false.
   *
   * Tabs with the same user id in their tokens share a connection. If the tokens are not JWTs, pass a name for the user
   * instead of `true`. If a SharedWorker cannot run (not supported, or no script for it at the origin of the page, see
   * `worker`), each tab has its own connection, `isShared` is false, and the console shows a warning with the reason.
   */
  shared?: boolean | string;
  /**
   * The address of roomcast.js for the SharedWorker, at the origin of the page. Default: the address that roomcast.js was
   * loaded from. Required with `shared` if roomcast.js is copied or bundled.
   */
  worker?: string | URL;
  /** A class with the interface of the standard WebSocket, for platforms without one. */
  WebSocket?: typeof WebSocket;
  /** Called with the text of every frame: "out" is sent, "in" is received. Not supported with `shared`. */
  trace?: ((direction: "in" | "out", text: string) => void) | null;
}

/** The default of every option. `url` and `worker` have one if roomcast.js was loaded from a server. */
export const DEFAULTS: Readonly<Required<Omit<Options, "url" | "worker">> & { url?: string; worker?: string }>;

/** The rejection of a request. `message` is an English sentence that explains what is wrong. */
export class RoomcastError extends Error {
  constructor(error: { code: ErrorCode; message: string; fields?: Record<string, unknown>; room?: string });
  readonly name: "RoomcastError";
  /** A stable code for programs. */
  readonly code: ErrorCode;
  /** If `invalid_data`: the problems of each invalid field, by the name of the field. */
  readonly fields?: Record<string, unknown>;
  readonly room?: string;
}

/**
 * A client of one user. Create another client for another user.
 *
 * Requests may be made before the client is connected and while it reconnects. They wait, and are sent once, in the order of
 * the calls. After the client was closed they are rejected until `connect()` is called. Promises may be ignored: a failed
 * request also emits an `error` event.
 *
 * @example
 * const client = new ChatClient(() => fetch("/my/token").then((response) => response.text()));
 * client.on("message", (message) => console.log(`${message.data.username}: ${message.data.content}`));
 * client.connect();
 * client.joinRoom("channel:1");
 * await client.sendMessage("channel:1", "Hello everyone!");
 */
export class ChatClient {
  constructor(token: Token, options?: Options);

  /** The token or token function. A new one may be set before `connect()`. */
  token: Token;
  /** The state of the connection. */
  readonly state: State;
  /** The user whom the server recognized in the token. `null` before the first connection. */
  readonly user: { user_id: UserId; username: string } | null;
  /** The names of the joined rooms. They stay joined while the client reconnects. */
  readonly rooms: string[];
  /** True while the client uses the connection that the option `shared` lets the tabs of a user share. */
  readonly isShared: boolean;

  /**
   * Connect, and reconnect whenever the connection is lost.
   *
   * Resolves to the first `connected` event. Rejects if the server refuses the connection permanently, or if `close()` is
   * called first.
   */
  connect(): Promise<Events["connected"]>;

  /**
   * Disconnect. Pending requests are rejected with the code `closed`.
   *
   * The rooms are kept: after another `connect()` the client resumes them.
   */
  close(): void;

  /** Call `handler` with every frame of `type`, or of all types with `"*"`. Returns a function that removes the handler. */
  on<Type extends keyof Events>(type: Type, handler: Handler<Events[Type]>): () => void;

  /** Remove a handler. */
  off<Type extends keyof Events>(type: Type, handler: Handler<Events[Type]>): void;

  /**
   * Return an object for a room, which is joined if it is not joined yet.
   *
   * Each part of a page gets an object of its own. The room is left when the last one was left, unless it was also joined
   * with `joinRoom`.
   */
  room(name: string, options?: RoomOptions): Room;

  /**
   * Join a room and receive its events, until `leaveRoom`.
   *
   * `since` is the id of the last event that you have: the events after it follow, or a `resync` event if the history does
   * not reach back that far. It has no effect if the room is joined already.
   */
  joinRoom(room: string, options?: RequestOptions & { since?: string | null }): Promise<Events["joined_room"]>;

  /** Leave a room. */
  leaveRoom(room: string, options?: RequestOptions): Promise<Events["left_room"]>;

  /**
   * Send a chat message to a joined room. The id of the message is `data.event_id` of the reply.
   *
   * Half a surrogate pair in it, from a text that was cut within an emoji, is replaced by U+FFFD.
   */
  sendMessage(
    room: string,
    content: string,
    metadata?: Record<string, unknown>,
    options?: RequestOptions,
  ): Promise<Commands["send_message"]["reply"]>;

  /** Send a command. Resolves to the reply; rejects with a `RoomcastError`, or with the reason of an aborted signal. */
  send<Type extends CommandType>(message: Message<Type>, options?: RequestOptions): Promise<Commands[Type]["reply"]>;

  /**
   * Send `text` unchanged and at once, even if it is not a valid command. This is for development tools.
   *
   * Answers arrive at the handlers and at the option `trace`. Returns false if there is no connection, and always with the
   * option `shared`.
   */
  sendText(text: string): boolean;
}

/** Options of a room object. Those of all objects of a room are combined. */
export interface RoomOptions {
  /** Load the members and keep them up to date, in `members`. Default: false. */
  presence?: boolean;
  /**
   * The handlers of this object first receive this many of the newest stored events, oldest first, and then the later
   * ones. Up to 200. Default: 0.
   */
  last?: number;
  /** Keep the messages in `messages`, beginning with the newest `last` (default: 50) events. Default: false. */
  messages?: boolean;
}

/**
 * State of a room:
 *
 * - `joining`: the client waits for the connection or the answer of the server.
 * - `joined`: the room receives events.
 * - `rejoining`: the connection was lost. The room is joined again, and receives what it missed.
 * - `left`: this object was left, or an operator removed the user from the room.
 * - `failed`: the room could not be joined; see `error`.
 */
export type RoomState = "joining" | "joined" | "rejoining" | "left" | "failed";

/** A message in `Room.messages`, after all edits. */
export interface RoomMessage extends Frame<"message", MessageData> {
  room: string;
  /** Missing while the message is being sent. */
  id?: string;
  /** The key with which the message was sent. It stays the same when the message arrives, for lists in templates. */
  key?: string;
  /** The time of the last edit. */
  edited?: string;
  /** True while this client is sending the message. */
  pending?: boolean;
  /** The error because of which the message could not be sent. */
  failed?: unknown;
}

/** Events that a room object creates itself. The data has the new value of the property. */
export interface RoomChanges {
  statechanged: RoomChange<"statechanged", { state: RoomState; error?: RoomcastError }>;
  memberschanged: RoomChange<"memberschanged", { members: readonly Member[] }>;
  typerschanged: RoomChange<"typerschanged", { typers: readonly User[] }>;
  unreadchanged: RoomChange<"unreadchanged", { unread: number | undefined }>;
  messageschanged: RoomChange<"messageschanged", { messages: readonly RoomMessage[]; hasMore: boolean }>;
}

type RoomChange<Type extends string, Data> = LiveEvent<Type, Data> & InRoom;

/** The types of events that a room can have. */
export type RoomEventType = Exclude<keyof Events, "*" | "connected" | "state" | "token_refreshed" | "pong" | "history">;

/** An event of any type in a room. The type of `data` follows from `type`. */
export type AnyRoomEvent = { [Type in RoomEventType]: Events[Type] & InRoom }[RoomEventType];

/** The events for the handlers of a room, by type. */
export type RoomEvents = { [Type in RoomEventType]: Events[Type] & InRoom } & RoomChanges & { "*": AnyRoomEvent };

/**
 * A room, as one part of a page holds it.
 *
 * The properties are replaced when they change, never modified, so that frameworks notice the changes.
 *
 * @example
 * const room = client.room("channel:1", { presence: true, last: 50 });
 * room.on("message", (event) => console.log(`${event.data.username}: ${event.data.content}`));
 * room.on("memberschanged", () => console.log(room.members.map((member) => member.username)));
 * await room.send("Hello everyone!");
 * room.leave();
 */
export interface Room extends AsyncIterable<AnyRoomEvent> {
  readonly name: string;
  readonly state: RoomState;
  /** Why the room could not be joined, if `state` is `failed`. */
  readonly error: RoomcastError | undefined;
  /** The members in the order of their arrival, if a holder has the option `presence`. */
  readonly members: readonly Member[];
  /** The number of members, if a holder has the option `presence`. */
  readonly memberCount: number;
  /** The other members that are typing. */
  readonly typers: readonly User[];
  /** The number of unread messages. `undefined`: not known, because the room is not joined. */
  readonly unread: number | undefined;
  /** The messages, oldest first, and then those that are being sent, if a holder has the option `messages`. */
  readonly messages: readonly RoomMessage[];
  /** True if there are older messages than those in `messages`. `history()` loads them. */
  readonly hasMore: boolean;

  /** Call `handler` with every event of `type` in this room, or of all types with `"*"`. Returns a function that removes it. */
  on<Type extends keyof RoomEvents>(type: Type, handler: Handler<RoomEvents[Type]>): () => void;

  /** Remove a handler. */
  off<Type extends keyof RoomEvents>(type: Type, handler: Handler<RoomEvents[Type]>): void;

  /**
   * Send a chat message. It is in `messages` at once, as `pending`.
   *
   * `key` is the idempotency key: send a failed message again with its `key`, so that it arrives only once.
   */
  send(
    content: string,
    metadata?: Record<string, unknown>,
    options?: RequestOptions & { key?: string },
  ): Promise<Commands["send_message"]["reply"]>;

  /** Send a command in this room. */
  command<Type extends CommandType>(
    type: Type,
    ...rest: undefined extends Commands[Type]["data"]
      ? [data?: Commands[Type]["data"], options?: RequestOptions & { key?: string }]
      : [data: Commands[Type]["data"], options?: RequestOptions & { key?: string }]
  ): Promise<Commands[Type]["reply"]>;

  /** Remove a failed message from `messages`. */
  discard(key: string): void;

  /** Set the status of the user in this room. It is set again after each reconnect. */
  setPresence(presence: Presence): Promise<Commands["set_presence"]["reply"]>;

  /**
   * Call this with each input of the user: the others see the user in `typers`.
   *
   * It ends after a pause of 5 seconds, with `send()` and with `typing(false)`.
   */
  typing(isTyping?: boolean): void;

  /**
   * Load the stored events before an event, by default those before the oldest message in `messages`, which are added to it.
   *
   * `limit` is at most 200. Default: 50.
   */
  history(options?: RequestOptions & { before?: string; limit?: number }): Promise<HistoryData>;

  /**
   * Mark everything up to an event as read, by default all, also for the user's other tabs.
   *
   * Resolves to undefined without a request if nothing is unread.
   */
  markRead(eventId?: string): Promise<Commands["mark_read"]["reply"] | undefined>;

  /** Leave the room, unless others hold it. The handlers of this object are removed. */
  leave(): void;

  /** Yields the events of the room until it is left. Throws if it cannot be joined, or if the loop is much too slow. */
  [Symbol.asyncIterator](): AsyncIterableIterator<AnyRoomEvent>;
}
