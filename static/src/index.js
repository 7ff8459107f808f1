/**
 * The client of a roomcast server, for pages, workers and programs (Node 22, Deno, Bun).
 *
 *     import { ChatClient } from "http://localhost:8000/static/roomcast.js";
 *
 *     const client = new ChatClient(() => fetch("/my/token").then((response) => response.text()));
 *     client.on("message", (message) => console.log(`${message.data.username}: ${message.data.content}`));
 *     client.connect();
 *     client.joinRoom("channel:1");
 *     await client.sendMessage("channel:1", "Hello everyone!");
 *
 * The client reconnects, resumes its rooms from the last event received, and sends each request once. Requests made while
 * it is offline wait in the order of the calls.
 *
 * `npm run build` bundles these files to `static/roomcast.js`, which is also the script of the SharedWorker. Layers, from
 * the top: chat_client.js uses connection.js directly, or shared_connection.js, which talks to connection.js in
 * shared_worker.js. The objects of room() are in room.js, with holder.js, members.js, typing.js and messages.js. A connection
 * consists of rooms.js, request_queue.js, heartbeat.js, tokens.js and backoff.js.
 */

import { isWorker, serveTabs } from "./shared_worker.js";

export { ChatClient } from "./chat_client.js";
export { RoomcastError } from "./errors.js";
export { DEFAULTS } from "./options.js";

if (isWorker()) serveTabs(globalThis);
