/** The functions that a page passes to the client, and how they are called. */

/** Call a function of the page. An error in it is reported, and does not affect the client. */
export function callHandler(handler, ...args) {
  try {
    handler(...args);
  } catch (error) {
    if (globalThis.document) reportError(error);
    else console.error(error);
  }
}

/** The handlers that a page registers with on(). */
export class EventHandlers {
  #handlers = new Map();

  /** Add a handler. Return a function that removes it. */
  add(type, handler) {
    if (typeof handler !== "function") throw new TypeError(`on(${JSON.stringify(type)}, ...) needs a function to call.`);
    if (!this.#handlers.has(type)) this.#handlers.set(type, new Set());
    this.#handlers.get(type).add(handler);
    return () => this.remove(type, handler);
  }

  remove(type, handler) {
    this.#handlers.get(type)?.delete(handler);
  }

  has(type) {
    return Boolean(this.#handlers.get(type)?.size);
  }

  clear() {
    this.#handlers.clear();
  }

  /** Call the handlers of the frame's type and of "*". */
  emit(frame) {
    this.call(frame.type, frame);
    this.call("*", frame);
  }

  /** Call the handlers of `type` with `frame`. */
  call(type, frame) {
    for (const handler of [...(this.#handlers.get(type) ?? [])]) callHandler(handler, frame);
  }
}
