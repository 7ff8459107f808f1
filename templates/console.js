// The console: puts its parts together, and says how the connection is.

import { call } from "./api.js";
import { composing } from "./compose.js";
import { connecting } from "./connect.js";
import { $, clock, number } from "./dom.js";
import { Log } from "./log.js";
import { People, joining } from "./rooms.js";
import { Wire } from "./socket.js";

const wire = new Wire();
const log = new Log((text) => {
  view("send");
  edit(text);
});
const edit = composing(wire, log);
const people = new People();

function view(name) {
  $("views").dataset.view = name;
  for (const button of document.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === name));
  }
}

function status() {
  const { phase, user, ended } = wire;
  const on = phase === "on";
  $("status").dataset.phase = phase;
  $("connect").hidden = on;
  $("disconnect").hidden = phase === "off";
  $("disconnect").textContent = phase === "waiting" ? "Stop trying" : "Disconnect";
  const who = { off: "Not connected", connecting: "Connecting…", waiting: "Connection lost" };
  $("status-who").textContent = on ? `Connected as ${user.username}` : who[phase];
  $("status-more").textContent = on ? `user ${user.user_id} · since ${clock(wire.since)}` : "";
  $("ended").hidden = on || phase === "connecting" || !ended || ended.asked;
  if (!ended) return;
  $("ended-code").textContent = `Closed: ${ended.code} ${ended.reason}`;
  $("ended-words").textContent = [ended.meaning, asked(ended.last), plan(phase, ended)].filter(Boolean).join(" ");
  $("again").textContent = phase === "waiting" ? "Connect now" : "Connect again";
}

/** Name the request that a 4403 answered. */
function asked(text) {
  try {
    const { type, room } = JSON.parse(text);
    return `The last request was ${type} ${room}.`;
  } catch {
    return "";
  }
}

function plan(phase, ended) {
  if (phase === "waiting") return `Trying again in ${number(Math.max(1, Math.round((wire.retryAt - Date.now()) / 1000)))} s.`;
  return wire.comeBack && !ended.reconnect ? "Coming back by itself would not help, so it is not tried." : "";
}

let before = "off";
wire.addEventListener("state", () => {
  status();
  const { phase, ended } = wire;
  if (phase === before) return;
  if (ended && before !== "off" && (phase === "off" || phase === "waiting")) {
    log.note("close", `Closed: ${ended.code} ${ended.reason}`, { code: ended.code, reason: ended.reason, meaning: ended.meaning });
  }
  before = phase;
  people.soon();
});
wire.addEventListener("frame", ({ detail: { direction, text, message } }) => {
  log.add(direction, text, message);
  if (message?.type === "user_joined" || message?.type === "user_left") people.soon();
});
wire.addEventListener("note", ({ detail: { type, text, data } }) => log.note(type, text, data));

$("disconnect").addEventListener("click", () => wire.stop());
$("again").addEventListener("click", () => wire.again());
$("dismiss").addEventListener("click", () => ($("ended").hidden = true));
$("reconnect").addEventListener("change", () => {
  wire.comeBack = $("reconnect").checked;
  status();
});
$("logout")?.addEventListener("click", async () => {
  await call("POST", "/console/logout");
  sessionStorage.clear();
  location.reload();
});
for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => view(button.dataset.show));
}
document.addEventListener("keydown", (event) => {
  const writing = event.target.matches("input, textarea, select");
  if (event.key !== "/" || writing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  view("log");
  $("filter-text").focus();
});

joining(wire);
connecting(wire);
status();
people.refresh();
