// The log: every frame both ways, filtered, opened to its JSON. The DOM is touched once a frame of the screen, however
// many messages come, and keeps no more rows than MAX; a tab in the background draws nothing at all. Rows stand in chunks,
// for the browser lays out and paints only the chunks in sight: measured in software at 500 messages a second, a frame
// took 28 ms without them, 52 ms with each row left out by itself, and 20 ms so.

import { $, copy, el, number, page, plural } from "./dom.js";

export const MAX = 2000;
const CHUNK = 50;
const MAX_CHOICES = 300;
const SUMMARY = 240;
const NEAR_END = 48;
const HUES = 8;
const ARROWS = { in: ["↓", "received"], out: ["↑", "sent"], note: ["•", "note"] };

/** The log panel. `edit` is called with the text of a frame that is to be sent again. */
export class Log {
  #entries = [];
  #coming = [];
  #shown = 0;
  #missed = 0;
  #paused = false;
  #following = true;
  #due = false;
  #edit;
  #filter = { room: "", type: "", text: "" };
  #rows = $("log-rows");
  #scroll = $("log-scroll");

  constructor(edit) {
    this.#edit = edit;
    this.#scroll.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    $("log-pause").addEventListener("click", () => this.#pause());
    $("log-clear").addEventListener("click", () => this.#clear());
    $("log-latest").addEventListener("click", () => this.#follow());
    $("filter-room").addEventListener("change", () => this.#refilter());
    $("filter-type").addEventListener("change", () => this.#refilter());
    $("filter-text").addEventListener("input", () => this.#refilter());
    document.addEventListener("visibilitychange", () => this.#schedule());
    new ResizeObserver(() => this.#following && this.#follow()).observe(this.#scroll);
    this.#report();
  }

  /** Take in a frame: `direction` is in, out or note; `message` its JSON where it is already parsed. */
  add(direction, text, message) {
    this.#coming.push({ direction, text, message: message ?? parsed(text), time: Date.now(), row: null });
    if (this.#coming.length > MAX) this.#coming.shift();
    this.#schedule();
  }

  /** Add what is no frame: what the connection did, what was asked over HTTP. */
  note(type, text, data, bad = false) {
    this.add("note", JSON.stringify(data), { type, note: text, room: data.room, bad });
  }

  #schedule() {
    if (this.#due || document.hidden) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#draw();
    });
  }

  #draw() {
    if (!this.#paused && this.#coming.length) {
      const fresh = this.#coming;
      this.#coming = [];
      this.#append(fresh);
      this.#drop(this.#entries.length - MAX);
      if (this.#following) this.#scroll.scrollTop = this.#scroll.scrollHeight;
    }
    this.#report();
  }

  #append(fresh) {
    for (const entry of fresh) {
      this.#offer(entry);
      this.#entries.push(entry);
      if (!this.#fits(entry)) continue;
      this.#place(this.#row(entry));
      if (!this.#following) this.#missed++;
    }
  }

  #place(row) {
    let chunk = this.#rows.lastElementChild;
    if (!chunk || chunk.childElementCount >= CHUNK) {
      chunk = el("div", { className: "chunk", role: "presentation" });
      this.#rows.append(chunk);
    }
    chunk.append(row);
    this.#shown++;
  }

  #drop(count) {
    for (const entry of this.#entries.splice(0, Math.max(count, 0))) {
      if (!entry.row) continue;
      const chunk = entry.row.parentElement;
      entry.row.remove();
      if (!chunk.childElementCount) chunk.remove();
      this.#shown--;
    }
  }

  #fits({ message, text }) {
    const { room, type, text: wanted } = this.#filter;
    if (room && message?.room !== room) return false;
    if (type && message?.type !== type) return false;
    return !wanted || `${message?.note ?? ""} ${text}`.toLowerCase().includes(wanted);
  }

  #refilter() {
    this.#filter = {
      room: $("filter-room").value,
      type: $("filter-type").value,
      text: $("filter-text").value.trim().toLowerCase(),
    };
    this.#shown = 0;
    this.#rows.replaceChildren();
    for (const entry of this.#entries) {
      if (this.#fits(entry)) this.#place(entry.row ?? this.#row(entry));
      else entry.row = null;
    }
    this.#follow();
  }

  /** Offer the entry's room and type in the filters. */
  #offer({ message }) {
    for (const [id, value] of [["filter-room", message?.room], ["filter-type", message?.type]]) {
      if (typeof value !== "string") continue;
      const options = $(id).options;
      if (options.length > MAX_CHOICES || [...options].some((option) => option.value === value)) continue;
      const after = [...options].slice(1).find((option) => option.value > value);
      $(id).insertBefore(el("option", { value, textContent: value }), after ?? null);
    }
  }

  #row(entry) {
    const { direction, message, time } = entry;
    const [arrow, said] = ARROWS[direction];
    const room = typeof message?.room === "string" ? message.room : "";
    const tone = message?.type === "error" || message?.bad ? "bad" : direction;
    const details = el("details", {},
      el("summary", {},
        el("time", { textContent: stamp(time), dateTime: new Date(time).toISOString() }),
        el("span", { className: "arrow", textContent: arrow, title: said, role: "img", "aria-label": said }),
        el("span", { className: "type", textContent: shortened(message?.type, 60) || "not JSON" }),
        el("span", { className: room ? `room hue-${hue(room)}` : "room", textContent: room }),
        el("span", { className: "gist", textContent: gist(entry) })));
    details.addEventListener("toggle", () => this.#open(details, entry));
    entry.row = el("div", { className: `row ${tone}`, role: "listitem" }, details);
    return entry.row;
  }

  /** Fill an opened row, the first time, and let it stay where it is read. */
  #open(details, entry) {
    if (!details.open) return;
    this.#following = false;
    this.#report();
    if (details.childElementCount > 1) return;
    const text = pretty(entry);
    const buttons = el("div", { className: "actions" });
    const copying = el("button", { type: "button", className: "quiet small", textContent: "Copy" });
    copying.addEventListener("click", () => copy(text, copying));
    buttons.append(copying);
    if (entry.direction !== "note") {
      const again = el("button", { type: "button", className: "quiet small", textContent: "To Raw JSON" });
      again.addEventListener("click", () => this.#edit(text));
      buttons.append(again);
    }
    buttons.prepend(el("p", { className: "hint", textContent: meaning(entry.message) }));
    details.append(el("div", { className: "raw" }, buttons, el("pre", { textContent: text, tabIndex: 0 })));
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroll;
    this.#following = scrollHeight - scrollTop - clientHeight < NEAR_END;
    if (this.#following) this.#missed = 0;
    this.#report();
  }

  #follow() {
    this.#following = true;
    this.#missed = 0;
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
    this.#report();
  }

  #pause() {
    this.#paused = !this.#paused;
    $("log-pause").setAttribute("aria-pressed", String(this.#paused));
    this.#draw();
  }

  #clear() {
    this.#entries = [];
    this.#coming = [];
    this.#shown = this.#missed = 0;
    this.#rows.replaceChildren();
    this.#report();
  }

  #report() {
    const total = this.#entries.length;
    const waiting = this.#paused && this.#coming.length;
    set("log-count", total ? (this.#shown === total ? number(total) : `${number(this.#shown)} of ${number(total)}`) : "");
    set("nav-count", total ? number(total) : "");
    set("log-pause", this.#paused ? (waiting ? `Resume (${number(waiting)})` : "Resume") : "Pause");
    set("log-latest", this.#missed ? `↓ ${plural(this.#missed, "new frame")}` : "↓ Latest");
    $("log-latest").hidden = this.#following || !this.#shown;
    $("log-empty").hidden = this.#shown > 0;
    set("log-empty", total
      ? "No frame fits the filter. Choose all rooms and types, and empty the text, to see everything."
      : "Nothing was said yet. Connect, join a room such as channel:1, and send a message: every frame shows up here.");
  }
}

/** Set a text only where it changes: assigning it anew costs a layout. */
function set(id, text) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

const shortened = (text, length) => (typeof text === "string" ? text.slice(0, length) : "");

/** What a frame says, in one line: what people wrote, or the error, or the data by name. */
function gist({ message, text }) {
  if (message === null) return text.slice(0, SUMMARY);
  if (message.note !== undefined) return shortened(message.note, SUMMARY);
  const { data } = message;
  if (data === undefined) return "";
  const words = data?.error ?? data?.content ?? data?.title ?? data?.message;
  if (typeof words === "string") {
    const who = message.type === "message" && typeof data.username === "string" ? `${data.username}: ` : "";
    return (who + words).slice(0, SUMMARY);
  }
  if (data === null || typeof data !== "object") return String(data).slice(0, SUMMARY);
  return Object.entries(data).map(([name, value]) => `${name}: ${plain(value)}`).join(", ").slice(0, SUMMARY);
}

const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** What the code of an error means, where it is one of roomcast's own. */
function meaning(message) {
  const code = message?.type === "error" ? message.data?.code : undefined;
  const known = Object.hasOwn(page.errors, code) ? page.errors[code] : null;
  return known ? `${known.meaning}${known.temporary ? " Asking again later may work." : ""}` : "";
}

function pretty({ text }) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function stamp(time) {
  const date = new Date(time);
  return `${date.toTimeString().slice(0, 8)}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** A colour for each room, the same each time. */
export function hue(room) {
  let sum = 0;
  for (let index = 0; index < room.length; index++) sum = (sum * 31 + room.charCodeAt(index)) >>> 0;
  return sum % HUES;
}
