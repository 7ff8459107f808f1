/**
 * Options of ChatClient: their defaults, and the checks that complete the options a page passes.
 *
 * `import.meta.url` is the address of the bundle, `static/roomcast.js`. The default server and the default worker script
 * are derived from it, so these files work only when they are bundled.
 */

const CONNECT_PATH = "api/v1/ws/connect";

/** Every option with its default. Times are in milliseconds. `roomcast.d.ts` documents each option. */
export const DEFAULTS = Object.freeze({
  url: import.meta.url?.startsWith("http")
    ? new URL(`../${CONNECT_PATH}`, import.meta.url).href
    : `ws://localhost:8000/${CONNECT_PATH}`,
  reconnect: Object.freeze({ base: 500, max: 30_000, drain: 10_000 }),
  queue: 1000,
  inFlight: 16,
  rate: 80,
  maxSize: 65_536,
  heartbeat: 25_000,
  timeout: 10_000,
  refresh: 60_000,
  shared: false,
  worker: import.meta.url,
  WebSocket: globalThis.WebSocket,
  trace: null,
});

/** The smallest allowed value of each numeric option. */
const MINIMUMS = {
  ...{ queue: 1, inFlight: 1, rate: 0, maxSize: 1, heartbeat: 0, timeout: 1, refresh: 0 },
  ...{ base: 0, max: 0, drain: 0 },
};

/** Return `given` completed with the defaults. Throw a TypeError that names the first invalid option. */
export function completeOptions(given) {
  const unknown = Object.keys(given).find((name) => !(name in DEFAULTS));
  if (unknown) throw new TypeError(`ChatClient has no option ${unknown}; there are: ${Object.keys(DEFAULTS).join(", ")}.`);
  const options = { ...DEFAULTS, ...given };
  if (options.reconnect) options.reconnect = { ...DEFAULTS.reconnect, ...options.reconnect };
  const values = { ...options, ...options.reconnect };
  for (const [name, minimum] of Object.entries(MINIMUMS)) {
    const value = values[name];
    if (value !== undefined && !(value >= minimum)) {
      throw new TypeError(`The option ${name} must be a number from ${minimum} on, not ${value}.`);
    }
  }
  if (typeof options.WebSocket !== "function") {
    throw new TypeError("There is no WebSocket here: use Node 22 or later, or give a class like it as the option WebSocket.");
  }
  options.url = toWebSocketUrl(options.url);
  return options;
}

/** Return the WebSocket address for `url`, which may use http, be relative to the page, or lack a path. */
function toWebSocketUrl(url) {
  const parsed = new URL(url, globalThis.location?.href);
  parsed.protocol = parsed.protocol.replace("http", "ws");
  if (!/^wss?:$/.test(parsed.protocol)) throw new TypeError(`The option url must begin with ws, wss, http or https: ${url}`);
  if (parsed.pathname === "/") parsed.pathname = `/${CONNECT_PATH}`;
  return parsed.href;
}
