// Frames as text for the log. Frames may contain anything, so no field is taken for granted.

import { page } from "./dom.js";

/** Maximum length of a summary, in characters. */
const SUMMARY_LENGTH = 240;
const TYPE_LENGTH = 60;

/** Parse a JSON object. Return null for any other text. */
export function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

export const typeOf = (message) => truncate(message?.type, TYPE_LENGTH) || "not JSON";

const truncate = (text, length) => (typeof text === "string" ? text.slice(0, length) : "");

/** Return one line: the note, the error, the text that a user wrote, or all fields of the data. */
export function summaryOf({ message, text }) {
  if (message === null) return text.slice(0, SUMMARY_LENGTH);
  if (message.note !== undefined) return truncate(message.note, SUMMARY_LENGTH);
  const { data } = message;
  if (data === undefined) return "";
  const words = data?.error ?? data?.content ?? data?.title ?? data?.message;
  if (typeof words === "string") {
    const author = message.type === "message" && typeof data.username === "string" ? `${data.username}: ` : "";
    return (author + words).slice(0, SUMMARY_LENGTH);
  }
  if (data === null || typeof data !== "object") return String(data).slice(0, SUMMARY_LENGTH);
  return Object.entries(data).map(([name, value]) => `${name}: ${plainText(value)}`).join(", ").slice(0, SUMMARY_LENGTH);
}

const plainText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** Return the meaning of a built-in error code, or "" for any other frame. */
export function errorMeaning(message) {
  const code = message?.type === "error" ? message.data?.code : undefined;
  const known = Object.hasOwn(page.errors, code) ? page.errors[code] : null;
  return known ? `${known.meaning}${known.temporary ? " A later attempt may succeed." : ""}` : "";
}

/** Return JSON with indentation. Return any other text unchanged. */
export function prettyJson(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Return the local time as HH:MM:SS.mmm. */
export function timeOfDay(time) {
  const date = new Date(time);
  return `${date.toTimeString().slice(0, 8)}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}
