// Small helpers over the DOM. Text is only ever set as text: no markup is made from strings anywhere in the console.

export const page = JSON.parse(document.getElementById("page").textContent);

export const $ = (id) => document.getElementById(id);

/** Make an element: properties are set as such, `data-…` and `aria-…` as attributes; children are nodes or texts. */
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

/** Show what is wrong beside the field of `path` in `form`, or beside the nearest field around it, or for the whole. */
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

/** Show the refusal of a frame or an HTTP answer: `{error, code, fields}`, each field's messages beside it. */
export function showRefusal(form, refusal) {
  const fields = Object.entries(refusal.fields ?? {});
  for (const [path, messages] of fields) {
    const texts = Array.isArray(messages) ? messages : [messages];
    showProblem(form, path, texts.map(sentence).join(" "));
  }
  if (!fields.length) showProblem(form, refusal.path ?? "", refusal.error ?? "The request failed.");
  const first = form.querySelector("[aria-invalid]");
  if (first && form.contains(document.activeElement)) first.focus();
}

const sentence = (value) => (typeof value === "string" ? value : JSON.stringify(value));

export function clearProblems(form) {
  for (const problem of form.querySelectorAll(".problem")) problem.textContent = "";
  for (const control of form.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
}

/** Copy `text`, and say so on `button` for a moment. Without HTTPS there is no clipboard API; then the old way. */
export async function copy(text, button) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
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

/** Make a tab list work with mouse and keys (WAI-ARIA's pattern); `chosen` is called with the id of a panel. */
export function tabs(list, chosen = () => {}) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const choose = (tab, focus = true) => {
    for (const each of all) {
      const on = each === tab;
      each.setAttribute("aria-selected", String(on));
      each.tabIndex = on ? 0 : -1;
      $(each.getAttribute("aria-controls")).hidden = !on;
    }
    if (focus) tab.focus();
    chosen(tab.getAttribute("aria-controls"));
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) choose(tab);
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(all[(all.indexOf(document.activeElement) + step + all.length) % all.length]);
  });
  return (panel) => choose(all.find((tab) => tab.getAttribute("aria-controls") === panel), false);
}

/** Ask before something that cannot be undone; resolves to whether it was confirmed. */
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
