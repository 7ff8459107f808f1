// The Send panel: a command or an event from a form that is generated from its schema, or any text as one frame.

import { call, root } from "./api.js";
import { $, clearProblems, copy, el, page, showProblem, showRefusal, tabs } from "./dom.js";
import { buildForm } from "./forms.js";

/** The types that are selected at first. */
const INITIAL_TYPE = { command: "send_message", event: "message" };
const EXAMPLE = { type: "send_message", id: "mine-1", room: "channel:1", data: { content: "Hello" } };
/** Error codes that concern the room, so that they are shown at its field. */
const ROOM_ERRORS = ["bad_room", "unknown_room_type", "not_joined", "forbidden"];

/** Set up the panel. Return a function that shows a text in its Raw JSON form. */
export function setUpSendPanel(connection, log) {
  const selectForm = tabs($("tab-command").parentElement);
  const editRaw = (text) => {
    selectForm("form-raw");
    $("raw").value = text;
    $("raw").focus();
  };
  setUpCommandForm(connection, editRaw);
  setUpEventForm(connection, log);
  setUpRawForm(connection);
  fillFromAddress(selectForm);
  for (const form of [$("form-command"), $("form-event"), $("form-raw")]) {
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
  }
  return editRaw;
}

// Forms by type

/**
 * Fill the select `kind` ("command" or "event") with `types`, grouped by plugin, and show the form of the selected type.
 *
 * Each type keeps its form, so that the input is still there when the user selects it again. `onSelect(type)` is called after
 * each change. Return a function that returns the selected type and its form.
 */
function setUpTypeSelect(kind, types, onSelect = () => {}) {
  const select = $(kind);
  for (const plugin of new Set(types.map((type) => type.plugin))) {
    const names = types.filter((type) => type.plugin === plugin).map(({ type }) => type);
    const options = names.map((name) => el("option", { value: name, textContent: name }));
    select.append(el("optgroup", { label: plugin }, ...options));
  }
  if (types.some(({ type }) => type === INITIAL_TYPE[kind])) select.value = INITIAL_TYPE[kind];
  const forms = new Map();
  const current = () => {
    const selected = types.find(({ type }) => type === select.value) ?? types[0];
    if (!forms.has(selected.type)) forms.set(selected.type, buildForm(selected.schema));
    return { selected, fields: forms.get(selected.type) };
  };
  const show = () => {
    const { selected, fields } = current();
    $(`${kind}-fields`).replaceChildren(fields.element);
    $(`${kind}-about`).textContent = selected.description || selected.schema.description || "";
    showOutcome($(`form-${kind}`), "");
    clearProblems($(`form-${kind}`));
    onSelect(selected);
  };
  select.addEventListener("change", show);
  show();
  return current;
}

/** Read the fields into {type, data, selected}. Show the problems and return null if a field is not valid JSON. */
function readForm(form, { selected, fields }) {
  clearProblems(form);
  showOutcome(form, "");
  const { data, problems } = fields.read();
  for (const [path, text] of problems) showProblem(form, path, text);
  return problems.length ? null : { type: selected.type, data };
}

function showOutcome(form, text, tone = "") {
  const outcome = form.querySelector(".outcome");
  outcome.textContent = text;
  outcome.className = `outcome ${tone}`;
}

/** Show the answer to a request at the form that sent it. */
function showAnswer(form, { ok, frame }) {
  if (ok) {
    const { message, ...data } = frame.data ?? {};
    showOutcome(form, `✓ ${frame.type} ${message ?? (Object.keys(data).length ? JSON.stringify(data) : "")}`, "good");
    return;
  }
  showOutcome(form, "");
  showRefusal(form, withPath(frame.data ?? {}));
}

const withPath = (refusal) => (ROOM_ERRORS.includes(refusal.code) ? { ...refusal, path: "room" } : refusal);

/** Suggest the room that was joined last, if its type is one of `types`. Do not overwrite what the user entered. */
function suggestRoom(input, connection, types = []) {
  if (input.value && input.value !== input.dataset.offered) return;
  const rooms = [...connection.rooms].filter((room) => !types.length || types.includes(room.split(":")[0]));
  const own = types.includes("user") && connection.user ? `user:${encodeURIComponent(connection.user.user_id)}` : "";
  input.value = input.dataset.offered = rooms.at(-1) ?? own;
}

// Links of the documentation page

/** Open and fill the form that the URL fragment names: #command=…&room=…&data=… or #event=… */
function fillFromAddress(selectForm) {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const kind = ["command", "event"].find((one) => parameters.has(one));
  const select = kind && $(kind);
  if (!select || ![...select.options].some(({ value }) => value === parameters.get(kind))) return;
  selectForm(`form-${kind}`);
  select.value = parameters.get(kind);
  select.dispatchEvent(new Event("change"));
  $(`${kind}-room`).value = parameters.get("room") ?? "";
  fillFields($(`${kind}-fields`), JSON.parse(parameters.get("data") ?? "{}"));
  $(`form-${kind}`).scrollIntoView({ block: "nearest" });
}

