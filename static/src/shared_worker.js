/** One connection for all tabs of a user: the code that runs in the SharedWorker. */

import { continuousTime } from "./clock.js";
import { Connection } from "./connection.js";
import { TAB_TIMEOUT } from "./constants.js";
import { localFrame, randomId } from "./frames.js";
import { holdLock, WORKER_NAME, whenReleased } from "./shared_protocol.js";

/** One tab: its port, and the rooms that it joined or asked to join. */
class Tab {
  joined = new Set();
  /** Joined rooms, and rooms with a join request in flight. */
  wanted = new Set();
  canRenewToken = false;
  /** Requests without an outcome, by number. */
  requests = new Map();
  #port;
  /** Callbacks of the token requests without an answer, by number. */
  #tokenRequests = new Map();

  constructor(port) {
    this.#port = port;
  }

  post(message) {
    this.#port.postMessage(message);
  }

  close() {
    this.#port.close();
    for (const answer of this.#tokenRequests.values()) answer({ error: "the tab was closed" });
  }

  forget(room) {
    this.joined.delete(room);
    this.wanted.delete(room);
  }

  /** Ask the tab for a token; resolves to {token} or {error}. Only a tab that does not react at all times out. */
  requestToken(about) {
    const n = randomId();
    return new Promise((resolve) => {
      const timer = setTimeout(() => answer({ error: "the tab did not answer" }), TAB_TIMEOUT);
      const answer = (outcome) => {
        clearTimeout(timer);
        if (outcome.isBusy) return;
        this.#tokenRequests.delete(n);
        resolve(outcome);
      };
      this.#tokenRequests.set(n, answer);
      this.post({ do: "token", n, about });
    });
  }

  answered(answer) {
    this.#tokenRequests.get(answer.n)?.(answer);
  }
}

/** The tabs of one user and the connection that they share. Each tab receives only the events of its own rooms. */
class TabGroup {
  /** The tab that was used last comes last. */
  #tabs = new Set();
  #connection;
  #state;
  #onEmpty;

  /** `first` has the token of the first tab, and the position of its own notifications. */
  constructor({ options, ...first }, onEmpty) {
    const group = this;
    this.#onEmpty = onEmpty;
    const delegate = {
      get canRenewToken() {
        return [...group.#tabs].some((tab) => tab.canRenewToken);
      },
      getToken: (about) => this.#getToken(about),
      onMessage: (message) => this.#forward(message),
      onState: (state) => this.#stateChanged(state),
    };
    this.#connection = new Connection({ ...options, WebSocket }, delegate, first);
  }

  add(tab, workerLock) {
    this.#connection.connect();
    this.#tabs.add(tab);
    tab.post({ do: "attached", state: this.#state, welcome: this.#connection.welcome, lock: workerLock });
  }

  remove(tab) {
    if (!this.#tabs.delete(tab)) return;
    tab.close();
    if (!this.#tabs.size) {
      this.#onEmpty();
      this.#connection.close();
      return;
    }
    for (const n of tab.requests.keys()) this.#cancel(tab, n);
    for (const room of tab.wanted) {
      if (!this.#isWanted(room)) this.#connection.request(leaveRequest(room));
    }
  }

  /** Handle a message of an attached tab. */
  handle(tab, message) {
    if (message.do === "request") this.#request(tab, message);
    else if (message.do === "cancel") this.#cancel(tab, message.n);
    else if (message.do === "token") tab.answered(message);
    else if (message.do === "detach") this.remove(tab);
    else if (message.do === "probe") this.#connection.probe();
    else if (message.do === "connect" || message.do === "wake") {
      // The user looks at this tab, so it is the first one to ask for a token.
      this.#tabs.delete(tab);
      this.#tabs.add(tab);
      this.#connection[message.do]();
    }
  }

  #request(tab, { n, request, age }) {
    const { type, room } = request;
    const done = (error, frame) => {
      tab.requests.delete(n);
      if (type === "join_room" && !error) tab.joined.add(room);
      if (type === "join_room" && error && !tab.joined.has(room)) tab.wanted.delete(room);
      tab.post({ do: "outcome", n, error, frame });
      if (type === "mark_read" && !error) this.#forward(frame);
    };
    if (type === "join_room") tab.wanted.add(room);
    if (type === "leave_room") {
      tab.forget(room);
      if (this.#isWanted(room)) {
        done(null, localFrame("left_room", room, { message: `Left room ${room}` }));
        return;
      }
    }
    const sentAt = age === undefined ? undefined : continuousTime() - age;
    const own = { ...request, sentAt, done };
    tab.requests.set(n, own);
    this.#connection.request(own);
  }

  #cancel(tab, n) {
    const request = tab.requests.get(n);
    tab.requests.delete(n);
    if (request) this.#connection.cancel(request);
  }

  /** Return true if any tab is in `room` or joins it. */
  #isWanted(room) {
    return [...this.#tabs].some((tab) => tab.wanted.has(room));
  }

  #forward(message) {
    const { type, room } = message;
    for (const tab of this.#tabs) {
      if (room && !tab.joined.has(room)) continue;
      tab.post({ do: "message", message });
      if (type === "left_room") tab.forget(room);
    }
  }

  #stateChanged(state) {
    this.#state = state;
    for (const tab of this.#tabs) tab.post({ do: "state", state });
  }

  /** Ask the tabs for a token, the one used last first. */
  async #getToken(about) {
    let problem = "no tab answered";
    for (const tab of [...this.#tabs].reverse()) {
      const { token, error } = await tab.requestToken(about);
      if (error === undefined) return token;
      problem = error;
    }
    throw new Error(problem);
  }
}

const leaveRequest = (room) => ({ type: "leave_room", room, body: JSON.stringify({ type: "leave_room", room }), done() {} });

/** Serve the tabs that connect to this SharedWorker: one TabGroup for each server and user. */
export function serveTabs(scope) {
  const groups = new Map();
  const workerLock = holdLock();
  scope.onconnect = ({ ports: [port] }) => {
    const tab = new Tab(port);
    let group;
    port.onmessage = async ({ data: message }) => {
      if (message.do !== "attach") {
        group?.handle(tab, message);
        return;
      }
      const { key } = message;
      const { name } = await workerLock;
      tab.canRenewToken = message.canRenewToken;
      group = groups.get(key);
      if (!group) {
        group = new TabGroup(message, () => groups.delete(key));
        groups.set(key, group);
      }
      group.add(tab, name);
      whenReleased(message.lock, () => group.remove(tab));
    };
  };
}

/** Return true in a SharedWorker that SharedConnection started. */
export const isWorker = () => Boolean(globalThis.SharedWorkerGlobalScope) && globalThis.name === WORKER_NAME;
