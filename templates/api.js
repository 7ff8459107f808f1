// Calls of the HTTP API, as the console makes them: with its header, and the session's cookie where there is one.

import { page } from "./dom.js";

/** Call `method path` with a JSON `body`; resolve to {ok, status, body}, and never reject. */
export async function call(method, path, body, headers = {}) {
  const options = { method, headers: { ...headers, [page.header]: "1" }, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    return failed(0, "The server does not answer. Is roomcast running?");
  }
  if (answer.status === 401 && !page.dev) return failed(401, "The login has ended; load the page anew to log in.");
  const text = await answer.text();
  try {
    return { ok: answer.ok, status: answer.status, body: text ? JSON.parse(text) : {} };
  } catch {
    return failed(answer.status, text.trim() || `The server answered ${answer.status}.`);
  }
}

const failed = (status, error) => ({ ok: false, status, body: { error } });
