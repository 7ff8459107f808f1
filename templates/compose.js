// Sending: a command or an event through a form made from its schema, or any text as a frame.

import { call } from "./api.js";
import { $, clearProblems, copy, el, page, showProblem, showRefusal, tabs } from "./dom.js";
import { build } from "./forms.js";

const FIRST = { command: "send_message", event: "message" };
const EXAMPLE = '{\n  "type": "send_message",\n  "id": "mine-1",\n  "room": "channel:1",\n  "data": {\n    "content": "Hello"\n  }\n}';

/** Wire up the panel; returns how to put a text into its Raw JSON. */
export function composing(wire, log) {
  const choose = tabs($("tab-command").parentElement);
  const edit = (text) => {
    choose("form-raw");
    $("raw").value = text;
    $("raw").focus();
  };
  commands(wire, edit);
  events(wire, log);
  raw(wire);
  prefill(choose);
  for (const form of [$("form-command"), $("form-event"), $("form-raw")]) {
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
  }
  return edit;
}

/** Fill the select `kind` by plugin, and keep a form for each type, so that changing to and fro loses nothing. */
function chooser(kind, types, shown) {
  const select = $(kind);
  for (const plugin of new Set(types.map((each) => each.plugin))) {
    const options = types.filter((each) => each.plugin === plugin);
    select.append(el("optgroup", { label: plugin },
      ...options.map(({ type }) => el("option", { value: type, textContent: type }))));
  }
  if (types.some((each) => each.type === FIRST[kind])) select.value = FIRST[kind];
  const forms = new Map();
  const current = () => {
    const chosen = types.find((each) => each.type === select.value) ?? types[0];
    if (!forms.has(chosen.type)) forms.set(chosen.type, build(chosen.schema));
    return { chosen, form: forms.get(chosen.type) };
  };
  const show = () => {
    const { chosen, form } = current();
    $(`${kind}-fields`).replaceChildren(form.element);
    $(`${kind}-about`).textContent = chosen.description || chosen.schema.description || "";
    say($(`form-${kind}`), "");
    clearProblems($(`form-${kind}`));
    shown(chosen);
  };
  select.addEventListener("change", show);
  show();
  return current;
}

/** Open the form that a link of the documentation names in the address, filled with what it gives. */
function prefill(choose) {
  const asked = new URLSearchParams(location.hash.slice(1));
  const kind = ["command", "event"].find((one) => asked.has(one));
  const select = kind && $(kind);
  if (!select || ![...select.options].some(({ value }) => value === asked.get(kind))) return;
  choose(`form-${kind}`);
  select.value = asked.get(kind);
  select.dispatchEvent(new Event("change"));
  $(`${kind}-room`).value = asked.get("room") ?? "";
  fill($(`${kind}-fields`), JSON.parse(asked.get("data") ?? "{}"));
  $(`form-${kind}`).scrollIntoView({ block: "nearest" });
}

/** Put `data` into the fields, by their paths. */
function fill(fields, data, prefix = "") {
  for (const [name, value] of Object.entries(data)) {
    const control = fields.querySelector(`[data-path="${CSS.escape(prefix + name)}"] :is(input, select, textarea)`);
    if (value !== null && typeof value === "object" && !Array.isArray(value) && control?.tagName !== "TEXTAREA") {
      fill(fields, value, `${prefix}${name}.`);
    } else if (control) {
      control.value = typeof value === "string" && control.tagName !== "SELECT" ? value : JSON.stringify(value);
      control.dispatchEvent(new Event("input", { bubbles: true }));
    }
  }
}

/** Read the fields; null, with the problems shown, when one cannot be put into JSON. */
function read(form, fields) {
  clearProblems(form);
  say(form, "");
  const { data, problems } = fields.read();
  for (const [path, text] of problems) showProblem(form, path, text);
  return problems.length ? null : data;
}

function say(form, text, tone = "") {
  const outcome = form.querySelector(".outcome");
  outcome.textContent = text;
  outcome.className = `outcome ${tone}`;
}

/** Put the room that was joined last into `input`, of one of `types` if there are any, unless somebody wrote there. */
function offerRoom(input, wire, types = []) {
  if (input.value && input.value !== input.dataset.offered) return;
  const fits = [...wire.rooms.keys()].filter((room) => !types.length || types.includes(room.split(":")[0]));
  const own = types.includes("user") && wire.user ? `user:${wire.user.user_id}` : "";
  input.value = input.dataset.offered = fits.at(-1) ?? own;
}

