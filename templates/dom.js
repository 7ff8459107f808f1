// Helpers for the DOM. The console sets all text through textContent and never builds markup from strings.

const HUES = 8;

/** The data that the server put into the page: commands, events, rooms, errors and so on. */
export const page = JSON.parse(document.getElementById("page").textContent);

export const $ = (id) => document.getElementById(id);

/**
 * Create an element. `properties` are set as DOM properties; names with a hyphen (data-…, aria-…), `role`, `list` and `for`
 * are set as attributes. `children` are nodes or strings.
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || name === "role" || name === "list" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export const clock = (time) => new Date(time).toTimeString().slice(0, 8);
export const number = (value) => value.toLocaleString("en-US");
export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

/** Return the CSS class with the colour of `room`: the same one each time. */
export function hueClass(room) {
  let sum = 0;
  for (let index = 0; index < room.length; index++) sum = (sum * 31 + room.charCodeAt(index)) >>> 0;
  return `hue-${sum % HUES}`;
}

/** Show `text` at the field `path` of `form`, or else at the nearest enclosing field, or else below the whole form. */
export function showProblem(form, path, text) {
  let field = null;
  for (let parts = path ? path.split(".") : []; parts.length && !field; parts.pop()) {
    field = form.querySelector(`[data-path="${CSS.escape(parts.join("."))}"]`);
  }
  const place = field?.querySelector(":scope > .problem") ?? form.querySelector("[data-whole]");
  place.textContent = place.textContent ? `${place.textContent} ${text}` : text;
  const control = field?.querySelector("input, select, textarea");
  if (!control) return;
  control.setAttribute("aria-invalid", "true");
  const closed = control.closest("details:not([open])");
  if (closed) closed.open = true;
}

/** Show the error {error, code, fields} of a frame or an HTTP response, each field's messages at that field. */
export function showRefusal(form, refusal) {
  const fields = Object.entries(refusal.fields ?? {});
  for (const [path, messages] of fields) {
    const texts = Array.isArray(messages) ? messages : [messages];
    showProblem(form, path, texts.map(asText).join(" "));
  }
  if (!fields.length) showProblem(form, refusal.path ?? "", refusal.error ?? "The request failed.");
  const first = form.querySelector("[aria-invalid]");
  if (first && form.contains(document.activeElement)) first.focus();
}

const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

export function clearProblems(form) {
  for (const problem of form.querySelectorAll(".problem")) problem.textContent = "";
  for (const control of form.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
}

/** Copy `text` to the clipboard, and show the result on `button` for a moment. */
export async function copy(text, button) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages without HTTPS have no clipboard API.
    const area = el("textarea", { value: text, className: "sr" });
    document.body.append(area);
    area.select();
    copied = document.execCommand("copy");
    area.remove();
  }
  const label = button.textContent;
  button.textContent = copied ? "Copied" : "Not copied";
  button.disabled = true;
  setTimeout(() => {
    button.textContent = label;
    button.disabled = false;
  }, 1200);
}

/** Make a tab list work with mouse and keyboard (WAI-ARIA tabs pattern). Return a function that selects a panel by id. */
export function tabs(list) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const select = (selected, focus = true) => {
    for (const tab of all) {
      const isSelected = tab === selected;
      tab.setAttribute("aria-selected", String(isSelected));
      tab.tabIndex = isSelected ? 0 : -1;
      $(tab.getAttribute("aria-controls")).hidden = !isSelected;
    }
    if (focus) selected.focus();
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) select(tab);
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    select(all[(all.indexOf(document.activeElement) + step + all.length) % all.length]);
  });
  return (panel) => select(all.find((tab) => tab.getAttribute("aria-controls") === panel), false);
}

/** Ask the user to confirm an action. Resolves to true if the user confirms. */
export function confirm(title, words, yes) {
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-words").textContent = words;
  $("confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
