// The console's entry point: connects its parts, and shows the state of the connection.

import { call } from "./api.js";
import { setUpSendPanel } from "./compose.js";
import { setUpConnectForm } from "./connect_form.js";
import { ConsoleConnection } from "./connection.js";
import { setUpDeadLetters } from "./dead_letters.js";
import { $, clock, el, number } from "./dom.js";
import { Log } from "./log.js";
import { setUpProblems } from "./problems.js";
import { RoomStates } from "./room_states.js";
import { RoomView } from "./room_view.js";
import { RoomList, setUpJoinForm } from "./rooms.js";

const connection = new ConsoleConnection();
const log = new Log((text) => {
  showView("send");
  editRaw(text);
});
const editRaw = setUpSendPanel(connection, log);
const roomList = new RoomList();
const roomStates = new RoomStates();
const roomView = new RoomView(connection, roomStates);

/** Show one of the three views that narrow windows have. */
function showView(name) {
  $("views").dataset.view = name;
  for (const button of document.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === name));
  }
}

function showStatus() {
  const { phase, user, lastClose } = connection;
  const isOn = phase === "on";
  $("status").dataset.phase = phase;
  $("connect").hidden = isOn;
  $("disconnect").hidden = phase === "off";
  $("disconnect").textContent = phase === "waiting" ? "Stop trying" : "Disconnect";
  const texts = { off: "Not connected", connecting: "Connecting…", waiting: "Connection lost" };
  $("status-who").textContent = isOn ? `Connected as ${user.username}` : texts[phase];
  const more = isOn ? ["user ", el("bdi", { textContent: user.user_id }), ` · since ${clock(connection.connectedAt)}`] : [];
  $("status-more").replaceChildren(...more);
  $("ended").hidden = isOn || phase === "connecting" || !lastClose || lastClose.byUser;
  if (!lastClose) return;
  $("ended-code").textContent = `Closed: ${lastClose.code} ${lastClose.reason}`;
  const words = [lastClose.meaning, describeLastSent(lastClose.lastSent), describeRetry(phase, lastClose)];
  $("ended-words").textContent = words.filter(Boolean).join(" ");
  $("again").textContent = phase === "waiting" ? "Connect now" : "Connect again";
}

function describeLastSent(text) {
  try {
    const { type, room } = JSON.parse(text);
    return `The last request was ${type} ${room}.`;
  } catch {
    return "";
  }
}

function describeRetry(phase, lastClose) {
  if (phase === "waiting") {
    const seconds = Math.max(1, Math.round((connection.retryAt - Date.now()) / 1000));
    return `Trying again in ${number(seconds)} s.`;
  }
  return connection.autoReconnect && !lastClose.reconnect ? "Reconnecting would not help, so it is not attempted." : "";
}

let lastPhase = "off";
connection.addEventListener("state", () => {
  showStatus();
  const { phase, lastClose } = connection;
  if (phase === lastPhase) return;
  if (lastClose && lastPhase !== "off" && (phase === "off" || phase === "waiting")) {
    const { code, reason, meaning } = lastClose;
    log.note("close", `Closed: ${code} ${reason}`, { code, reason, meaning });
  }
  lastPhase = phase;
  if (phase !== "on") roomStates.clear();
  roomList.refreshSoon();
});
connection.addEventListener("frame", ({ detail: { direction, text, message } }) => {
  log.add(direction, text, message);
  if (direction === "in") roomStates.received(message);
  if (message?.type === "user_joined" || message?.type === "user_left") roomList.refreshSoon();
});
connection.addEventListener("note", ({ detail: { type, text, data } }) => log.note(type, text, data));

$("disconnect").addEventListener("click", () => connection.stop());
$("again").addEventListener("click", () => connection.reconnect());
$("dismiss").addEventListener("click", () => ($("ended").hidden = true));
$("reconnect").addEventListener("change", () => {
  connection.autoReconnect = $("reconnect").checked;
  showStatus();
});
$("logout")?.addEventListener("click", async () => {
  await call("POST", "console/logout");
  sessionStorage.clear();
  location.reload();
});
for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => showView(button.dataset.show));
}
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, textarea, select");
  if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  showView("log");
  $("filter-text").focus();
});

setUpJoinForm(connection, roomView);
setUpConnectForm(connection);
setUpProblems();
setUpDeadLetters();
showStatus();
roomList.refresh();
