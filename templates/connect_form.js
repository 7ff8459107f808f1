// The Connect panel: with a token, or in `roomcast dev` as a made-up user.

import { call } from "./api.js";
import { $, clearProblems, clock, page, showProblem, showRefusal, tabs } from "./dom.js";

const STORAGE_KEY = "roomcast-token";

/** Set up the panel. A token in the address is used at once. */
export function setUpConnectForm(connection) {
  const selectForm = page.dev ? tabs($("connect").querySelector("[role=tablist]")) : () => {};
  setUpTokenForm(connection);
  if (page.dev) setUpUserForm(connection);
  const token = takeTokenFromAddress();
  const typed = $("token").value; // The user may type before this script runs.
  $("token").value = token || typed || sessionStorage.getItem(STORAGE_KEY) || "";
  describeToken();
  if ($("token").value) selectForm("form-token");
  if (token) connect(connection, token);
}

function setUpTokenForm(connection) {
  const form = $("form-token");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearProblems(form);
    const token = $("token").value.trim();
    if (token) connect(connection, token);
    else showProblem(form, "token", "Paste a token first.");
  });
  $("token").addEventListener("input", describeToken);
  $("token").addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      form.requestSubmit();
    }
  });
}

function setUpUserForm(connection) {
  const form = $("form-user");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearProblems(form);
    const user = {
      username: $("user-name").value.trim(),
      user_id: $("user-id").value.trim(),
      rooms: $("user-rooms").value.split(",").map((room) => room.trim()).filter(Boolean),
    };
    const { ok, body } = await call("POST", "console/token", user);
    if (!ok) {
      showRefusal(form, body);
      return;
    }
    $("token").value = body.token;
    describeToken();
    connect(connection, body.token);
  });
}

function connect(connection, token) {
  sessionStorage.setItem(STORAGE_KEY, token); // Survives a reload of this tab.
  connection.connect(token);
}

/** Return the token in the URL fragment, if any, and remove it from the address bar and the browser history. */
function takeTokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) history.replaceState(null, "", location.pathname + location.search);
  return token?.trim();
}

/** Show the claims of the token below its field. Only the server can verify them. */
function describeToken() {
  const claims = claimsOf($("token").value.trim());
  const hint = $("token-hint");
  hint.dataset.words ??= hint.textContent;
  if (!claims) {
    hint.textContent = hint.dataset.words;
    return;
  }
  const id = claims.user_id ?? claims.sub ?? "nobody";
  const name = claims.username ?? claims.preferred_username ?? claims.name;
  const who = name === undefined ? `user ${id}` : `${name} (user ${id})`;
  const rooms = Array.isArray(claims.rooms) && claims.rooms.length ? claims.rooms.join(", ") : "no room";
  hint.textContent = `A token for ${who}; opens ${rooms}; ${describeExpiry(claims.exp)}.`;
}

function describeExpiry(exp) {
  if (typeof exp !== "number") return "never expires";
  const verb = exp * 1000 > Date.now() ? "expires" : "expired";
  const date = new Date(exp * 1000);
  const isToday = date.toDateString() === new Date().toDateString();
  return `${verb} at ${isToday ? clock(date) : date.toLocaleString()}`;
}

/** Return the claims of a JWT without verifying it. Return null if `token` is not a JWT. */
function claimsOf(token) {
  try {
    const bytes = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(bytes, (char) => char.charCodeAt(0))));
    return claims !== null && typeof claims === "object" ? claims : null;
  } catch {
    return null;
  }
}
