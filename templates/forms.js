// Forms generated from JSON Schemas.
//
// They do not validate, because the console shows how the server answers invalid data. An empty field is not sent. A number
// field with other text is sent as a string. Only a JSON field with invalid JSON is refused.

import { el } from "./dom.js";

/** A string field that allows more characters than this is a textarea. */
const LONG_TEXT = 200;
/** Objects that are nested deeper are edited as JSON. */
const MAX_DEPTH = 3;
let lastId = 0;

/** Build the fields of an object `schema`: {element, read}. read() returns {data, problems}, with problems as [path, text]. */
export function buildForm(schema) {
  return buildGroup(schema, schema.$defs ?? {}, "", 0);
}

function buildGroup(schema, defs, prefix, depth) {
  const required = new Set(schema.required ?? []);
  const names = Object.keys(schema.properties ?? {}).filter((name) => !schema.properties[name].readOnly);
  names.sort((one, other) => required.has(other) - required.has(one));
  const fields = names.map((name) => {
    const path = prefix ? `${prefix}.${name}` : name;
    const resolved = resolveSchema(schema.properties[name], defs);
    return { name, ...buildField({ name, schema: resolved, required: required.has(name), defs, path, depth }) };
  });
  const element = el("div", { className: "fields" }, ...fields.map((field) => field.element));
  if (!fields.length && !depth) element.append(el("p", { className: "hint", textContent: "It takes no data." }));
  return { element, read: () => readAll(fields) };
}

function readAll(fields) {
  const data = {};
  const problems = [];
  for (const { name, read } of fields) {
    const { value, problems: found = [] } = read();
    problems.push(...found);
    if (value !== undefined) data[name] = value;
  }
  return { data, problems };
}

/** Return `schema` with its references resolved. A union with null becomes the other type with `nullable`. */
function resolveSchema(schema, defs) {
  let found = schema === true || !schema ? {} : schema;
  if (found.$ref) found = { ...defs[found.$ref.split("/").pop()], ...without(found, "$ref") };
  if (found.allOf?.length === 1) found = { ...resolveSchema(found.allOf[0], defs), ...without(found, "allOf") };
  const choices = found.anyOf ?? found.oneOf;
  if (choices?.some(({ type }) => type === "null")) {
    const others = choices.filter(({ type }) => type !== "null");
    if (others.length === 1) found = { ...resolveSchema(others[0], defs), ...without(found, "anyOf", "oneOf"), nullable: true };
  }
  if (Array.isArray(found.type)) {
    const types = found.type.filter((type) => type !== "null");
    found = { ...found, type: types.length === 1 ? types[0] : undefined, nullable: types.length < found.type.length };
  }
  return found;
}

function without(schema, ...names) {
  return Object.fromEntries(Object.entries(schema).filter(([name]) => !names.includes(name)));
}

function buildField({ name, schema, required, defs, path, depth }) {
  if (schema.type === "object" && schema.properties && depth < MAX_DEPTH) {
    return buildFieldset({ name, required, path, group: buildGroup(schema, defs, path, depth + 1) });
  }
  const id = `field-${++lastId}`;
  const { control, parse } = controlFor(schema, required);
  Object.assign(control, { id, name: path });
  control.setAttribute("aria-describedby", `${id}-hint ${id}-problem`);
  if (required) control.setAttribute("aria-required", "true");
  const label = el("label", { htmlFor: id }, name, " ",
    required ? el("span", { className: "req", textContent: "required" }) : "",
    " ", el("span", { className: "kind", textContent: describeKind(schema, required) }));
  const nullOption = schema.nullable && control.tagName !== "SELECT" ? buildNullOption(control) : null;
  const element = el("div", { className: "field", "data-path": path },
    el("div", { className: "label" }, label, ...(nullOption ? [nullOption.element] : [])), control,
    el("p", { className: "hint", id: `${id}-hint`, textContent: schema.description ?? "" }),
    el("p", { className: "problem", id: `${id}-problem`, role: "alert" }));
  const read = () => (nullOption?.box.checked ? { value: null } : readControl(control, parse, path));
  return { element, read };
}

