// The Log panel: every frame in both directions, with filters.
//
// The DOM changes at most once per animation frame, and not at all while the tab is in the background. Rows are grouped in
// chunks with `content-visibility: auto`, so that the browser lays out and paints only visible chunks. With software
// rendering at 500 messages per second, an animation frame took 20 ms with chunks, 28 ms without them, and 52 ms with
// `content-visibility` on each row.

import { $, copy, el, hueClass, number, plural } from "./dom.js";
import { errorMeaning, parseObject, prettyJson, summaryOf, timeOfDay, typeOf } from "./frame_text.js";

/** The log keeps this many frames. */
const MAX_ENTRIES = 2000;
const ROWS_PER_CHUNK = 50;
/** Maximum number of rooms or types in a filter. */
const MAX_FILTER_OPTIONS = 300;
/** The log scrolls to new rows if its end is this close, in pixels. */
const NEAR_END = 48;
const ARROWS = { in: ["↓", "received"], out: ["↑", "sent"], note: ["•", "note"] };

/** The log. `onEdit` is called with the text of a frame that the user wants to edit and send again. */
export class Log {
  #entries = [];
  /** Entries that are not drawn yet. */
  #incoming = [];
  /** Number of rows that match the filter. */
  #shownCount = 0;
  /** Number of rows that were added while the log did not scroll to them. */
  #unseenCount = 0;
  #isPaused = false;
  /** True while the log scrolls to new rows. */
  #isFollowing = true;
  #isScheduled = false;
  #onEdit;
  #filter = { room: "", type: "", text: "" };
  #rows = $("log-rows");
  #scroll = $("log-scroll");

