/**
 * Clients of reconnect.py: node reconnect_clients.mjs MODULE URL < TOKENS
 *
 * Connects one client of MODULE (a roomcast.js) for each line of TOKENS, and joins a room with each. Prints "ready", and
 * after the end of the connections a JSON line when every client has joined its room again: for each client the times of
 * its loss and of its return (Unix time in milliseconds), and the number of its attempts.
 */

import { readFileSync } from "node:fs";

const [module, url] = process.argv.slice(2);
const { ChatClient } = await import(module);
const tokens = readFileSync(0, "utf8").trim().split("\n");
const now = () => performance.timeOrigin + performance.now();

const results = await Promise.all(
  tokens.map(async (token, n) => {
    const client = new ChatClient(token, { url });
    const result = { attempts: 0 };
    client.connect();
    await client.joinRoom(`channel:${n % 50}`);
    const returned = new Promise((resolve) => {
      client.on("state", ({ data }) => {
        if (data.state === "waiting") result.lost ??= now();
        if (data.state === "connecting") result.attempts++;
        if (data.state === "closed") throw new Error(`closed: ${data.code} ${data.reason}`);
      });
      client.on("joined_room", () => {
        result.returned = now();
        resolve(result);
      });
    });
    return { returned };
  }),
);
console.log("ready");
console.log(JSON.stringify(await Promise.all(results.map(({ returned }) => returned))));
process.exit();
