/**
 * What a tab and the SharedWorker agree on: the worker's name, the messages over the port, and the locks.
 *
 * From the tab: {do: "attach", key, options, token, ownPosition, canRenewToken, lock}, then any of {do: "connect"},
 * {do: "wake"}, {do: "probe"}, {do: "request", n, request, age}, {do: "cancel", n}, {do: "token", n,
 * token | error | isBusy} and {do: "detach"}. `age` is the time since the request was sent through a crashed worker, in
 * milliseconds.
 * From the worker: {do: "attached", state, welcome, lock}, then any of {do: "state", state}, {do: "message", message},
 * {do: "outcome", n, error, frame} and {do: "token", n, about}.
 */

import { randomId } from "./frames.js";

/** The worker's name. Increase the number when the messages change: tabs with another version get a worker of their own. */
export const WORKER_NAME = "roomcast 3";

/**
 * Acquire a lock with a unique name, which the browser releases when this tab or worker ends, even after a crash.
 *
 * Resolves to {name, release}. Without the Web Locks API (http: pages other than localhost) `name` is undefined; then only
 * the `detach` message shows that a tab is closed.
 */
export function holdLock() {
  const name = `${WORKER_NAME} ${randomId()}`;
  return new Promise((resolve) => {
    const holder = () => new Promise((release) => resolve({ name, release }));
    const request = globalThis.navigator?.locks?.request(name, holder) ?? Promise.reject();
    request.catch(() => resolve({ name: undefined, release() {} }));
  });
}

/** Call `callback` when the lock `name` is released. Return a function that cancels the wait. */
export function whenReleased(name, callback) {
  const controller = new AbortController();
  if (name) globalThis.navigator?.locks?.request(name, { signal: controller.signal }, callback).catch(() => {});
  return () => controller.abort();
}