function commands(wire, edit) {
  const form = $("form-command");
  const current = chooser("command", page.commands, () => {});
  wire.addEventListener("rooms", () => offerRoom($("command-room"), wire));
  const compose = () => {
    const { chosen, form: fields } = current();
    const data = read(form, fields);
    if (data === null) return null;
    const message = { type: chosen.type };
    if ($("command-room").value.trim()) message.room = $("command-room").value.trim();
    if (Object.keys(data).length) message.data = data;
    if ($("command-key").value) message.key = $("command-key").value;
    return message;
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const message = compose();
    if (message === null) return;
    say(form, "Sent, waiting for the answer…");
    report(form, await wire.request(message));
  });
  $("command-raw").addEventListener("click", () => {
    const message = compose();
    if (message !== null) edit(JSON.stringify({ id: "mine-1", ...message }, null, 2));
  });
}

/** Show the answer to a request where it was made. */
function report(form, { ok, frame }) {
  if (ok) {
    const { message, ...data } = frame.data ?? {};
    say(form, `✓ ${frame.type} ${message ?? (Object.keys(data).length ? JSON.stringify(data) : "")}`, "good");
    return;
  }
  say(form, "");
  showRefusal(form, located(frame.data ?? {}));
}

/** An error about the room belongs beside the room. */
function located(refusal) {
  const room = ["bad_room", "unknown_room_type", "not_joined", "forbidden"].includes(refusal.code);
  return room ? { ...refusal, path: "room" } : refusal;
}

/** The problems of the HTTP API's answer, by the path of their field in the form. */
function byField(items) {
  const fields = {};
  for (const { field, error } of items) (fields[(field ?? "").replace(/^data\.?/, "")] ??= []).push(error);
  return fields;
}

function events(wire, log) {
  const form = $("form-event");
  const all = page.events.filter((event) => event.publishable);
  const current = chooser("event", all, ({ rooms }) => {
    $("event-room").placeholder = rooms.length ? rooms.map((type) => `${type}:1`).join(", ") : "channel:1";
    offerRoom($("event-room"), wire, rooms);
  });
  wire.addEventListener("rooms", () => offerRoom($("event-room"), wire, current().chosen.rooms));
  const compose = () => {
    const { chosen, form: fields } = current();
    const data = read(form, fields);
    if (data === null) return null;
    const event = { type: chosen.type, room: $("event-room").value.trim(), data };
    if ($("event-sender").value) event.sender = $("event-sender").value;
    return event;
  };
  form.addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    const event = compose();
    if (event === null) return;
    say(form, "Publishing…");
    const key = $("event-key").value;
    const { ok, status, body } = await call("POST", "/api/v1/events", event, key ? { "Idempotency-Key": key } : {});
    say(form, ok ? `✓ Published as ${body.id}` : "", "good");
    log.note("publish", `${event.type} to ${event.room || "nowhere"}: ${status} ${ok ? body.id : body.error ?? ""}`,
      { room: event.room, request: event, status, answer: body }, !ok);
    if (!ok) showRefusal(form, body.items ? { fields: byField(body.items) } : located(body));
  });
  $("event-curl").addEventListener("click", () => {
    const event = compose();
    if (event !== null) copy(curl(event, $("event-key").value), $("event-curl"));
  });
}

/** The same request as a line for a shell. */
function curl(event, key) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const headers = ["Content-Type: application/json", ...(key ? [`Idempotency-Key: ${key}`] : [])];
  return [
    "curl", quoted(new URL("/api/v1/events", location.href).href), '-H "Authorization: Bearer $API_KEY"',
    ...headers.map((header) => `-H ${quoted(header)}`), "-d", quoted(JSON.stringify(event)),
  ].join(" ");
}

function raw(wire) {
  const form = $("form-raw");
  $("raw").value = EXAMPLE;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearProblems(form);
    const text = $("raw").value;
    const id = idOf(text);
    const answer = id === undefined ? null : wire.answer(id);
    if (!wire.send(text)) {
      wire.forget(id);
      showProblem(form, "", "Not connected: connect first, under Rooms.");
      return;
    }
    say(form, id === undefined ? "Sent. It has no id, so no answer can be matched to it; see the log." : "Sent, waiting for the answer…");
    if (answer) report(form, await answer);
  });
  wire.addEventListener("stray", ({ detail }) => {
    clearProblems(form);
    say(form, "");
    showProblem(form, "raw", detail.data?.error ?? "The server answered with an error.");
  });
  $("raw-format").addEventListener("click", () => {
    clearProblems(form);
    try {
      $("raw").value = JSON.stringify(JSON.parse($("raw").value), null, 2);
    } catch (error) {
      showProblem(form, "raw", `This is not JSON: ${error.message}.`);
    }
  });
}

function idOf(text) {
  try {
    const { id } = JSON.parse(text);
    return ["string", "number"].includes(typeof id) ? id : undefined;
  } catch {
    return undefined;
  }
}
