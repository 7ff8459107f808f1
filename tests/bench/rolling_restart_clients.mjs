/**
 * Clients of rolling_restart.py: node rolling_restart_clients.mjs MODULE URL,OTHER_URL < TOKENS
 *
 * Connects one client of MODULE (a roomcast.js) to URL for each line of TOKENS, and joins a room with each. Each further
 * attempt goes to the other node, as a balancer does. Prints "ready" when all are in the room, and a report in JSON at each
 * SIGUSR2: how many clients are in the room, the totals of what they received, and for each client its messages.
 */

import { readFileSync } from "node:fs";

const [module, urls] = process.argv.slice(2);
const nodes = urls.split(",");
const { ChatClient } = await import(module);
const tokens = readFileSync(0, "utf8").trim().split("\n");
const totals = { resync: 0, user_joined: 0, user_left: 0, attempts: 0, away: 0 };
const now = () => performance.now() / 1000;

const clients = tokens.map((token) => {
  let attempts = 0;
  let lostAt;
  const own = { isHere: false, messages: [] };
  /** A WebSocket to the next node. */
  class Balanced extends WebSocket {
    constructor(url, protocols) {
      super(url.replace(nodes[0], nodes[attempts++ % nodes.length]), protocols);
    }
  }
  const client = new ChatClient(token, { url: nodes[0], WebSocket: Balanced });
  for (const type of ["resync", "user_joined", "user_left"]) client.on(type, () => totals[type]++);
  client.on("message", ({ data }) => own.messages.push(data.content));
  client.on("state", ({ data }) => {
    if (data.state === "waiting") {
      own.isHere = false;
      lostAt ??= now();
      totals.attempts++;
    }
    if (data.state === "closed") throw new Error(`closed: ${data.code} ${data.reason}`);
  });
  client.on("joined_room", () => {
    if (lostAt) totals.away = Math.max(totals.away, now() - lostAt);
    own.isHere = true;
    lostAt = undefined;
  });
  client.connect();
  return { own, joined: client.joinRoom("channel:1") };
});
await Promise.all(clients.map(({ joined }) => joined));
process.on("SIGUSR2", () => {
  const here = clients.filter(({ own }) => own.isHere).length;
  console.log(JSON.stringify({ ...totals, here, messages: clients.map(({ own }) => own.messages) }));
});
console.log("ready");
