// The problems of plugins in `roomcast dev`: the plugin that could not be loaded, and tracebacks of the log.

import { call } from "./api.js";
import { $, el, page, plural } from "./dom.js";

/** The time between two questions, in milliseconds. */
const INTERVAL = 1500;

/** Ask the server for problems as long as the page is open, and show those that were not dismissed. */
export function setUpProblems() {
  if (!page.dev) return;
  let dismissed = 0;
  let shown = "";
  let latest = { plugin: null, loads: 0, tracebacks: [] };
  /** The number of loads when the page was opened. */
  let firstLoads = null;

  function show() {
    const tracebacks = latest.tracebacks.filter(({ number }) => number > dismissed).reverse();
    const isReloaded = latest.loads !== firstLoads;
    const state = JSON.stringify([latest.plugin, isReloaded, tracebacks.map(({ number }) => number)]);
    if (state === shown) return;
    shown = state;
    $("problems").hidden = !latest.plugin && !tracebacks.length;
    $("problems-title").textContent = latest.plugin
      ? "The plugin cannot be loaded. The server runs without the last change."
      : tracebacks.length && `${plural(tracebacks.length, "failure")} in the log`;
    $("problems-plugin").textContent = latest.plugin ?? "";
    $("problems-plugin").hidden = !latest.plugin;
    $("problems-list").replaceChildren(...tracebacks.map(item));
    $("problems-dismiss").hidden = !tracebacks.length;
    $("reloaded").hidden = !isReloaded;
  }

  async function ask() {
    const { ok, body } = document.hidden ? {} : await call("GET", "console/problems");
    if (ok) {
      latest = body;
      firstLoads ??= latest.loads;
      show();
    }
    setTimeout(ask, INTERVAL);
  }

  $("problems-dismiss").addEventListener("click", () => {
    dismissed = Math.max(dismissed, ...latest.tracebacks.map(({ number }) => number));
    show();
  });
  $("reloaded-now").addEventListener("click", () => location.reload());
  ask();
}

/** The newest traceback is open. Its cause is at its end, so that part is shown first. */
function item({ time, message, traceback }, index) {
  const lines = traceback.trimEnd().split("\n");
  const summary = el("summary", {}, `${time} `, el("strong", { textContent: lines.at(-1) }), ` · ${message}`);
  const text = el("pre", { textContent: traceback, tabIndex: 0 });
  const details = el("details", { open: index === 0 }, summary, text);
  details.addEventListener("toggle", () => (text.scrollTop = text.scrollHeight));
  return el("li", {}, details);
}
