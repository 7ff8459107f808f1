// Calls of the HTTP API. They are authorized by the console's session cookie together with the console's header.

import { page } from "./dom.js";

/** The URL of the server's root. A proxy may serve it below a path. */
export const root = new URL("../../", import.meta.url);

/** Call the API at `path`, relative to the server's root, with a JSON `body`. Resolves to {ok, status, body}; never rejects. */
export async function call(method, path, body, headers = {}) {
  const options = { method, headers: { ...headers, [page.header]: "1" }, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(new URL(path, root), options);
  } catch {
    return failed(0, "The server does not answer. Is roomcast running?");
  }
  if (response.status === 401 && !page.dev) return failed(401, "The login has expired. Reload the page to log in again.");
  const text = await response.text();
  try {
    const answer = text ? JSON.parse(text) : {};
    if (!response.ok && answer.detail) answer.error += ` ${answer.detail}`;
    return { ok: response.ok, status: response.status, body: answer };
  } catch {
    return failed(response.status, text.trim() || `The server answered ${response.status}.`);
  }
}

const failed = (status, error) => ({ ok: false, status, body: { error } });
