/** One connection for all tabs of a user: the code that runs in each tab. */

import { continuousTime } from "./clock.js";
import { TAB_TIMEOUT } from "./constants.js";
import { CLOSED, closedError } from "./errors.js";
import { holdLock, WORKER_NAME, whenReleased } from "./shared_protocol.js";

/** Throw an error if a SharedWorker with the script `url` cannot run on this page. */
export function checkWorker(url) {
  if (!globalThis.SharedWorker) throw new Error("there is no SharedWorker here.");
  // A bundle is no worker script: it would run the application in the worker.
  if (!url) throw wrongWorker(url);
}

const wrongWorker = (url) =>
  new Error(`the option worker must be the address of a copy of roomcast.js at ${location.origin}, not ${url}.`);

/** Has the methods of Connection, except sendText(), and forwards the calls to the SharedWorker. */
export class SharedConnection {
  #port;
  #delegate;
  #releaseLock;
  #unwatchWorker = () => {};
  #isOpen = false;
  #count = 0;
  /** Requests without an outcome, by number. */
  #requests = new Map();

  /**
   * Resolve to a connection through the worker. Reject if the worker cannot run on this page.
   *
   * `group` is {key, token, ownPosition}: tabs with the same key share a connection; the others are for the first attempt.
   */
  static async attach(options, delegate, group) {
    const { WebSocket, trace, ...plainOptions } = options; // Functions cannot be posted.
    const { name: lock, release } = await holdLock();
    let worker;
    try {
      worker = new SharedWorker(options.worker, { type: "module", name: WORKER_NAME });
    } catch {
      release();
      throw wrongWorker(options.worker); // Its origin is another one.
    }
    const connection = new SharedConnection(worker.port, delegate, release);
    const { canRenewToken } = delegate;
    const attached = connection.#attached(worker, options.worker);
    worker.port.postMessage({ do: "attach", options: { ...plainOptions, worker: "" }, canRenewToken, lock, ...group });
    await attached;
    return connection;
  }

  constructor(port, delegate, releaseLock) {
    this.#port = port;
    this.#delegate = delegate;
    this.#releaseLock = releaseLock;
  }

  /** Resolve when the worker has answered `attach`. Reject if its script fails or does not answer in time. */
  #attached(worker, url) {
    return new Promise((resolve, reject) => {
      const fail = () => {
        this.#detach();
        reject(wrongWorker(url));
      };
      const timer = setTimeout(fail, TAB_TIMEOUT);
      worker.onerror = fail;
      this.#port.onmessage = ({ data: { state, welcome, lock } }) => {
        clearTimeout(timer);
        worker.onerror = null;
        this.#port.onmessage = ({ data }) => this.#handle(data);
        this.#unwatchWorker = whenReleased(lock, () => this.#workerLost());
        resolve();
        this.#stateChanged(state);
        if (welcome) this.#delegate.onMessage(welcome);
      };
    });
  }

  connect() {
    this.#post("connect");
  }

  wake() {
    this.#post("wake");
  }

  probe() {
    this.#post("probe");
  }

  #post(action, message) {
    this.#port.postMessage({ do: action, ...message });
  }

  request(request) {
    const n = ++this.#count;
    this.#requests.set(n, request);
    const { done, sentAt, ...rest } = request;
    this.#post("request", { n, request: rest, age: sentAt && continuousTime() - sentAt });
    if (this.#isOpen) request.sentAt ??= continuousTime();
  }

  /** Note that the worker may have sent all requests if its connection is open. */
  #stateChanged(state) {
    this.#isOpen = state.state === "open";
    if (this.#isOpen) for (const request of this.#requests.values()) request.sentAt ??= continuousTime();
    this.#delegate.onState(state);
  }

  cancel(request) {
    for (const [n, one] of this.#requests) {
      if (one !== request) continue;
      this.#requests.delete(n);
      this.#post("cancel", { n });
    }
  }

  close() {
    this.#detach();
    this.#delegate.onState(CLOSED);
    for (const { done } of this.#requests.values()) done(closedError(CLOSED));
    this.#requests.clear();
  }

  /** The worker crashed. The delegate sends the requests without an outcome again through another worker. */
  #workerLost() {
    this.#detach();
    this.#delegate.onWorkerLost([...this.#requests.values()]);
  }

  #detach() {
    this.#post("detach");
    this.#port.onmessage = null;
    this.#port.close();
    this.#unwatchWorker();
    this.#releaseLock();
  }

  #handle(message) {
    if (message.do === "message") this.#delegate.onMessage(message.message);
    else if (message.do === "state") this.#stateChanged(message.state);
    else if (message.do === "token") this.#answerTokenRequest(message);
    else if (message.do === "outcome") {
      const request = this.#requests.get(message.n);
      this.#requests.delete(message.n);
      if (request) request.done(message.error, message.frame);
      else if (message.frame) this.#delegate.onMessage(message.frame); // The answer to a cancelled request.
    }
  }

  async #answerTokenRequest({ n, about }) {
    // Show that this tab is awake: the worker then waits until the token arrives.
    this.#post("token", { n, isBusy: true });
    let answer;
    try {
      answer = { token: await this.#delegate.getToken(about) };
    } catch (error) {
      answer = { error: String(error?.message ?? error) };
    }
    this.#post("token", { n, ...answer });
  }
}
