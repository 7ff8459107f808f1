/** Options of ChatClient: their defaults, and the checks that complete the options a page passes. */

const CONNECT_PATH = "api/v1/ws/connect";

/**
 * The address of this script and of its server, if the script was loaded from a roomcast server. Undefined if it is part of
 * an application's bundle.
 *
 * They come from a stack trace, because bundlers process `import.meta.url`: webpack replaces it with a path of the build
 * machine, and Vite, webpack and Turbopack publish files that match `new URL(…, import.meta.url)`. In a script that is not
 * a module it is a syntax error.
 */
const [, SCRIPT, SERVER] = /((https?:\/\/\S+?\/)static\/roomcast\.js(?:\?\S*?)?):\d+:\d+/.exec(new Error().stack) ?? [];

/** Every option with its default. Times are in milliseconds. `roomcast.d.ts` documents each option. */
export const DEFAULTS = Object.freeze({
  url: SERVER && SERVER + CONNECT_PATH,
  reconnect: Object.freeze({ base: 500, max: 30_000 }),
  queue: 1000,
  inFlight: 16,
  rate: Infinity,
  maxSize: Infinity,
  heartbeat: 25_000,
  timeout: 10_000,
  refresh: 60_000,
  shared: false,
  worker: SCRIPT,
  WebSocket: globalThis.WebSocket,
  trace: null,
});

/** The smallest allowed value of each numeric option. */
const MINIMUMS = {
  ...{ queue: 1, inFlight: 1, rate: 0, maxSize: 1, heartbeat: 0, timeout: 1, refresh: 0 },
  ...{ base: 0, max: 0 },
};

/** Return `given` completed with the defaults. Throw a TypeError that names the first invalid option. */
export function completeOptions(given) {
  const unknown = Object.keys(given).find((name) => !(name in DEFAULTS));
  if (unknown) throw new TypeError(`ChatClient has no option ${unknown}; there are: ${Object.keys(DEFAULTS).join(", ")}.`);
  const options = withDefaults(DEFAULTS, given);
  if (options.reconnect) options.reconnect = withDefaults(DEFAULTS.reconnect, options.reconnect);
  const values = { ...options, ...options.reconnect };
  for (const [name, minimum] of Object.entries(MINIMUMS)) {
    if (!(values[name] >= minimum) && name in values) {
      throw new TypeError(`The option ${name} must be a number from ${minimum} on, not ${values[name]}.`);
    }
  }
  if (options.WebSocket !== undefined) checkWebSocket(options.WebSocket);
  options.url = toWebSocketUrl(options.url);
  return options;
}

/** Return `given` with the defaults of the options that it lacks. An option that is undefined counts as missing. */
function withDefaults(defaults, given) {
  const isGiven = ([, value]) => value !== undefined;
  return { ...defaults, ...Object.fromEntries(Object.entries(given).filter(isGiven)) };
}

/** Return the WebSocket address for `url`, which may use http, be relative to the page, or lack a path. */
function toWebSocketUrl(url) {
  if (!url) {
    throw new TypeError(
      'ChatClient needs the option url: new ChatClient(token, { url: "https://chat.example.com" }), unless the page loads ' +
        "roomcast.js from the server.",
    );
  }
  const page = globalThis.location?.href;
  if (!page && isRelative(url)) return url; // A server renders the page; see checkPlatform().
  let parsed;
  try {
    parsed = new URL(url, page);
  } catch {
    // Reported below.
  }
  if (!/^(ws|http)s?:$/.test(parsed?.protocol)) throw invalidUrl(url);
  parsed.protocol = parsed.protocol.replace("http", "ws");
  if (parsed.pathname === "/") parsed.pathname = `/${CONNECT_PATH}`;
  return parsed.href;
}

const isRelative = (url) => !/^\w+:/.test(url);

const invalidUrl = (url) => new TypeError(`The option url must begin with ws, wss, http or https: ${url}`);

/**
 * Throw a TypeError if a client cannot connect here.
 *
 * The constructor does not check this: a server that renders a page creates the client, but only the browser connects it.
 */
export function checkPlatform({ url, WebSocket }) {
  if (isRelative(url)) throw invalidUrl(url);
  checkWebSocket(WebSocket);
}

function checkWebSocket(value) {
  if (typeof value === "function") return;
  throw new TypeError("There is no WebSocket here: use Node 22 or later, or the option WebSocket.");
}