function fillFields(fields, data, prefix = "") {
  for (const [name, value] of Object.entries(data)) {
    const control = fields.querySelector(`[data-path="${CSS.escape(prefix + name)}"] :is(input, select, textarea)`);
    if (value !== null && typeof value === "object" && !Array.isArray(value) && control?.tagName !== "TEXTAREA") {
      fillFields(fields, value, `${prefix}${name}.`);
    } else if (control) {
      control.value = typeof value === "string" && control.tagName !== "SELECT" ? value : JSON.stringify(value);
      control.dispatchEvent(new Event("input", { bubbles: true }));
    }
  }
}

// Commands

function setUpCommandForm(connection, editRaw) {
  const form = $("form-command");
  const current = setUpTypeSelect("command", page.commands);
  connection.addEventListener("rooms", () => suggestRoom($("command-room"), connection));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const message = readCommand(form, current());
    if (message === null) return;
    showOutcome(form, "Sent, waiting for the answer…");
    showAnswer(form, await connection.request(message));
  });
  $("command-raw").addEventListener("click", () => {
    const message = readCommand(form, current());
    if (message !== null) editRaw(toJson({ id: "mine-1", ...message }));
  });
}

function readCommand(form, current) {
  const input = readForm(form, current);
  if (input === null) return null;
  const message = { type: input.type };
  if ($("command-room").value.trim()) message.room = $("command-room").value.trim();
  if (Object.keys(input.data).length) message.data = input.data;
  if ($("command-key").value) message.key = $("command-key").value;
  return message;
}

// Events

function setUpEventForm(connection, log) {
  const form = $("form-event");
  const publishable = page.events.filter((event) => event.publishable);
  const current = setUpTypeSelect("event", publishable, ({ rooms }) => {
    $("event-room").placeholder = rooms.length ? rooms.map((type) => `${type}:1`).join(", ") : "channel:1";
    suggestRoom($("event-room"), connection, rooms);
  });
  connection.addEventListener("rooms", () => suggestRoom($("event-room"), connection, current().selected.rooms));
  form.addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    const event = readEvent(form, current());
    if (event !== null) publish(form, event, log);
  });
  $("event-curl").addEventListener("click", () => {
    const event = readEvent(form, current());
    if (event !== null) copy(curlCommand(event, $("event-key").value), $("event-curl"));
  });
}

function readEvent(form, current) {
  const input = readForm(form, current);
  if (input === null) return null;
  const event = { type: input.type, room: $("event-room").value.trim(), data: input.data };
  if ($("event-sender").value) event.sender = $("event-sender").value;
  return event;
}

async function publish(form, event, log) {
  showOutcome(form, "Publishing…");
  const key = $("event-key").value;
  const { ok, status, body } = await call("POST", "api/v1/events", event, key ? { "Idempotency-Key": key } : {});
  showOutcome(form, ok ? (body.id ? `✓ Published as ${body.id}` : "✓ Sent; not stored") : "", "good");
  const result = ok ? body.id ?? "not stored" : body.error ?? "";
  const details = { room: event.room, request: event, status, answer: body };
  log.note("publish", `${event.type} to ${event.room || "nowhere"}: ${status} ${result}`, details, !ok);
  if (!ok) showRefusal(form, body.items ? { fields: problemsByField(body.items) } : withPath(body));
}

/** Return the problems of an API error by the path of their field in the form. */
function problemsByField(items) {
  const fields = {};
  for (const { field, error } of items) (fields[(field ?? "").replace(/^data\.?/, "")] ??= []).push(error);
  return fields;
}

/** Return a shell command that publishes `event`. */
function curlCommand(event, key) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const headers = ["Content-Type: application/json", ...(key ? [`Idempotency-Key: ${key}`] : [])];
  return [
    "curl", quoted(new URL("api/v1/events", root).href), '-H "Authorization: Bearer $API_KEY"',
    ...headers.map((header) => `-H ${quoted(header)}`), "-d", quoted(JSON.stringify(event)),
  ].join(" ");
}

// Raw JSON

function setUpRawForm(connection) {
  const form = $("form-raw");
  $("raw").value = toJson(EXAMPLE);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearProblems(form);
    sendRaw(form, $("raw").value, connection);
  });
  connection.addEventListener("unmatched-error", ({ detail }) => {
    clearProblems(form);
    showOutcome(form, "");
    showProblem(form, "raw", detail.data?.error ?? "The server answered with an error.");
  });
  $("raw-format").addEventListener("click", () => {
    clearProblems(form);
    try {
      $("raw").value = toJson(JSON.parse($("raw").value));
    } catch (error) {
      showProblem(form, "raw", `This is not JSON: ${error.message}.`);
    }
  });
}

async function sendRaw(form, text, connection) {
  const id = requestIdOf(text);
  const answer = id === undefined ? null : connection.answerTo(id); // Before sending, so that no answer is missed.
  if (!connection.sendText(text)) {
    connection.forget(id);
    showProblem(form, "", "Not connected: connect first, under Rooms.");
    return;
  }
  const withoutId = "Sent. It has no id, so no answer can be matched to it; see the log.";
  showOutcome(form, answer ? "Sent, waiting for the answer…" : withoutId);
  if (answer) showAnswer(form, await answer);
}

const toJson = (value) => JSON.stringify(value, null, 2);

function requestIdOf(text) {
  try {
    const { id } = JSON.parse(text);
    return ["string", "number"].includes(typeof id) ? id : undefined;
  } catch {
    return undefined;
  }
}