  constructor(onEdit) {
    this.#onEdit = onEdit;
    this.#scroll.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    $("log-pause").addEventListener("click", () => this.#togglePause());
    $("log-clear").addEventListener("click", () => this.#clear());
    $("log-latest").addEventListener("click", () => this.#follow());
    $("filter-room").addEventListener("change", () => this.#applyFilter());
    $("filter-type").addEventListener("change", () => this.#applyFilter());
    $("filter-text").addEventListener("input", () => this.#applyFilter());
    document.addEventListener("visibilitychange", () => this.#schedule());
    new ResizeObserver(() => this.#isFollowing && this.#follow()).observe(this.#scroll);
    this.#showCounts();
  }

  /** Add a frame. `direction` is "in", "out" or "note". `message` is the parsed `text`, if the caller has it. */
  add(direction, text, message) {
    this.#incoming.push({ direction, text, message: message ?? parseObject(text), time: Date.now(), row: null });
    if (this.#incoming.length > MAX_ENTRIES) this.#incoming.shift();
    this.#schedule();
  }

  /** Add an entry that is not a frame: an action of the client, or an HTTP request. */
  note(type, text, data, bad = false) {
    this.add("note", JSON.stringify(data), { type, note: text, room: data.room, bad });
  }

  #schedule() {
    if (this.#isScheduled || document.hidden) return;
    this.#isScheduled = true;
    requestAnimationFrame(() => {
      this.#isScheduled = false;
      this.#draw();
    });
  }

  #draw() {
    if (!this.#isPaused && this.#incoming.length) {
      const entries = this.#incoming;
      this.#incoming = [];
      this.#addEntries(entries);
      this.#removeOldest(this.#entries.length - MAX_ENTRIES);
      if (this.#isFollowing) this.#scroll.scrollTop = this.#scroll.scrollHeight;
    }
    this.#showCounts();
  }

  #addEntries(entries) {
    for (const entry of entries) {
      this.#addFilterOptions(entry);
      this.#entries.push(entry);
      if (!this.#matchesFilter(entry)) continue;
      this.#addRow(this.#buildRow(entry));
      if (!this.#isFollowing) this.#unseenCount++;
    }
  }

  #addRow(row) {
    let chunk = this.#rows.lastElementChild;
    if (!chunk || chunk.childElementCount >= ROWS_PER_CHUNK) {
      chunk = el("div", { className: "chunk", role: "presentation" });
      this.#rows.append(chunk);
    }
    chunk.append(row);
    this.#shownCount++;
  }

  #removeOldest(count) {
    for (const entry of this.#entries.splice(0, Math.max(count, 0))) {
      if (!entry.row) continue;
      const chunk = entry.row.parentElement;
      entry.row.remove();
      if (!chunk.childElementCount) chunk.remove();
      this.#shownCount--;
    }
  }

  #matchesFilter({ message, text }) {
    const { room, type, text: searched } = this.#filter;
    if (room && message?.room !== room) return false;
    if (type && message?.type !== type) return false;
    return !searched || `${message?.note ?? ""} ${text}`.toLowerCase().includes(searched);
  }

  #applyFilter() {
    this.#filter = {
      room: $("filter-room").value,
      type: $("filter-type").value,
      text: $("filter-text").value.trim().toLowerCase(),
    };
    this.#shownCount = 0;
    this.#rows.replaceChildren();
    for (const entry of this.#entries) {
      if (this.#matchesFilter(entry)) this.#addRow(entry.row ?? this.#buildRow(entry));
      else entry.row = null;
    }
    this.#follow();
  }

  /** Add the entry's room and type to the filters, in alphabetical order. */
  #addFilterOptions({ message }) {
    for (const [id, value] of [["filter-room", message?.room], ["filter-type", message?.type]]) {
      if (typeof value !== "string") continue;
      const options = $(id).options;
      if (options.length > MAX_FILTER_OPTIONS || [...options].some((option) => option.value === value)) continue;
      const after = [...options].slice(1).find((option) => option.value > value);
      $(id).insertBefore(el("option", { value, textContent: value }), after ?? null);
    }
  }

  #buildRow(entry) {
    const { direction, message, time } = entry;
    const [arrow, arrowLabel] = ARROWS[direction];
    const room = typeof message?.room === "string" ? message.room : "";
    const tone = message?.type === "error" || message?.bad ? "bad" : direction;
    const details = el("details", {},
      el("summary", {},
        el("time", { textContent: timeOfDay(time), dateTime: new Date(time).toISOString() }),
        el("span", { className: "arrow", textContent: arrow, title: arrowLabel, role: "img", "aria-label": arrowLabel }),
        el("span", { className: "type", textContent: typeOf(message) }),
        el("span", { className: room ? `room ${hueClass(room)}` : "room", textContent: room }),
        el("span", { className: "gist", textContent: summaryOf(entry) })));
    details.addEventListener("toggle", () => this.#fillDetails(details, entry));
    entry.row = el("div", { className: `row ${tone}`, role: "listitem" }, details);
    return entry.row;
  }

  /** Fill a row when it is opened for the first time. Stop following, so that the row stays in place while it is read. */
  #fillDetails(details, entry) {
    if (!details.open) return;
    this.#isFollowing = false;
    this.#showCounts();
    if (details.childElementCount > 1) return;
    const text = prettyJson(entry.text);
    const buttons = el("div", { className: "actions" });
    const copying = el("button", { type: "button", className: "quiet small", textContent: "Copy" });
    copying.addEventListener("click", () => copy(text, copying));
    buttons.append(copying);
    if (entry.direction !== "note") {
      const again = el("button", { type: "button", className: "quiet small", textContent: "To Raw JSON" });
      again.addEventListener("click", () => this.#onEdit(text));
      buttons.append(again);
    }
    buttons.prepend(el("p", { className: "hint", textContent: errorMeaning(entry.message) }));
    details.append(el("div", { className: "raw" }, buttons, el("pre", { textContent: text, tabIndex: 0 })));
  }

  #onScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroll;
    this.#isFollowing = scrollHeight - scrollTop - clientHeight < NEAR_END;
    if (this.#isFollowing) this.#unseenCount = 0;
    this.#showCounts();
  }

  #follow() {
    this.#isFollowing = true;
    this.#unseenCount = 0;
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
    this.#showCounts();
  }

  #togglePause() {
    this.#isPaused = !this.#isPaused;
    $("log-pause").setAttribute("aria-pressed", String(this.#isPaused));
    this.#draw();
  }

  #clear() {
    this.#entries = [];
    this.#incoming = [];
    this.#shownCount = this.#unseenCount = 0;
    this.#rows.replaceChildren();
    this.#showCounts();
  }

  #showCounts() {
    const total = this.#entries.length;
    const pending = this.#isPaused && this.#incoming.length;
    const count = this.#shownCount === total ? number(total) : `${number(this.#shownCount)} of ${number(total)}`;
    setText("log-count", total ? count : "");
    setText("nav-count", total ? number(total) : "");
    setText("log-pause", this.#isPaused ? (pending ? `Resume (${number(pending)})` : "Resume") : "Pause");
    setText("log-latest", this.#unseenCount ? `↓ ${plural(this.#unseenCount, "new frame")}` : "↓ Latest");
    $("log-latest").hidden = this.#isFollowing || !this.#shownCount;
    $("log-empty").hidden = this.#shownCount > 0;
    setText("log-empty", total
      ? "No frame fits the filter. Choose all rooms and types, and clear the text, to see every frame."
      : "Nothing was said yet. Connect, join a room such as channel:1, and send a message: every frame appears here.");
  }
}

/** Set the text of an element if it differs. Setting the same text again would cause a layout. */
function setText(id, text) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
}