function buildFieldset({ name, required, path, group }) {
  const legend = el("legend", {}, name, " ", required ? el("span", { className: "req", textContent: "required" }) : "");
  const problem = el("p", { className: "problem", role: "alert" });
  const element = el("fieldset", { className: "field", "data-path": path }, legend, group.element, problem);
  const read = () => {
    const { data, problems } = group.read();
    return { value: required || Object.keys(data).length ? data : undefined, problems };
  };
  return { element, read };
}

/** Build a checkbox that sends null instead of the control's value. */
function buildNullOption(control) {
  const box = el("input", { type: "checkbox" });
  box.addEventListener("change", () => (control.disabled = box.checked));
  return { box, element: el("label", { className: "null" }, box, " null") };
}

function readControl(control, parse, path) {
  if (control.value === "") return { value: undefined };
  try {
    return { value: parse(control.value) };
  } catch (error) {
    return { problems: [[path, `This is not JSON: ${error.message}.`]] };
  }
}

/** Return the control for a value of `schema`, and the function that parses its text. */
function controlFor(schema, required) {
  if (schema.enum) return selectControl(schema.enum, schema, required);
  if (schema.type === "boolean") {
    return selectControl(schema.nullable ? [true, false, null] : [true, false], schema, required);
  }
  if (schema.type === "string") return textControl(schema);
  if (schema.type === "integer" || schema.type === "number") return numberControl(schema);
  const list = schema.type === "array";
  if (list || schema.type === "object") {
    const control = el("textarea", { rows: 2, className: "mono", placeholder: list ? "[…]" : "{…}", spellcheck: false });
    return { control, parse: JSON.parse };
  }
  const control = el("input", { className: "mono", autocomplete: "off", spellcheck: false, value: defaultText(schema) });
  return { control, parse: parseJsonOrText };
}

function selectControl(values, schema, required) {
  const options = values.map((value) => el("option", { value: JSON.stringify(value), textContent: String(value) }));
  const control = el("select", {}, ...options);
  if (!required) control.prepend(el("option", { value: "", textContent: "not sent" }));
  control.value = schema.default !== undefined ? JSON.stringify(schema.default) : required ? options[0]?.value : "";
  return { control, parse: JSON.parse };
}

function textControl(schema) {
  const long = (schema.maxLength ?? 0) > LONG_TEXT;
  const control = long ? el("textarea", { rows: 3 }) : el("input", { autocomplete: "off" });
  control.placeholder = schema.format ?? "";
  control.value = defaultText(schema);
  return { control, parse: (value) => value };
}

function numberControl(schema) {
  const control = el("input", { inputMode: schema.type === "integer" ? "numeric" : "decimal", autocomplete: "off" });
  control.className = "mono";
  control.value = defaultText(schema);
  return { control, parse: (value) => (/^-?\d+(\.\d+)?(e[+-]?\d+)?$/i.test(value.trim()) ? Number(value) : value) };
}

const defaultText = (schema) => (["string", "number"].includes(typeof schema.default) ? String(schema.default) : "");

/** Parse JSON; other text is a string, so that ids need no quotes. */
function parseJsonOrText(value) {
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

/** Describe the values of a field in a few words, such as "optional whole number 1 to 9". */
function describeKind(schema, required) {
  const words = [];
  if (!required) words.push("optional");
  if (schema.enum || schema.type === "boolean") return words.join(" ");
  const types = { string: "text", integer: "whole number", number: "number", array: "JSON list", object: "JSON object" };
  words.push(types[schema.type] ?? "JSON or text");
  const low = schema.minLength ?? schema.minimum ?? schema.minItems ?? schema.exclusiveMinimum;
  const high = schema.maxLength ?? schema.maximum ?? schema.maxItems ?? schema.exclusiveMaximum;
  const bounds = describeRange(low, high);
  if (bounds) words.push(bounds);
  if (schema.minLength !== undefined || schema.maxLength !== undefined) words.push("characters");
  return words.join(" ");
}

function describeRange(low, high) {
  const [min, max] = [low, high].map((bound) => bound?.toLocaleString("en-US"));
  if (min !== undefined && max !== undefined) return `${min} to ${max}`;
  if (min !== undefined) return `at least ${min}`;
  return max !== undefined ? `at most ${max}` : "";
}
