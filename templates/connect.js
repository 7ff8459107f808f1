// Connecting: with a token, or in `roomcast dev` as a user made up on the spot.

import { call } from "./api.js";
import { $, clearProblems, clock, page, showProblem, showRefusal, tabs } from "./dom.js";

const KEPT = "roomcast-token";

/** Wire up the panel; a token in the address is used at once, and taken out of the address bar. */
export function connecting(wire) {
  const choose = page.dev ? tabs($("connect").querySelector("[role=tablist]")) : () => {};
  const form = $("form-token");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearProblems(form);
    const token = $("token").value.trim();
    if (token) use(wire, token);
    else showProblem(form, "token", "Paste a token first.");
  });
  $("token").addEventListener("input", describe);
  $("token").addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  if (page.dev) makingUp(wire);
  const token = fromAddress();
  const typed = $("token").value; // while this script was on its way
  $("token").value = token || typed || sessionStorage.getItem(KEPT) || "";
  describe();
  if ($("token").value) choose("form-token");
  if (token) use(wire, token);
}

function makingUp(wire) {
  const form = $("form-user");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearProblems(form);
    const id = $("user-id").value.trim();
    const user = {
      username: $("user-name").value.trim(),
      user_id: /^\d{1,15}$/.test(id) ? Number(id) : id,
      rooms: $("user-rooms").value.split(",").map((room) => room.trim()).filter(Boolean),
    };
    const { ok, body } = await call("POST", "/console/token", user);
    if (!ok) {
      showRefusal(form, body);
      return;
    }
    $("token").value = body.token;
    describe();
    use(wire, body.token);
  });
}

function use(wire, token) {
  sessionStorage.setItem(KEPT, token); // for this tab only, so that reloading the page does not lose it
  wire.connect(token);
}

/** Return the token in the fragment, if there is one, and remove it from the address bar and the history. */
function fromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) history.replaceState(null, "", location.pathname + location.search);
  return token?.trim();
}

/** Say under the token whom it is for; only the server can tell whether it is genuine. */
function describe() {
  const claims = decoded($("token").value.trim());
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
  hint.textContent = `It says: ${who}; opens ${rooms}; ${ending(claims.exp)}.`;
}

function ending(exp) {
  if (typeof exp !== "number") return "without an end";
  const words = exp * 1000 > Date.now() ? "ends" : "has ended";
  const date = new Date(exp * 1000);
  const today = date.toDateString() === new Date().toDateString();
  return `${words} at ${today ? clock(date) : date.toLocaleString()}`;
}

function decoded(token) {
  try {
    const bytes = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(bytes, (char) => char.charCodeAt(0))));
    return claims !== null && typeof claims === "object" ? claims : null;
  } catch {
    return null;
  }
}
